"""The disk store: one file of bytes and one info file per upload.

The file's size is the offset, so one append is one open, the writes and one close, and a
crash cannot make offset and bytes disagree. This is the half that waits; what blocks is in
``files``, and runs in threads.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiofiles
from msgspec.structs import replace

from .. import threads
from ..protocol.errors import StoreUnavailable, UploadDamaged, UploadNotFound
from .base import (
    ChecksumStore,
    ConcatenationStore,
    DeferLengthStore,
    ExpirationStore,
    ReadableStore,
)
from .durability import Durability
from .files import Files
from .flushing import Flushes
from .layout import Layout, path_of

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Sequence,
    )
    from datetime import datetime

    from ..body import Body
    from ..protocol.uploads import Outcome, Upload

READ_PIECE = 256 * 1024  # bytes


class DiskStore(
    DeferLengthStore, ChecksumStore, ExpirationStore, ConcatenationStore, ReadableStore
):
    """Uploads in files below ``root``, which is made if need be.

    ``durability`` is a Durability or its name. Making the object touches no file; the first
    use takes a lock on ``root``, and raises StoreUnavailable if another server has it.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        durability: Durability | str = Durability.COMPLETE,
    ) -> None:
        self.root = Path(root).absolute()
        self.durability = Durability(durability)
        self._opened: Files | None = None
        self._flushes: Flushes | None = None
        # So that a HEAD does not wait behind somebody's flush.
        self._ending = threads.small if self.durability is Durability.NONE else threads.syncing

    async def open(self, *, shared: bool) -> None:
        await threads.slow.run(self._open, shared)

    def _open(self, shared: bool) -> None:
        if self._opened is None:
            try:
                flushes = self.durability is not Durability.NONE
                layout = Layout(self.root, shared=shared, flushes=flushes)
                files = Files(layout, self.durability)
                files.tidy()
                self._opened, self._flushes = files, Flushes(layout.fd)
            except OSError as error:
                why = f"{self.root} cannot be opened: {error}"
                raise StoreUnavailable(why) from error

    async def close(self) -> None:
        files, self._opened = self._opened, None
        if files is not None:
            await threads.slow.run(files.close)

    async def free_space(self) -> int | None:
        return await threads.small.run(self._files.free_space)

    def path(self, upload: Upload) -> Path:
        """The file that has the bytes. Read it; to have it elsewhere, publish it."""
        if upload.published and upload.path:
            return Path(upload.path)
        return path_of(self.root, upload.upload_id)

    async def get(self, upload_id: str) -> Upload:
        return await threads.small.run(self._files.get, upload_id)

    async def quarantine(self, upload_id: str) -> None:
        await threads.slow.run(self._files.quarantine, upload_id)

    async def create(self, upload: Upload, body: Body) -> Upload:
        whole, files = body.buffered(), self._files
        if files.may_flush_later(upload, body.received if whole else 0):
            upload = await threads.small.run(files.create, upload, body, whole, True)
            try:
                await self._flush(files, upload)
            except BaseException:
                await threads.small.run(files.terminate, upload)
                raise
            return upload
        pool = self._ending if body.received == upload.length else threads.small
        return await pool.run(files.create, upload, body, whole)

    async def _flush(self, files: Files, upload: Upload) -> None:
        """Together with what others have done, if there are some."""
        if files.must_sync(upload):
            assert self._flushes is not None
            await self._flushes.flush(partial(files.flush, upload))

    async def append(self, upload: Upload, body: Body) -> Upload:
        files = self._files
        if not body.buffered():
            return await self._append_pieces(files, upload, body)
        if files.may_flush_later(upload, upload.offset + body.received):
            after = await threads.small.run(files.append_whole, upload, body, True)
            try:
                await self._flush(files, after)
            except OSError as error:
                await self._ending.run(files.doubt, upload, error)
                raise
            return after
        return await self._ending.run(files.append_whole, upload, body)

    async def _append_pieces(self, files: Files, upload: Upload, body: Body) -> Upload:
        writer = await threads.small.run(files.begin_append, upload, body)
        assert self._flushes is not None
        with self._flushes.avoiding(body.length):
            try:
                await body.copy_to(writer)
            except BaseException as error:
                await self._ending.run(files.abandon_append, upload, writer, error)
                raise
        return await self._ending.run(files.end_append, upload, body, writer)

    async def rewind(self, upload: Upload) -> Upload:
        return await threads.quick.run(self._files.rewind, upload)

    async def declare_length(self, upload: Upload, length: int) -> Upload:
        upload = replace(upload, length=length)
        pool = self._ending if upload.complete else threads.small
        return await pool.run(self._files.declare_length, upload)

    async def finish(self, upload: Upload, outcome: Outcome) -> Upload:
        pool = self._ending if upload.path is None else threads.slow
        return await pool.run(self._files.finish, replace(upload, outcome=outcome))

    async def undelivered(self) -> Sequence[str]:
        return await threads.slow.run(self._files.undelivered)

    async def is_undelivered(self, upload_id: str) -> bool:
        return await threads.small.run(self._files.is_undelivered, upload_id)

    async def delivered(self, upload_id: str) -> None:
        await threads.small.run(self._files.delivered, upload_id)

    async def terminate(self, upload: Upload) -> None:
        await threads.quick.run(self._files.terminate, upload)

    async def expired(self, now: datetime) -> AsyncGenerator[str]:
        journal = self._files.journal
        sweeping = await threads.slow.run(self._files.begin_sweep)
        if sweeping is None:
            return
        try:
            taken = await threads.slow.run(lambda: list(journal.take_due(now.timestamp())))
            for token, upload_ids in taken:
                kept: list[tuple[str, float]] = []
                for upload_id in upload_ids:
                    if await self._is_due(upload_id, now, kept):
                        yield upload_id
                        await self._is_due(upload_id, None, kept)
                await threads.slow.run(journal.settle, token, kept)
        finally:
            await threads.slow.run(os.close, sweeping)

    async def _is_due(
        self, upload_id: str, now: datetime | None, kept: list[tuple[str, float]]
    ) -> bool:
        """Whether an upload in the journal is to be given out; if it stays, note until when."""
        try:
            upload = await self.get(upload_id)
        except UploadDamaged:
            return now is not None  # who takes its lock for the sweep will see to it
        except UploadNotFound:
            return False
        if upload.complete or upload.expires is None:
            return False
        if now is not None and upload.expires <= now:
            return True
        kept.append((upload_id, upload.expires.timestamp()))
        return False

    async def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        return await threads.slow.run(self._files.concatenate, upload, parts, stopped)

    async def waiting_for(self, upload_id: str) -> Sequence[str]:
        return await threads.small.run(self._files.waiting_for, upload_id)

    async def waiting(self) -> Sequence[str]:
        return await threads.slow.run(self._files.waiting)

    async def open_bytes(self, upload: Upload) -> int | None:
        return await threads.quick.run(self._files.open_for_reading, upload)

    @asynccontextmanager
    async def reader(self, upload: Upload) -> AsyncIterator[Any]:
        async with aiofiles.open(self.path(upload), "rb") as file:
            yield file

    async def read(self, upload: Upload, start: int, stop: int) -> AsyncGenerator[bytes]:
        fd = await threads.small.run(self._files.open_for_reading, upload)
        try:
            while start < stop:
                size = min(READ_PIECE, stop - start)
                piece = await threads.quick.run(os.pread, fd, size, start)
                if not piece:
                    raise OSError(f"{self.path(upload)} is shorter than it was")
                start += len(piece)
                yield piece
        finally:
            await threads.small.run(os.close, fd)

    @property
    def _files(self) -> Files:
        if self._opened is None:
            raise StoreUnavailable
        return self._opened
