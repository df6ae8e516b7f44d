"""How bytes get to the server: in any split, and with any end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, cast

from .answers import complete_answers
from .exchanges import cut

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

# Seconds in which the server must have closed a connection on which it has nothing to wait for.
BOUND = 15.0
# Seconds to wait for an answer to what may be no request at all.
QUIET = 0.15


class Way(Enum):
    """What the client does when all bytes are sent."""

    WAIT = "wait"  # for the answers; then it closes its half, and waits for the other one
    HALF = "half"  # closes its half at once
    RESET = "reset"
    HANG = "hang"  # says nothing more: it is for the server to end it


Step = bytes | float  # bytes to send, seconds to pause


@dataclass(frozen=True, slots=True)
class Delivery:
    """``steps`` one after the other, then ``way``. ``answers`` is how many are hoped for, each
    for ``patience`` seconds."""

    steps: tuple[Step, ...]
    way: Way
    answers: int = 1
    patience: float = QUIET

    @property
    def sent(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back.

    closed: the server closed in time, or was not waited for.
    ended_first: it did so before the client closed its half.
    refused: there was no connection at all.
    """

    received: bytes
    closed: bool
    ended_first: bool = False
    refused: bool = False


def split(chance: random.Random, data: bytes) -> tuple[Step, ...]:
    """In one piece, mostly; in some; or byte by byte."""
    way = chance.random()
    if way < 0.6 or len(data) < 2:
        return (data,)
    if way < 0.65 and len(data) <= 600:
        return tuple(data[at : at + 1] for at in range(len(data)))
    steps: list[Step] = []
    for piece in cut(chance, data, 5):
        steps += [piece, chance.choice([0.0, 0.0, 0.001, 0.01])]
    return tuple(steps)


class _Wire(asyncio.Protocol):
    """One connection: what has come, and whether more may come."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False  # the server will send no more
        self._waiter: asyncio.Event = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connected = self.transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._waiter.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._waiter.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._waiter.set()

    async def news(self, seconds: float) -> bool:
        """Whether anything came within that time."""
        self._waiter.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiter.wait()
                return True
        return False

    async def end(self, seconds: float) -> bool:
        """Whether the server ended the connection within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self.news(seconds)
        return self.ended

    def half_close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()

    def reset(self) -> None:
        """Not a word of what is still in the buffer."""
        fd = self.transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def deliver(host: str, port: int, delivery: Delivery) -> Outcome:
    """Never raises for what the server does."""
    try:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(BOUND):
            _, wire = await loop.create_connection(_Wire, host, port)
    except (OSError, TimeoutError):
        return Outcome(b"", closed=False, refused=True)
    try:
        await _send(wire, delivery.steps)
        if delivery.way is Way.WAIT:
            await _answers(wire, delivery)
        ended_first = wire.ended
        closed = await _end(wire, delivery.way)
        return Outcome(bytes(wire.received), closed, ended_first)
    finally:
        wire.transport.abort()


async def _send(wire: _Wire, steps: Sequence[Step]) -> None:
    for step in steps:
        if wire.transport.is_closing():
            return
        if isinstance(step, bytes):
            wire.transport.write(step)
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(step)


async def _answers(wire: _Wire, delivery: Delivery) -> None:
    """Until so many have come, or nothing comes any more."""
    while complete_answers(bytes(wire.received)) < delivery.answers and not wire.ended:
        if not await wire.news(delivery.patience):
            break


async def _end(wire: _Wire, way: Way) -> bool:
    if way is Way.RESET:
        wire.reset()
        return True
    if way is not Way.HANG:
        wire.half_close()
    return await wire.end(BOUND)
