from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server import body as body_module
from aiotus_server.body import IOV_MAX, SMALL_BODY, Body, EmptySource, Source, write_all
from aiotus_server.protocol.checksum import (
    Checksum,
    TrailingChecksum,
    Verification,
    parse_checksum,
)
from aiotus_server.protocol.errors import (
    BodyCutShort,
    BodyMalformed,
    BodyTooLong,
    ChecksumGivenTwice,
    ChecksumMalformed,
    ChecksumMismatch,
    ChecksumTrailerMissing,
    MaxSizeExceeded,
    TusError,
    UploadDisplaced,
)
from aiotus_server.stores.writing import PAGE, FileWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Scripted(Source):
    """Gives out what it was given: bytes, None for a pause, an error to end with."""

    def __init__(
        self,
        *script: bytes | TusError | None,
        length: int | None = None,
        arrived: bool = False,
        trailer: str | TusError | None = None,
    ) -> None:
        self.length = length
        self.reads = 0
        self._script = list(script)
        self._arrived = arrived
        self._trailer = trailer

    async def read(self, patience: float | None = None) -> bytes | None:
        self.reads += 1
        if self.interrupted is not None:
            raise self.interrupted
        if not self._script:
            return b""
        item = self._script.pop(0)
        if item is None and patience is not None:
            await asyncio.sleep(patience)
            return None
        if isinstance(item, TusError):
            raise item
        return item or await self.read(patience)

    def read_whole(self) -> list[bytes] | None:
        if not self._arrived:
            return None
        whole, self._script = self._script, []
        return [piece for piece in whole if isinstance(piece, bytes)]

    def trailing_checksum(self) -> Checksum | None:
        if isinstance(self._trailer, TusError):
            raise self._trailer
        return None if self._trailer is None else parse_checksum(self._trailer, ("sha1", "md5"))


def digest(data: bytes, name: str = "sha1") -> Checksum:
    return Checksum(name, hashlib.new(name, data).digest())


def text(data: bytes, name: str = "sha1") -> str:
    return f"{name} {base64.b64encode(hashlib.new(name, data).digest()).decode()}"


def make(source: Source, limit: int = 1000, **kwargs: Any) -> Body:
    return Body(source, limit=limit, algorithms=("sha1", "md5"), **kwargs)


async def by_pieces(body: Body, folder: Path) -> bytes:
    return b"".join([piece async for piece in body])


async def by_copy(body: Body, folder: Path) -> bytes:
    target = folder / "target"
    with target.open("wb") as file:
        await body.copy_to(FileWriter(file.fileno(), 0))
    return target.read_bytes()


each_way = pytest.mark.parametrize("pull", [by_pieces, by_copy])


@each_way
async def test_all_bytes_in_their_order(pull: Any, tmp_path: Path) -> None:
    body = make(Scripted(b"a", None, b"bc", b"", b"def"))
    assert await pull(body, tmp_path) == b"abcdef"
    assert (body.received, body.error, body.consumed) == (6, None, True)


@each_way
async def test_no_bytes(pull: Any, tmp_path: Path) -> None:
    body = make(EmptySource())
    assert await pull(body, tmp_path) == b""
    assert (body.received, body.error, body.consumed) == (0, None, True)


@each_way
@pytest.mark.parametrize("error", [BodyCutShort(), BodyMalformed()])
async def test_a_body_that_fails_ends_early_and_keeps_its_error(
    pull: Any, tmp_path: Path, error: TusError
) -> None:
    body = make(Scripted(b"ab", error, b"never"))
    assert await pull(body, tmp_path) == b"ab"
    assert body.error is error
    assert body.consumed


@each_way
@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([b"abc", b"de"], b"abcde"),
        ([b"abcde"], b"abcde"),
        ([b"abc", b"def"], b"abcde"),
        ([b"abcde", b"f"], b"abcde"),
        ([b"abcdef"], b"abcde"),
    ],
)
async def test_no_byte_behind_the_limit(
    pull: Any, tmp_path: Path, pieces: list[bytes], kept: bytes
) -> None:
    body = make(Scripted(*pieces), limit=5)
    assert await pull(body, tmp_path) == kept
    assert body.received == 5
    too_long = len(b"".join(pieces)) > 5
    assert isinstance(body.error, BodyTooLong) is too_long


async def test_the_error_for_too_much_is_the_servers_choice(tmp_path: Path) -> None:
    error = MaxSizeExceeded(5)
    body = make(Scripted(b"abcdef"), limit=5, too_long=error)
    await by_pieces(body, tmp_path)
    assert body.error is error


async def test_nothing_is_read_once_there_is_too_much(tmp_path: Path) -> None:
    source = Scripted(b"abcdef", b"g", b"h")
    body = make(source, limit=5)
    await by_pieces(body, tmp_path)
    assert source.reads == 1


@each_way
async def test_an_interruption_ends_it(pull: Any, tmp_path: Path) -> None:
    source = Scripted(b"ab", b"cd")
    body = make(source)
    first, second = UploadDisplaced(), UploadDisplaced()
    body.interrupt(first)
    body.interrupt(second)
    assert await pull(body, tmp_path) == b""
    assert body.error is first


