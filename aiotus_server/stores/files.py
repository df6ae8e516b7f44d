"""What a disk store does to its files. Everything here blocks: it runs in threads, one hop for
all that belongs together."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from ..body import Body, write_all
from ..protocol.errors import PathTaken, UploadExists, UploadNotFound
from ..protocol.uploads import UPLOAD_ID, Final, Upload
from . import infofile
from .copying import closing, copy
from .journal import ExpiryJournal
from .publishing import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .layout import Layout

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


class Files:
    """Uploads as files in ``layout``, flushed as ``durability`` says.

    Raises the TusErrors that the methods of the same names of a store do, and OSError.
    """

    def __init__(self, layout: Layout, durability: Durability) -> None:
        self._layout = layout
        self._durability = durability
        self.journal = ExpiryJournal(layout.folder("expiry"))
        self.close = layout.close

    def get(self, upload_id: str) -> Upload:
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

    def create(self, upload: Upload, body: Body, whole: bool) -> Upload:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        _check_path(upload)
        try:
            fd = os.open(upload_id, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=shard)
        except FileExistsError:
            raise UploadExists from None
        with self._undone_on_error(upload), closing(fd):
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
            self.journal.add(upload.upload_id, upload.expires.timestamp())
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
            self.terminate(upload)
            raise

    def append_whole(self, upload: Upload, body: Body) -> Upload:
        with closing(self._open_data(upload)) as fd:
            write_all(fd, body.take(), upload.offset)
            return self._appended(upload, fd)

    def begin_append(self, upload: Upload, atomic: bool) -> int:
        fd = self._open_data(upload)
        if atomic:
            # "The uploaded chunk MUST be discarded": so it must be known where it began,
            # before the first of its bytes, and after a crash.
            _write(upload.upload_id, str(upload.offset).encode(), self._layout.folder("unverified"))
        return fd

    def end_append(self, upload: Upload, body: Body, fd: int) -> Upload:
        with closing(fd):
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

    def rewind(self, upload: Upload) -> Upload:
        with closing(self._open_data(upload)) as fd:
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

    def change(self, upload: Upload) -> Upload:
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
        if self._durability is Durability.COMPLETE:
            return upload.complete
        return self._durability is Durability.ALWAYS

    def _sync_facts(self, upload: Upload) -> None:
        """The info file and the folder, which creation may have left to the kernel."""
        shard = self._layout.shard(upload.upload_id)
        with closing(os.open(f"{upload.upload_id}.info", os.O_RDONLY, dir_fd=shard)) as fd:
            os.fsync(fd)
        os.fsync(shard)

    def finish(self, upload: Upload) -> Upload:
        if upload.path is not None and not upload.published:
            source, target = self._layout.path(upload.upload_id), Path(upload.path)
            try:
                publish(source, target, sync=self._must_sync(upload))
            except FileExistsError:
                _log.error("%s exists: %s is not published", target, upload.upload_id)
                raise PathTaken from None
            upload = replace(upload, published=True)
        self._write_info(upload)
        if upload.published:
            self._remove(upload.upload_id, self._layout.shard(upload.upload_id))
        return upload

    def terminate(self, upload: Upload) -> None:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        for name in (f"{upload_id}.info", f"{upload_id}.info.new", upload_id):
            self._remove(name, shard)
        self._unmark(upload)
        self._remove_waiting(upload)
        if self._durability is Durability.ALWAYS:
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

    def waiting_for(self, upload_id: str) -> list[str]:
        try:
            fd = os.open(
                upload_id, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._layout.folder("waiting")
            )
        except FileNotFoundError:
            return []
        with closing(fd):
            return os.listdir(fd)

    def waiting(self) -> list[str]:
        parts = os.listdir(self._layout.folder("waiting"))
        return sorted({final for part in parts for final in self.waiting_for(part)})

    def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        upload_id, shard = upload.upload_id, self._layout.shard(upload.upload_id)
        assert isinstance(upload.concat, Final)
        _check_path(upload)
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
        with closing(os.open(name, flags, 0o666, dir_fd=shard)) as target:
            for part in parts:
                shard_of_part = self._layout.shard(part.upload_id)
                with closing(os.open(part.upload_id, os.O_RDONLY, dir_fd=shard_of_part)) as source:
                    copy(source, target, part.offset, offset, stopped)
                offset += part.offset
            if sync:
                _datasync(target)


def _check_path(upload: Upload) -> None:
    """Before the first byte rather than after the last: that it can be published there."""
    if upload.path is not None:
        with suppress(FileNotFoundError):
            os.lstat(upload.path)
            raise PathTaken


def _waited_for(upload: Upload) -> set[str]:
    if isinstance(upload.concat, Final) and not upload.concat.joined:
        return set(upload.concat.parts)
    return set()


def _read(name: str, folder: int) -> bytes:
    with closing(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)) as fd:
        return os.read(fd, os.fstat(fd).st_size)


def _write(name: str, text: bytes, folder: int, *, sync: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with closing(os.open(name, flags, 0o666, dir_fd=folder)) as fd:
        write_all(fd, [text], 0)
        if sync:
            os.fsync(fd)
