"""The disk store: one file of bytes and one info file per upload.

The file's size is the offset, so one append is one open, the writes and one close, and a
crash cannot make offset and bytes disagree. Methods that begin with an underscore block: they
run in threads, one hop for all that belongs together.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiofiles

from .. import threads
from ..body import Body, write_all
from ..protocol.errors import StoreUnavailable, UploadExists, UploadNotFound
from ..protocol.uploads import UPLOAD_ID, Final, Outcome, Upload
from . import infofile
from .base import (
    ChecksumStore,
    ConcatenationStore,
    DeferLengthStore,
    ExpirationStore,
    ReadableStore,
)
from .copying import copy
from .journal import ExpiryJournal
from .layout import Layout

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Iterable,
        Iterator,
        Sequence,
    )

READ_PIECE = 1024 * 1024  # bytes
_log = getLogger("aiotus_server")
_datasync = getattr(os, "fdatasync", os.fsync)


class Durability(Enum):
    """When bytes, info file and folders are flushed to the disk.

    ``none``: when the kernel likes. ``complete``: before the last byte of an upload is
    acknowledged and its finish hooks run. ``always``: before every success is acknowledged.
    A crash of the process alone loses nothing acknowledged under any of them.
    """

    NONE = "none"
    COMPLETE = "complete"
    ALWAYS = "always"


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
        self._opened: Layout | None = None
        # So that a HEAD does not wait behind somebody's flush.
        self._ending = threads.quick if self.durability is Durability.NONE else threads.syncing

    async def open(self, *, shared: bool) -> None:
        await threads.slow.run(self._open, shared)

    def _open(self, shared: bool) -> None:
        if self._opened is None:
            try:
                self._opened = Layout(self.root, shared=shared)
            except OSError as error:
                why = f"{self.root} cannot be opened: {error}"
                raise StoreUnavailable(why) from error

    async def close(self) -> None:
        layout, self._opened = self._opened, None
        if layout is not None:
            await threads.slow.run(layout.close)

    async def free_space(self) -> int | None:
        return await threads.quick.run(self._free_space)

    def _free_space(self) -> int:
        numbers = os.statvfs(self.root)
        return numbers.f_bavail * numbers.f_frsize

    def path(self, upload: Upload) -> Path:
        """The file that has the bytes. Read it; to have it elsewhere, publish it."""
        return (
            Path(upload.path)
            if upload.published and upload.path
            else self._layout.path(upload.upload_id)
        )

    async def get(self, upload_id: str) -> Upload:
        return await threads.quick.run(self._get, upload_id)

    async def create(self, upload: Upload, body: Body) -> Upload:
        whole = body.buffered()
        pool = self._ending if body.received == upload.length else threads.quick
        return await pool.run(self._create, upload, body, whole)

    async def append(self, upload: Upload, body: Body) -> Upload:
        if body.buffered():
            return await self._ending.run(self._append_whole, upload, body)
        fd = await threads.quick.run(self._begin_append, upload, body.atomic)
        try:
            await body.copy_to(fd, upload.offset)
        except BaseException:
            await threads.quick.run(os.close, fd)
            raise
        return await self._ending.run(self._end_append, upload, body, fd)

    async def rewind(self, upload: Upload) -> Upload:
        return await threads.quick.run(self._rewind, upload)

    async def declare_length(self, upload: Upload, length: int) -> Upload:
        return await threads.quick.run(self._change, replace(upload, length=length))

    async def finish(self, upload: Upload, outcome: Outcome) -> Upload:
        pool = self._ending if upload.path is None else threads.slow
        return await pool.run(self._finish, replace(upload, outcome=outcome))

    async def terminate(self, upload: Upload) -> None:
        await threads.quick.run(self._terminate, upload)

    async def expired(self, now: datetime) -> AsyncGenerator[str]:
        journal = ExpiryJournal(self._layout.folder("expiry"))
        sweeping = await threads.slow.run(journal.lock)
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
        return await threads.slow.run(self._concatenate, upload, parts, stopped)

    async def waiting_for(self, upload_id: str) -> Sequence[str]:
        return await threads.quick.run(self._waiting_for, upload_id)

    async def waiting(self) -> Sequence[str]:
        return await threads.slow.run(self._waiting)

    @asynccontextmanager
    async def reader(self, upload: Upload) -> AsyncIterator[Any]:
        async with aiofiles.open(self.path(upload), "rb") as file:
            yield file

    async def read(self, upload: Upload, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            fd = await threads.quick.run(os.open, self.path(upload), os.O_RDONLY)
        except FileNotFoundError:
            raise UploadNotFound from None
        try:
            while start < stop:
                size = min(READ_PIECE, stop - start)
                piece = await threads.quick.run(os.pread, fd, size, start)
                if not piece:
                    raise OSError(f"{self.path(upload)} is shorter than it was")
                start += len(piece)
                yield piece
        finally:
            await threads.quick.run(os.close, fd)

    # What follows runs in threads.

    @property
    def _layout(self) -> Layout:
        if self._opened is None:
            raise StoreUnavailable
        return self._opened

    def _get(self, upload_id: str) -> Upload:
        if not UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound
        shard = self._layout.shard(upload_id)
        try:
            upload = infofile.decode(upload_id, _read(f"{upload_id}.info", shard))
            if upload.published:
                return replace(upload, offset=upload.length or 0)
            facts = os.stat(upload_id, dir_fd=shard, follow_symlinks=False)
        except FileNotFoundError:
            raise UploadNotFound from None
        except ValueError as error:
            _log.error("The info file of %s cannot be read: %s", upload_id, error)
            raise UploadNotFound from None
        return self._snapshot(upload, facts)

    def _snapshot(self, upload: Upload, facts: os.stat_result) -> Upload:
        offset, unverified = facts.st_size, False
        with suppress(FileNotFoundError, ValueError):
            offset = int(_read(upload.upload_id, self._layout.folder("unverified")))
            unverified = True
        expires = upload.expires
        if upload.lifetime is not None:
            expires = datetime.fromtimestamp(facts.st_mtime, UTC) + upload.lifetime
        return replace(upload, offset=offset, unverified=unverified, expires=expires)

    def _create(self, upload: Upload, body: Body, whole: bool) -> Upload:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        try:
            fd = os.open(upload_id, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=shard)
        except FileExistsError:
            raise UploadExists from None
        with self._undone_on_error(upload), _closing(fd):
            if whole:
                write_all(fd, body.take(), 0)
            upload = self._snapshot(upload, os.fstat(fd))
            if self._must_sync(upload):
                _datasync(fd)
            if not upload.complete:
                self._add_marks(upload)
            self._write_info(upload)
        return upload

    def _add_marks(self, upload: Upload) -> None:
        """Before there is an info file: a mark without an upload does no harm."""
        if upload.expires is not None:
            ExpiryJournal(self._layout.folder("expiry")).add(
                upload.upload_id, upload.expires.timestamp()
            )
        for part in _waited_for(upload):
            waiting = self._layout.folder("waiting")
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=waiting)
            os.close(os.open(f"{part}/{upload.upload_id}", os.O_CREAT, 0o666, dir_fd=waiting))

    @contextmanager
    def _undone_on_error(self, upload: Upload) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._terminate(upload)
            raise

    def _append_whole(self, upload: Upload, body: Body) -> Upload:
        with _closing(self._open_data(upload)) as fd:
            write_all(fd, body.take(), upload.offset)
            return self._appended(upload, fd)

    def _begin_append(self, upload: Upload, atomic: bool) -> int:
        fd = self._open_data(upload)
        if atomic:
            # "The uploaded chunk MUST be discarded": so it must be known where it began,
            # before the first of its bytes, and after a crash.
            _write(upload.upload_id, str(upload.offset).encode(), self._layout.folder("unverified"))
        return fd

    def _end_append(self, upload: Upload, body: Body, fd: int) -> Upload:
        with _closing(fd):
            if body.atomic and body.error is None:
                self._unmark(upload)
            return self._appended(upload, fd)

    def _appended(self, upload: Upload, fd: int) -> Upload:
        upload = self._snapshot(upload, os.fstat(fd))
        if self._must_sync(upload):
            _datasync(fd)
            if upload.complete:
                self._sync_facts(upload)
        return upload

    def _rewind(self, upload: Upload) -> Upload:
        with _closing(self._open_data(upload)) as fd:
            os.ftruncate(fd, upload.offset)
            self._unmark(upload)
            return self._snapshot(upload, os.fstat(fd))

    def _unmark(self, upload: Upload) -> None:
        with suppress(FileNotFoundError):
            os.unlink(upload.upload_id, dir_fd=self._layout.folder("unverified"))

    def _open_data(self, upload: Upload) -> int:
        shard = self._layout.shard(upload.upload_id)
        try:
            return os.open(upload.upload_id, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=shard)
        except FileNotFoundError:
            raise UploadNotFound from None

    def _change(self, upload: Upload) -> Upload:
        self._write_info(upload)
        return upload

    def _write_info(self, upload: Upload) -> None:
        """Atomic: the old info file or the new one, never half of one."""
        shard, name = self._layout.shard(upload.upload_id), f"{upload.upload_id}.info"
        fresh = f"{name}.new"
        _write(fresh, infofile.encode(upload), shard, sync=self._must_sync(upload))
        os.rename(fresh, name, src_dir_fd=shard, dst_dir_fd=shard)
        if self._must_sync(upload):
            os.fsync(shard)

    def _must_sync(self, upload: Upload) -> bool:
        if self.durability is Durability.COMPLETE:
            return upload.complete
        return self.durability is Durability.ALWAYS

    def _sync_facts(self, upload: Upload) -> None:
        """The info file and the folder, which creation may have left to the kernel."""
        shard = self._layout.shard(upload.upload_id)
        with _closing(os.open(f"{upload.upload_id}.info", os.O_RDONLY, dir_fd=shard)) as fd:
            os.fsync(fd)
        os.fsync(shard)

    def _finish(self, upload: Upload) -> Upload:
        if upload.path is not None and not upload.published:
            self._publish(upload, Path(upload.path))
            upload = replace(upload, published=True)
        self._write_info(upload)
        if upload.published:
            self._remove(upload.upload_id, self._layout.shard(upload.upload_id))
        return upload

    def _publish(self, upload: Upload, target: Path) -> None:
        """Have the bytes appear at ``target``, whole and without replacing anything.

        After a crash it is done again, and finds what it did before.
        """
        source = self._layout.path(upload.upload_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            if not os.path.samefile(source, target):
                raise
        except OSError:
            _copy_into_place(source, target)
        if self._must_sync(upload):
            with _closing(os.open(target.parent, os.O_RDONLY)) as folder:
                os.fsync(folder)

    def _terminate(self, upload: Upload) -> None:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        for name in (f"{upload_id}.info", f"{upload_id}.info.new", upload_id):
            self._remove(name, shard)
        self._unmark(upload)
        self._remove_waiting(upload)
        if self.durability is Durability.ALWAYS:
            os.fsync(shard)

    def _remove_waiting(self, upload: Upload) -> None:
        waiting = self._layout.folder("waiting")
        for part in _waited_for(upload):
            self._remove(f"{part}/{upload.upload_id}", waiting)
            with suppress(OSError):  # others wait for it too
                os.rmdir(part, dir_fd=waiting)

    def _remove(self, name: str, folder: int) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def _waiting_for(self, upload_id: str) -> list[str]:
        try:
            fd = os.open(
                upload_id, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._layout.folder("waiting")
            )
        except FileNotFoundError:
            return []
        with _closing(fd):
            return os.listdir(fd)

    def _waiting(self) -> list[str]:
        parts = os.listdir(self._layout.folder("waiting"))
        return sorted({final for part in parts for final in self._waiting_for(part)})

    def _concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        assert isinstance(upload.concat, Final)
        length = sum(part.offset for part in parts)
        joined = replace(
            upload, concat=replace(upload.concat, joined=True), length=length, offset=length
        )
        building = f"{upload_id}.joining"
        try:
            self._build(building, shard, parts, stopped, sync=self._must_sync(joined))
            if self._is_waiting(upload_id, shard):
                os.rename(building, upload_id, src_dir_fd=shard, dst_dir_fd=shard)
            else:
                os.link(building, upload_id, src_dir_fd=shard, dst_dir_fd=shard)
        except FileExistsError:
            raise UploadExists from None
        finally:
            self._remove(building, shard)
        self._write_info(joined)
        self._remove_waiting(upload)
        return joined

    def _is_waiting(self, upload_id: str, shard: int) -> bool:
        try:
            known = infofile.decode(upload_id, _read(f"{upload_id}.info", shard))
        except FileNotFoundError:
            return False
        return isinstance(known.concat, Final) and not known.concat.joined

    def _build(
        self,
        name: str,
        shard: int,
        parts: Iterable[Upload],
        stopped: Callable[[], bool],
        *,
        sync: bool,
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        offset = 0
        with _closing(os.open(name, flags, 0o666, dir_fd=shard)) as target:
            for part in parts:
                shard_of_part = self._layout.shard(part.upload_id)
                with _closing(os.open(part.upload_id, os.O_RDONLY, dir_fd=shard_of_part)) as source:
                    copy(source, target, part.offset, offset, stopped)
                offset += part.offset
            if sync:
                _datasync(target)


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _waited_for(upload: Upload) -> set[str]:
    if isinstance(upload.concat, Final) and not upload.concat.joined:
        return set(upload.concat.parts)
    return set()


def _read(name: str, folder: int) -> bytes:
    with _closing(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)) as fd:
        return os.read(fd, os.fstat(fd).st_size)


def _write(name: str, text: bytes, folder: int, *, sync: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with _closing(os.open(name, flags, 0o666, dir_fd=folder)) as fd:
        write_all(fd, [text], 0)
        if sync:
            os.fsync(fd)


def _copy_into_place(source: Path, target: Path) -> None:
    """For another file system: a copy under a name of its own, then its real name."""
    fd, name = tempfile.mkstemp(prefix=f".{secrets.token_hex(4)}-", dir=target.parent)
    try:
        with _closing(fd), _closing(os.open(source, os.O_RDONLY)) as bytes_of:
            copy(bytes_of, fd, os.fstat(bytes_of).st_size, 0, lambda: False)
            os.fchmod(fd, os.fstat(bytes_of).st_mode & 0o777)
            os.fsync(fd)
        os.link(name, target)
    finally:
        os.unlink(name)