# Checksums

DATA = b"hello world"
RIGHT, WRONG = digest(DATA), digest(b"other")


@each_way
@pytest.mark.parametrize("pieces", [[DATA], [b"hello", b" world"], [b"x" * 20_000, b"y" * 300_000]])
async def test_the_right_checksum(pull: Any, tmp_path: Path, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    body = make(Scripted(*pieces), limit=10**6, verification=digest(data))
    assert body.atomic
    assert await pull(body, tmp_path) == data
    assert body.error is None


@each_way
async def test_another_checksum(pull: Any, tmp_path: Path) -> None:
    body = make(Scripted(DATA), verification=WRONG)
    await pull(body, tmp_path)
    assert isinstance(body.error, ChecksumMismatch)
    assert body.atomic


@each_way
async def test_a_checksum_does_not_hide_why_a_body_ended(pull: Any, tmp_path: Path) -> None:
    error = BodyCutShort()
    body = make(Scripted(DATA, error), verification=RIGHT)
    await pull(body, tmp_path)
    assert body.error is error


TRAILERS: list[tuple[Verification, str | TusError | None, type[TusError] | None]] = [
    (None, None, None),
    (TrailingChecksum(), text(DATA), None),
    (TrailingChecksum(), text(DATA, "md5"), None),
    (TrailingChecksum(), text(b"other"), ChecksumMismatch),
    (TrailingChecksum(), None, ChecksumTrailerMissing),
    (TrailingChecksum(), ChecksumMalformed("it is bad"), ChecksumMalformed),
    (None, ChecksumMalformed("it is bad"), ChecksumMalformed),
    (RIGHT, text(DATA), ChecksumGivenTwice),
]


@each_way
@pytest.mark.parametrize(("verification", "trailer", "error"), TRAILERS)
async def test_trailers(
    pull: Any,
    tmp_path: Path,
    verification: Verification,
    trailer: str | TusError | None,
    error: type[TusError] | None,
) -> None:
    body = make(Scripted(DATA, trailer=trailer), verification=verification)
    await pull(body, tmp_path)
    assert isinstance(body.error, error or type(None))
    assert body.atomic or body.error is None
    assert body.late_checksum is None


@each_way
async def test_a_trailer_that_nothing_announced_is_left_to_the_server(
    pull: Any, tmp_path: Path
) -> None:
    body = make(Scripted(DATA, trailer=text(b"other")))
    assert not body.atomic
    assert await pull(body, tmp_path) == DATA
    assert body.late_checksum == digest(b"other")
    assert body.error is None


@each_way
async def test_a_body_cut_short_has_no_trailer(pull: Any, tmp_path: Path) -> None:
    body = make(Scripted(DATA, BodyCutShort(), trailer=ChecksumMalformed("never asked")))
    await pull(body, tmp_path)
    assert isinstance(body.error, BodyCutShort)


# Bodies in memory


def test_a_body_that_has_arrived_is_taken_whole() -> None:
    body = make(Scripted(b"ab", b"cd", arrived=True))
    assert body.buffered()
    assert body.buffered()
    assert not body.consumed
    assert body.take() == [b"ab", b"cd"]
    assert (body.received, body.error, body.consumed) == (4, None, True)


def test_a_body_under_way_is_not_taken() -> None:
    source = Scripted(b"ab")
    assert not make(source).buffered()
    assert source.reads == 0


def test_taken_bytes_do_not_pass_the_limit_either() -> None:
    body = make(Scripted(b"abc", b"def", b"ghi", arrived=True), limit=5)
    assert body.buffered()
    assert body.take() == [b"abc", b"de"]
    assert isinstance(body.error, BodyTooLong)


@pytest.mark.parametrize(
    ("verification", "trailer", "error"),
    [
        (RIGHT, None, None),
        (WRONG, None, ChecksumMismatch),
        *TRAILERS,
        # In memory nothing has to be read again.
        (None, text(DATA), None),
        (None, text(b"other"), ChecksumMismatch),
    ],
)
def test_taken_bytes_are_verified_and_none_are_given_if_wrong(
    verification: Verification, trailer: str | TusError | None, error: type[TusError] | None
) -> None:
    body = make(Scripted(DATA, arrived=True, trailer=trailer), verification=verification)
    assert body.buffered()
    assert body.take() == ([DATA] if error is None else [])
    assert isinstance(body.error, error or type(None))
    assert body.atomic or body.error is None
    assert body.late_checksum is None


def test_too_much_under_a_checksum_gives_nothing() -> None:
    body = make(Scripted(DATA, arrived=True), limit=5, verification=RIGHT)
    assert body.buffered()
    assert body.take() == []
    assert isinstance(body.error, BodyTooLong)


async def test_a_small_body_is_waited_for() -> None:
    body = make(Scripted(b"ab", b"cd", length=4))
    await body.settle()
    assert body.buffered()
    assert body.take() == [b"ab", b"cd"]


async def test_a_small_body_that_does_not_come_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(body_module, "GATHER_TIME", 0.01)
    body = make(Scripted(b"ab", None, None, None, b"cd", length=4))
    await body.settle()
    assert not body.buffered()
    assert await by_pieces(body, tmp_path) == b"abcd"


@pytest.mark.parametrize("length", [None, SMALL_BODY + 1])
async def test_large_bodies_are_not_waited_for(length: int | None) -> None:
    source = Scripted(b"ab", length=length)
    await make(source).settle()
    assert source.reads == 0


async def test_a_small_body_cut_short_while_it_is_waited_for(tmp_path: Path) -> None:
    body = make(Scripted(b"ab", BodyCutShort(), length=4))
    await body.settle()
    assert body.buffered()
    assert body.take() == [b"ab"]
    assert isinstance(body.error, BodyCutShort)


# Writing


async def test_bytes_go_where_they_belong(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"0123456789")
    with target.open("r+b") as file:
        await make(Scripted(b"ab", b"c")).copy_to(FileWriter(file.fileno(), 4))
    assert target.read_bytes() == b"0123abc789"


async def test_pieces_of_a_slow_body_are_written_before_it_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(body_module, "GATHER_TIME", 0.01)
    target, page = tmp_path / "target", b"x" * PAGE

    class Withholding(Scripted):
        """Does not give out its end before the beginning is in the file."""

        async def read(self, patience: float | None = None) -> bytes | None:
            if len(self._script) == 1:
                async with asyncio.timeout(10):
                    while target.read_bytes() != page:
                        await asyncio.sleep(0.001)
            return await super().read(patience)

    with target.open("wb") as file:
        source = Withholding(page + b"ab", None, None, None, None, b"cd")
        await make(source, limit=2 * PAGE).copy_to(FileWriter(file.fileno(), 0))
    assert target.read_bytes() == page + b"abcd"


async def test_many_small_pieces_are_gathered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writes: list[str] = []
    pwritev = os.pwritev

    def count(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        writes.append(threading.current_thread().name)
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", count)
    pieces = [b"%04d" % number for number in range(3000)]
    assert await by_copy(make(Scripted(*pieces), limit=10**6), tmp_path) == b"".join(pieces)
    assert len(writes) <= -(-len(pieces) // IOV_MAX)
    assert threading.current_thread().name not in writes


async def test_a_disk_that_refuses_is_an_oserror_and_what_was_written_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pwritev = os.pwritev

    def fill(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset + len(buffers[0]) > 500_000:
            raise OSError(errno.ENOSPC, "full")
        return pwritev(fd, buffers[:1], offset)

    monkeypatch.setattr(os, "pwritev", fill)
    source = Scripted(*[b"x" * 100_000] * 20)
    with pytest.raises(OSError, match="full"):
        await by_copy(make(source, limit=10**7), tmp_path)
    assert (tmp_path / "target").stat().st_size == 500_000


@given(
    st.lists(st.binary(max_size=10), max_size=8),
    st.integers(0, 5),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_short_writes_are_gone_on_with(pieces: list[bytes], offset: int, steps: list[int]) -> None:
    written, turn = bytearray(b"." * offset), 0

    def little(fd: int, buffers: Sequence[memoryview], at: int) -> int:
        nonlocal turn
        turn += 1
        data = b"".join(buffers)[: steps[turn % len(steps)]]
        assert at == len(written)
        written.extend(data)
        return len(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", little)
        write_all(-1, pieces, offset)
    assert bytes(written) == b"." * offset + b"".join(pieces)


def test_more_pieces_than_one_call_takes(tmp_path: Path) -> None:
    pieces = [b"%05d" % number for number in range(2 * IOV_MAX + 1)]
    target = tmp_path / "target"
    with target.open("wb") as file:
        write_all(file.fileno(), pieces, 0)
    assert target.read_bytes() == b"".join(pieces)


@each_way
async def test_progress_tells_the_bytes_received(pull: Any, tmp_path: Path) -> None:
    told: list[int] = []

    async def progress(received: int) -> None:
        told.append(received)

    body = make(Scripted(b"ab", b"cd", BodyCutShort()), progress=progress)
    await pull(body, tmp_path)
    assert told == sorted(told)
    assert told[-1] == 4


scripts = st.lists(st.binary(max_size=6), max_size=8)


@given(scripts, st.integers(0, 20), st.booleans(), st.booleans())
def test_however_a_body_is_pulled_it_is_the_same(
    script: list[bytes], limit: int, cut: bool, arrived: bool
) -> None:
    sent = b"".join(script)
    expected = "BodyTooLong" if len(sent) > limit else "BodyCutShort" if cut else "NoneType"

    async def pull() -> None:
        ending = [BodyCutShort()] if cut and not arrived else []
        body = make(Scripted(*script, *ending, length=len(sent)), limit=limit)
        await body.settle()
        assert b"".join([piece async for piece in body]) == sent[:limit]
        assert body.received == min(len(sent), limit)
        assert type(body.error).__name__ == expected

    def take() -> None:
        body = make(Scripted(*script, arrived=True), limit=limit)
        assert body.buffered()
        assert b"".join(body.take()) == sent[:limit]
        assert isinstance(body.error, BodyTooLong) is (len(sent) > limit)

    if arrived:
        take()
    else:
        asyncio.run(pull())
