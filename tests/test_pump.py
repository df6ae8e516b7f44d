"""The pump's economy with connections that bring little: when it looks, and in which threads."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from aiotus_server import pump as pump_module
from aiotus_server import threads
from aiotus_server.pace import Pace
from aiotus_server.pump import GATHER_TIMES, SPREAD, Pump

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1024 * 1024


class Kept:
    """A writer into memory."""

    held = b""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, pieces: Sequence[bytes | memoryview], *, last: bool) -> None:
        for piece in pieces:
            self.written += piece

    def finish(self) -> None: ...


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def pump(connection: socket.socket) -> Pump:
    return Pump(connection, 64 * MIB, lambda: False, Pace(0, 1.0))


async def take(pumped: Pump, writer: Kept) -> int:
    return await pumped.copy(writer, 64 * MIB, {}, 60.0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds for which pumps would have gathered; they wait for none of them."""
    waits: list[float] = []

    async def note(self: Pump, watermark: int, end: float) -> bool:
        if watermark > 1:
            waits.append(end - asyncio.get_running_loop().time())
        return True

    monkeypatch.setattr(Pump, "_wait", note)
    return waits


async def test_those_served_together_do_not_come_together_again(
    pair: tuple[socket.socket, socket.socket], waits: list[float]
) -> None:
    pumped, writer = pump(pair[0]), Kept()
    for _ in range(50):
        pair[1].send(b"a little")
        await take(pumped, writer)
    longest = GATHER_TIMES[1]
    steady = waits[10:]  # when the time has grown to its most
    assert all(longest * (1 - SPREAD) - 0.01 <= seconds <= longest for seconds in steady)
    assert max(steady) - min(steady) > longest * SPREAD / 2


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that pumps have asked, in their order."""
    used: list[str] = []
    for name in ("small", "pumping"):
        pool = getattr(threads, name)

        async def run(*job: object, name: str = name, pool: threads.Threads = pool) -> object:
            used.append(name)
            return await pool.submit(*job)  # type: ignore[arg-type]

        monkeypatch.setattr(pool, "run", run)
    return used


@pytest.mark.parametrize(
    ("sizes", "then"),
    [
        pytest.param([100, 100, 100], "small", id="slow"),
        pytest.param([100_000, 100_000, 100_000], "pumping", id="fast"),
        pytest.param([100, 100, 130_000, 100], "pumping", id="slow and then fast"),
    ],
)
async def test_only_what_comes_fast_is_worth_a_pumping_thread(
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    used: list[str],
    sizes: list[int],
    then: str,
) -> None:
    monkeypatch.setattr(pump_module, "GATHER_TIMES", (0.001, 0.004))
    pumped, writer = pump(pair[0]), Kept()
    sent = b""
    for size in sizes:
        piece = bytes(range(100)) * (size // 100)
        pair[1].sendall(piece)
        sent += piece
        while len(writer.written) < len(sent):
            await take(pumped, writer)
    assert bytes(writer.written) == sent
    assert used[0] == "pumping"
    assert used[-1] == then


async def test_silence_is_noticed_in_time(
    pair: tuple[socket.socket, socket.socket], waits: list[float]
) -> None:
    """However slowly bytes come, nobody waits for more of them for most of the time out."""
    pumped, writer = pump(pair[0]), Kept()
    for _ in range(10):
        pair[1].send(b"a little")
        await pumped.copy(writer, 64 * MIB, {}, 3.0)
    assert max(waits) <= 0.1 * 3.0
