"""The bytes of one request, from where they come to where the store wants them.

A store pulls. A body that fails *ends early* and keeps its error: the store writes what came,
as always, and the server raises afterwards. So "store as much as possible" costs no line in
any store.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from . import threads
from .protocol.checksum import Checksum, Hasher, TrailingChecksum, Verification, hashers_for
from .protocol.errors import (
    BodyTooLong,
    ChecksumGivenTwice,
    ChecksumMismatch,
    ChecksumTrailerMissing,
    TusError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

# A piece is worth a hop to a thread when it has this many bytes, or has waited this long.
GATHER_SIZE = 256 * 1024  # bytes
GATHER_TIME = 0.1  # seconds
# While one is being written, so many bytes are gathered for the next.
MOST_GATHERED = 1024 * 1024  # bytes
# A small body is waited for, so that it is stored in one hop.
SMALL_BODY = 64 * 1024  # bytes
# Hashing fewer bytes than this takes less time than a hop.
INLINE_HASH = 16 * 1024  # bytes
IOV_MAX = 1024


class Source(ABC):
    """Where the bytes of one request come from: the connection's half of a body.

    ``length`` is the number of bytes announced, None when they come in chunks.
    """

    length: int | None = None
    # Bodies of which so many bytes are still to come may be pumped; None: none at all.
    direct_from: int | None = None
    interrupted: TusError | None = None
    spent = False  # the bytes have been stored; what goes on is not about them
    given = 0  # bytes so far

    @abstractmethod
    async def read(self, patience: float | None = None) -> bytes | None:
        """What has come, b"" at the end, None if nothing came for ``patience`` seconds.

        Raises the TusError for which the bytes end early: BodyCutShort, BodyMalformed,
        BodyTimedOut, or what ``interrupt`` was given. Bytes that had arrived before are given
        out first.
        """

    @abstractmethod
    def read_whole(self) -> list[bytes] | None:
        """All of the bytes if all have arrived, else None and nothing is taken."""

    def interrupt(self, error: TusError) -> None:
        """Have the bytes end now, with ``error``: a ``read`` under way and all later ones raise
        it. The first interruption stands."""
        if self.interrupted is None:
            self.interrupted = error

    def trailing_checksum(self) -> Checksum | None:
        """The checksum in the trailer, after the end. Raises TusError when it is malformed."""
        return None

    async def take_over(self) -> list[bytes] | None:
        """Have the rest come by ``pump`` instead of ``read``: what has already arrived.

        None if that cannot be done or is not worth it. Else ``give_back`` must follow.
        """
        return None

    async def pump(
        self,
        writer: Writer,
        limit: int,
        hashers: Mapping[str, Hasher],
        before: Sequence[bytes] = (),
    ) -> int:
        """Give ``writer`` ``before``, and behind it what comes next, ``limit`` bytes of that at
        most, and feed it all to ``hashers``: the number of bytes that came, at least one.

        Raises TusErrors as ``read`` does when ``before`` has been given, and OSError when the
        disk refuses.
        """
        raise NotImplementedError

    def give_back(self) -> None:  # noqa: B027 - most have nothing to give back
        """Nothing more will be pumped, whether or not the end has come."""


class EmptySource(Source):
    """No bytes at all."""

    length = 0

    async def read(self, patience: float | None = None) -> bytes | None:
        return b""

    def read_whole(self) -> list[bytes] | None:
        return []


class Writer(Protocol):
    """Where a body is written to, behind what was written before. Blocking: for threads."""

    @property
    def held(self) -> bytes:
        """What it was given and has not written."""

    def write(self, pieces: Sequence[bytes | memoryview], *, last: bool) -> None:
        """``last`` says that nothing will follow. Raises OSError. ``pieces`` change afterwards."""

    def finish(self) -> None:
        """Write what was held back."""


class Body:
    """The bytes that an upload is given by one request, ``limit`` at most.

    ``received`` counts what was given out. ``error`` is None until the end, and then if the
    body was whole and its checksum right. Of an ``atomic`` body (it has a checksum) the bytes
    only count once it has ended without an error.

    What takes it must leave ``reserve`` bytes free where it stores them, if it can.

    ``late_checksum`` is one that came in a trailer that nothing had announced, when the
    bytes had gone already: it has not been compared.
    """

    error: TusError | None = None
    received = 0
    late_checksum: Checksum | None = None
    _ended = False
    _verified = False

    def __init__(
        self,
        source: Source,
        *,
        limit: int,
        too_long: TusError | None = None,
        verification: Verification = None,
        algorithms: Sequence[str] = (),
        progress: Callable[[int], Awaitable[None]] | None = None,
        reserve: int = 0,
    ) -> None:
        self.reserve = reserve
        self.atomic = verification is not None
        self._source = source
        self._limit = limit
        self._too_long = too_long
        self._verification = verification
        self._hashers: Mapping[str, Hasher] = hashers_for(verification, algorithms)
        self._progress = progress
        self._held: list[bytes] = []  # taken from the source, not given out yet

    @property
    def length(self) -> int | None:
        """Of the whole body, in bytes, if it was told beforehand."""
        return self._source.length

    @property
    def consumed(self) -> bool:
        """Nothing is left to be pulled."""
        return self._ended and not self._held

    def interrupt(self, error: TusError) -> None:
        """Have the body end early."""
        self._source.interrupt(error)

    async def settle(self) -> None:
        """Give a small body that is not yet ``buffered`` a moment to arrive whole."""
        length, direct_from = self._source.length, self._source.direct_from
        if length is None or length > SMALL_BODY:
            return
        if direct_from is not None and length >= direct_from:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GATHER_TIME
        while not self._ended and (patience := deadline - loop.time()) > 0:
            if piece := await self._pull(patience):
                self._held.append(piece)

    def buffered(self) -> bool:
        """Whether the whole body is in memory, so that ``take`` has all of it."""
        if not self._ended:
            pieces = self._source.read_whole()
            if pieces is not None:
                self._held += [kept for piece in pieces if (kept := self._accept(piece))]
                self._ended = True
        return self._ended

    def take(self) -> list[bytes]:
        """The pieces of a body that is ``buffered``; none if it is atomic and not right.

        Hashes: call it in a thread. Look at ``error`` afterwards.
        """
        pieces, self._held = self._held, []
        if self._hashers:
            self._hash(pieces)
        self._verify(pieces)
        return [] if self.atomic and self.error else pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        held, self._held = self._held, []
        for piece in held:
            await hash_somewhere(self._hashers, piece)
            yield piece
        await self.report()
        while not self._ended:
            if pulled := await self._pull(None):
                await hash_somewhere(self._hashers, pulled)
                yield pulled
                await self.report()
        self._verify()

    async def report(self) -> None:
        """Tell of the progress, which is heard now and then only."""
        if self._progress is not None:
            await self._progress(self.received)

    async def copy_to(self, writer: Writer) -> None:
        """Give the body to ``writer``, in threads, hashing while it passes.

        Raises OSError when the disk refuses; what was written before stays written.
        """
        pieces = None if self._ended else await self._source.take_over()
        if pieces is None:
            await self._copy_pieces(writer)
        else:
            try:
                await self._copy_pumped(writer, pieces)
            finally:
                self._source.give_back()
        if writer.held:
            await threads.quick.run(writer.finish)
        self._verify()

    async def _copy_pumped(self, writer: Writer, pieces: Sequence[bytes]) -> None:
        held, self._held = self._held, []
        held += [kept for piece in pieces if (kept := self._accept(piece))]
        await self.report()
        while not self._ended:
            if self.received == self._source.length:
                self._ended = True
            elif self.received == self._limit:
                self._end_too_long()
            else:
                await self._pump_some(writer, held)
                held = []
            await self.report()
        if held:
            await threads.quick.run(self._hash_and_write, writer, held, True)

    async def _pump_some(self, writer: Writer, held: Sequence[bytes]) -> None:
        room = self._limit - self.received
        try:
            self.received += await self._source.pump(writer, room, self._hashers, held)
        except TusError as error:
            self._end(error)

    async def _copy_pieces(self, writer: Writer) -> None:
        """While one batch is written in a thread, the next is received."""
        loop = asyncio.get_running_loop()
        batch, self._held = self._held, []
        size = sum(map(len, batch))
        due = loop.time() + GATHER_TIME
        writing: asyncio.Future[None] | None = None
        try:
            while batch or not self._ended:
                if not self._ended:
                    patience = max(due - loop.time(), 0.001) if batch else None
                    if piece := await self._pull(patience):
                        if not batch:
                            due = loop.time() + GATHER_TIME
                        batch.append(piece)
                        size += len(piece)
                busy = writing is not None and not writing.done()
                enough = size >= (MOST_GATHERED if busy else GATHER_SIZE)
                if batch and (enough or self._ended or loop.time() >= due):
                    if writing is not None:
                        await writing
                    writing = threads.quick.submit(self._hash_and_write, writer, batch, self._ended)
                    batch, size = [], 0
                    await self.report()
        finally:
            if writing is not None:
                await writing

    def _hash_and_write(self, writer: Writer, pieces: list[bytes], last: bool) -> None:
        writer.write(pieces, last=last)
        self._hash(pieces)

    async def _pull(self, patience: float | None) -> bytes | None:
        """The next piece, as much of it as fits; nothing at the end, or after ``patience``."""
        try:
            piece = await self._source.read(patience)
        except TusError as error:
            self._end(error)
            return None
        if piece is None:
            return None
        if not piece:
            self._ended = True
            return None
        return self._accept(piece)

    def _accept(self, piece: bytes) -> bytes:
        if len(piece) > self._limit - self.received:
            piece = piece[: self._limit - self.received]
            self._end_too_long()
        self.received += len(piece)
        return piece

    def _end_too_long(self) -> None:
        self._end(self._too_long or BodyTooLong())

    def _end(self, error: TusError) -> None:
        self._ended = True
        if self.error is None:
            self.error = error

    def _hash(self, pieces: Sequence[bytes]) -> None:
        feed(self._hashers, pieces)

    def _verify(self, whole: Sequence[bytes] | None = None) -> None:
        """ "Once the entire request has been received, the Server MUST verify the uploaded chunk
        against the provided checksum." ``whole`` is the body, when it is in memory.
        """
        if self.error is not None or self._verified:
            return
        self._verified = True
        try:
            checksum = self._expected()
            if checksum is None:
                return
            if checksum.algorithm not in self._hashers:
                if whole is None:
                    self.late_checksum = checksum
                    return
                self.atomic = True
                self._hashers = hashers_for(checksum, ())
                self._hash(whole)
            if self._hashers[checksum.algorithm].digest() != checksum.digest:
                raise ChecksumMismatch(checksum.algorithm)
        except TusError as error:
            self.error = error
            self.atomic = True

    def _expected(self) -> Checksum | None:
        trailing = self._source.trailing_checksum()
        if isinstance(self._verification, Checksum):
            if trailing is not None:
                raise ChecksumGivenTwice
            return self._verification
        if isinstance(self._verification, TrailingChecksum) and trailing is None:
            raise ChecksumTrailerMissing
        return trailing


def feed(hashers: Mapping[str, Hasher], pieces: Sequence[bytes | memoryview]) -> None:
    """Give all of ``pieces`` to each of the hashers."""
    for hasher in hashers.values():
        for piece in pieces:
            hasher.update(piece)


async def hash_somewhere(hashers: Mapping[str, Hasher], piece: bytes) -> None:
    """Feed the hashers, in a thread unless the piece is small."""
    if len(piece) <= INLINE_HASH:
        feed(hashers, [piece])
    elif hashers:
        await threads.quick.run(feed, hashers, [piece])


def write_all(fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write ``pieces`` one behind the other from ``offset`` (bytes) on: where they end.

    Raises OSError; what was written before stays written.
    """
    for first in range(0, len(pieces), IOV_MAX):
        batch = pieces[first : first + IOV_MAX]
        left = sum(map(len, batch))
        while left:
            written = os.pwritev(fd, batch, offset)
            offset += written
            left -= written
            if left:
                batch = _behind([memoryview(piece) for piece in batch], written)
    return offset


def _behind(views: list[memoryview], written: int) -> list[memoryview]:
    for index, view in enumerate(views):
        if written < len(view):
            return [view[written:], *views[index + 1 :]]
        written -= len(view)
    return []
