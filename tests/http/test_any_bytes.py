"""Hypothesis against a live server: bytes that are shrunk when they do harm, and any split.

The server and its client share a loop that runs for one example after the other. What
``test_fuzz.py`` sends is drawn from a seed instead, and there is more of it.
"""

from __future__ import annotations

import asyncio
import io
import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotus_server import DiskStore, Options
from scripts.fuzzing import log
from scripts.fuzzing.answers import parse
from scripts.fuzzing.attacks import Attack
from scripts.fuzzing.bytewise import GARBAGE, TOKENS
from scripts.fuzzing.delivery import Delivery, Way, deliver
from scripts.fuzzing.exchanges import checksum_of
from scripts.fuzzing.honest import Honest
from scripts.fuzzing.judging import Judgement
from scripts.fuzzing.message import Message, chunks

from .client import DataPath, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from scripts.fuzzing.delivery import Outcome, Step

_T = TypeVar("_T")

OPTIONS = Options(read_timeout=timedelta(seconds=1), lock_timeout=timedelta(seconds=2))
AT_ONCE = 5.0  # seconds; a lock that somebody still has is answered 423 before
PATIENCE = 0.02  # seconds without an answer to what may be no request
EXAMPLES = settings(max_examples=200, deadline=None, print_blob=True)
LENGTH = 100

# Requests in pieces: what is drawn of them often makes one that is nearly right.
WORDS = (
    *(b"PATCH %s HTTP/1.1\r\n", b"POST /files/ HTTP/1.1\r\n", b"HEAD %s HTTP/1.1\r\n"),
    *(b"DELETE %s HTTP/1.0\r\n", b"GET %s HTTP/1.1\r\n", b"OPTIONS /files HTTP/1.1\r\n"),
    *(b"Host: x\r\n", b"Tus-Resumable: 1.0.0\r\n", b"Upload-Offset: 0\r\n", b"\r\n", b"\r\n\r\n"),
    *(b"Content-Type: application/offset+octet-stream\r\n", b"Content-Length: 5\r\n", b"hello"),
    *(b"Trailer: Upload-Checksum\r\n", b"Upload-Checksum: ", checksum_of(b"hello") + b"\r\n"),
    *(b"Upload-Concat: ", b"partial\r\n", b"final;%s\r\n", b"Upload-Defer-Length: 1\r\n"),
    *(b"5\r\nhello\r\n", b"0\r\n", b"Upload-Metadata: "),
)
words = st.sampled_from([*WORDS, *TOKENS]) | st.binary(max_size=20)
any_bytes = st.lists(words, max_size=25).map(b"".join) | st.sampled_from(GARBAGE)
cuts = st.lists(st.integers(0, 10**6), max_size=8)


class Live:
    """A server, and the only client it has, on a loop of ``factory``."""

    def __init__(
        self, folder: Path, factory: Callable[[], asyncio.AbstractEventLoop], data_path: DataPath
    ) -> None:
        self._runner = asyncio.Runner(loop_factory=factory)
        self._stack = AsyncExitStack()
        store = DiskStore(folder, durability="none")
        made = serving(store, data_path=data_path, options=OPTIONS)
        self.site = self.run(self._stack.enter_async_context(made))
        self.honest = Honest(f"http://127.0.0.1:{self.site.port}", "/files")

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(coroutine)

    def deliver(self, delivery: Delivery) -> Outcome:
        return self.run(deliver("127.0.0.1", self.site.port, delivery))

    def state(self, path: str) -> tuple[int, int | None] | None:
        """Raises TimeoutError if it is not told at once, and Wrong if it cannot be."""

        async def soon() -> tuple[int, int | None] | None:
            async with asyncio.timeout(AT_ONCE):
                return await self.honest.state(path)

        return self.run(soon())

    def close(self) -> None:
        self.honest.close()
        self.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def live(request: pytest.FixtureRequest, tmp_path: Path, data_path: DataPath) -> Iterator[Live]:
    live = Live(tmp_path / "uploads", request.param, data_path)
    yield live
    live.close()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All that is logged, as the bundled server writes it."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


def steps(data: bytes, places: list[int]) -> tuple[Step, ...]:
    """``data`` cut at ``places``, with a breath behind each piece."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    pieces = [data[start:stop] for start, stop in pairwise(ends)]
    return tuple(step for piece in pieces for step in (piece, 0.001))


@pytest.mark.timeout(300)  # to shrink what fails takes a while
def test_any_bytes_leave_the_server_as_it_was(live: Live, lines: io.StringIO) -> None:
    @EXAMPLES
    @given(any_bytes, cuts, st.sampled_from([Way.WAIT, Way.WAIT, Way.HALF, Way.RESET]))
    def check(data: bytes, places: list[int], way: Way) -> None:
        path = live.run(live.honest.create(LENGTH))
        data = data.replace(b"%s", path.encode())
        delivery = Delivery(steps(data, places), way, data.count(b"HTTP/1."), PATIENCE)
        judgement = Judgement(Attack("any bytes", (delivery,)), [live.deliver(delivery)])
        assert judgement.complaints == []
        state = live.state(path)
        assert state is not None or b"DELETE" in data
        assert state is None or (state[0] <= len(data) and state[1] == LENGTH)
        lines.seek(0)
        assert not log.complaints(lines)

    check()


def requests(path: str, data: bytes) -> list[Message]:
    """One behind the other, they upload ``data`` in three ways, and read it."""
    third = len(data) // 3
    pieces = data[:third], data[third : 2 * third], data[2 * third :]
    messages = [Message(b"PATCH", path.encode()) for _ in pieces]
    for message, offset in zip(messages, (0, third, 2 * third), strict=True):
        message.put(b"Tus-Resumable", b"1.0.0")
        message.put(b"Content-Type", b"application/offset+octet-stream")
        message.put(b"Upload-Offset", b"%d" % offset)
    whole, in_chunks, verified = messages
    for message, piece in ((whole, pieces[0]), (verified, pieces[2])):
        message.put(b"Content-Length", b"%d" % len(piece))
        message.body = piece
    in_chunks.put(b"Transfer-Encoding", b"chunked")
    in_chunks.put(b"Trailer", b"Upload-Checksum")
    trailers = [(b"Upload-Checksum", checksum_of(pieces[1]))]
    in_chunks.body = chunks(pieces[1][:7], pieces[1][7:], trailers=trailers)
    verified.put(b"Upload-Checksum", checksum_of(pieces[2], "sha256"))
    messages += [Message(b"OPTIONS", b"/files"), Message(b"GET", path.encode())]
    for message in messages:
        message.put(b"Host", b"localhost")
    return messages


@pytest.mark.timeout(300)
def test_any_split_of_a_pipeline_is_answered_the_same(live: Live) -> None:
    @settings(EXAMPLES, max_examples=50)
    @given(st.sampled_from([0, 5, 1000, 40_000, 400_000]), st.integers(0, 255), cuts)
    def check(size: int, first: int, places: list[int]) -> None:
        data = bytes((first + number) % 251 for number in range(size))
        path = live.run(live.honest.create(size))
        messages = requests(path, data)
        sent = b"".join(message.encode() for message in messages)
        delivery = Delivery(steps(sent, places), Way.WAIT, len(messages), patience=5.0)
        outcome = live.deliver(delivery)
        assert not outcome.ended_first
        answers = parse(outcome.received, heads=False)
        assert [answer.status for answer in answers] == [204, 204, 204, 204, 200]
        assert answers[-1].body == data
        assert live.state(path) == (size, size)

    check()
