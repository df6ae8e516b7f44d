"""What a disk store does to its files. Everything here blocks: it runs in threads, one hop for
all that belongs together."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..body import Body, write_all
from ..protocol.errors import PathTaken, UploadExists, UploadNotFound
from ..protocol.uploads import UPLOAD_ID, Final, Upload
from . import infofile
from .copying import closing, copy
from .journal import ExpiryJournal
from .publishing import copy_of, publish
from .writing import PAGE, FileWriter, datasync, first_hole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .layout import Layout

_log = getLogger("aiotus_server")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# The times of files are those of the last tick of the kernel's clock.
CLOCK_TICK = 20_000_000  # nanoseconds, and more than that
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW


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
        self._root = layout.fd
        self._name = layout.name
        self._durability = durability
        self._flushes = durability is not Durability.NONE
        self._opened = time.time_ns() - CLOCK_TICK
        self.journal = ExpiryJournal(layout.fd)
        self.close = layout.close

    def get(self, upload_id: str) -> Upload:
        if not UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound
        text = b""
        try:
            text = self._read(f"{self._name(upload_id)}.info")
            upload = infofile.decode(upload_id, text)
            if upload.published:
                return replace(upload, offset=upload.length or 0)
            facts = os.stat(self._name(upload_id), dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            raise UploadNotFound from None
        except ValueError as error:
            # Empty is what a creation leaves that a crash cut off.
            if text:
                _log.error("The info file of %s cannot be read: %s", upload_id, error)
            raise UploadNotFound from None
        return self._snapshot(upload, facts, self._mark(upload, facts))

    def _mark(self, upload: Upload, facts: os.stat_result) -> int | None:
        """Where bytes begin that do not count, if there are any."""
        size, mark = facts.st_size, None
        with suppress(FileNotFoundError, ValueError):
            text = os.readlink(f"unverified/{upload.upload_id}", dir_fd=self._root)
            mark = min(int(text), size)
        if size != upload.length and facts.st_ctime_ns < self._opened:
            # Nobody has written to it since the machine may have lost its power.
            hole = self._first_hole(upload, size)
            if hole < size:
                mark = hole if mark is None else min(mark, hole)
        return mark

    def _first_hole(self, upload: Upload, size: int) -> int:
        with closing(self._open(upload, os.O_RDONLY)) as fd:
            return first_hole(fd, size)

    def _snapshot(self, upload: Upload, facts: os.stat_result, mark: int | None = None) -> Upload:
        offset = facts.st_size if mark is None else mark
        expires = upload.expires
        if upload.lifetime is not None:
            expires = datetime.fromtimestamp(facts.st_mtime, UTC) + upload.lifetime
        return replace(upload, offset=offset, unverified=mark is not None, expires=expires)

    def create(self, upload: Upload, body: Body, whole: bool) -> Upload:
        _check_path(upload)
        name = self._layout.make_shard(upload.upload_id)
        try:
            fd = os.open(name, _NEW, 0o666, dir_fd=self._root)
        except FileExistsError:
            raise UploadExists from None
        try:
            with closing(fd):
                upload = self._begin(upload, fd, body.take() if whole else ())
            if not upload.complete:
                self._add_marks(upload)
            elif upload.finish_due:
                self._note_finish(upload)
            self._write_first_info(upload, f"{name}.info")
        except BaseException:
            self.terminate(upload)
            raise
        return upload

    def _begin(self, upload: Upload, fd: int, pieces: Sequence[bytes]) -> Upload:
        """The first bytes. The data file is new, so its size need not be asked for."""
        if pieces:
            upload = replace(upload, offset=write_all(fd, pieces, 0))
        if upload.lifetime is not None:
            upload = self._snapshot(upload, os.fstat(fd))
        if self._must_sync(upload):
            datasync(fd)
        return upload

    def _add_marks(self, upload: Upload) -> None:
        """Before there is an info file: a mark without an upload does no harm."""
        sync = self._must_sync(upload)
        if upload.expires is not None:
            self.journal.add(upload.upload_id, upload.expires.timestamp(), sync=sync)
        for part in _waited_for(upload):
            folder = f"waiting/{part}"
            with suppress(FileExistsError):
                os.mkdir(folder, dir_fd=self._root)
            name = f"{folder}/{upload.upload_id}"
            os.close(os.open(name, os.O_CREAT, 0o666, dir_fd=self._root))
            if sync:
                self._layout.sync_folder(folder)
        if sync and _waited_for(upload):
            self._layout.sync_folder("waiting")

    def append_whole(self, upload: Upload, body: Body) -> Upload:
        pieces = body.take()
        self._note_if_last(upload, sum(map(len, pieces)))
        with closing(self._open_data(upload)) as fd:
            if pieces:
                self._writer(upload, fd, atomic=False).write(pieces, last=True)
            return self._appended(upload, fd)

    def begin_append(self, upload: Upload, body: Body) -> FileWriter:
        """``end_append`` must follow, or the writer's descriptor be closed."""
        fd = self._open_data(upload)
        try:
            self._note_if_last(upload, body.length)
            return self._writer(upload, fd, atomic=body.atomic)
        except BaseException:
            os.close(fd)
            raise

    def _writer(self, upload: Upload, fd: int, *, atomic: bool) -> FileWriter:
        inside = upload.offset % PAGE != 0
        if atomic or inside:
            # "The uploaded chunk MUST be discarded": so it must be known where it began,
            # before the first of its bytes, and after a crash.
            self._set_mark(upload)
        return FileWriter(
            fd,
            upload.offset,
            write_back=self._flushes,
            settled=partial(self._unmark, upload) if inside and not atomic else None,
        )

    def end_append(self, upload: Upload, body: Body, writer: FileWriter) -> Upload:
        with closing(writer.fd):
            if body.atomic and body.error is not None:
                return self._snapshot(upload, os.fstat(writer.fd), upload.offset)
            return self._appended(upload, writer.fd, marked=body.atomic or writer.unsettled)

    def _appended(self, upload: Upload, fd: int, *, marked: bool = False) -> Upload:
        upload = self._snapshot(upload, os.fstat(fd))
        if self._must_sync(upload):
            datasync(fd)
        if marked:
            self._unmark(upload)
        if self._must_sync(upload):
            # A mark that came back with a power cut would take away what is acknowledged.
            self._layout.sync_folder("unverified")
            if upload.complete:
                self._sync_facts(upload)
        return upload

    def _note_if_last(self, upload: Upload, size: int | None) -> None:
        """Before ``size`` bytes come, if they may be the last."""
        room = upload.room
        if upload.finish_due and room is not None and (size is None or size >= room):
            self._note_finish(upload)

    def _note_finish(self, upload: Upload) -> None:
        """As a link, for the sake of the order in which names reach the disk."""
        with suppress(FileExistsError):
            os.symlink("due", f"finishing/{upload.upload_id}", dir_fd=self._root)

    def undelivered(self) -> list[str]:
        return self._list("finishing")

    def delivered(self, upload_id: str) -> None:
        self._remove(f"finishing/{upload_id}")

    def _set_mark(self, upload: Upload) -> None:
        """As a link that points to a number: it is made in one step, and on the disk before
        anything that is done after it, without a flush."""
        name = f"unverified/{upload.upload_id}"
        try:
            os.symlink(str(upload.offset), name, dir_fd=self._root)
        except FileExistsError:
            os.unlink(name, dir_fd=self._root)
            os.symlink(str(upload.offset), name, dir_fd=self._root)

    def rewind(self, upload: Upload) -> Upload:
        with closing(self._open_data(upload)) as fd:
            os.ftruncate(fd, upload.offset)
            if self._flushes:
                datasync(fd)  # before the mark goes: refused bytes must not come back
            self._unmark(upload)
            return self._snapshot(upload, os.fstat(fd))

    def _unmark(self, upload: Upload) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"unverified/{upload.upload_id}", dir_fd=self._root)

    def open_for_reading(self, upload: Upload) -> int:
        """A descriptor of the bytes, wherever they are."""
        try:
            if upload.published and upload.path:
                return os.open(upload.path, os.O_RDONLY)
            return self._open(upload, os.O_RDONLY)
        except FileNotFoundError:
            raise UploadNotFound from None

    def _open(self, upload: Upload, flags: int) -> int:
        name = self._name(upload.upload_id)
        return os.open(name, flags | os.O_NOFOLLOW, 0o666, dir_fd=self._root)

    def _open_data(self, upload: Upload) -> int:
        try:
            return self._open(upload, os.O_WRONLY)
        except FileNotFoundError:
            raise UploadNotFound from None

    def declare_length(self, upload: Upload) -> Upload:
        """``upload`` has its length now. If that makes it complete, its bytes came before, and
        nobody has flushed them."""
        if self._must_sync(upload):
            with closing(self._open_data(upload)) as fd:
                datasync(fd)
            self._layout.sync_folder("unverified")
        self._note_if_last(upload, 0)
        self._write_info(upload)
        return upload

    def _write_first_info(self, upload: Upload, name: str) -> None:
        """Without the cost of a rename: until its last byte is there it is no info file, and
        what there is counts as no upload."""
        sync = self._must_sync(upload)
        self._write(name, infofile.encode(upload), sync=sync)
        if sync:
            self._sync_names(upload)

    def _write_info(self, upload: Upload) -> None:
        """Atomic: the old info file or the new one, never half of one."""
        name = f"{self._name(upload.upload_id)}.info"
        fresh = f"{name}.new"
        # Else a power cut might leave an empty one in place of one that was there.
        self._write(fresh, infofile.encode(upload), sync=self._flushes)
        os.rename(fresh, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        if self._must_sync(upload):
            self._sync_names(upload)

    def _must_sync(self, upload: Upload) -> bool:
        if not self._flushes:
            return False
        return self._durability is Durability.ALWAYS or upload.complete

    def _sync_facts(self, upload: Upload) -> None:
        """The info file and the folder, which creation may have left to the kernel."""
        name = f"{self._name(upload.upload_id)}.info"
        with closing(os.open(name, os.O_RDONLY, dir_fd=self._root)) as fd:
            os.fsync(fd)
        self._sync_names(upload)

    def _sync_names(self, upload: Upload) -> None:
        self._layout.sync_shard(upload.upload_id)
        if upload.finish_due and upload.complete:
            self._layout.sync_folder("finishing")

    def finish(self, upload: Upload) -> Upload:
        if upload.path is None or upload.published:
            self._write_info(upload)
            return upload
        source, target = self._layout.path(upload.upload_id), Path(upload.path)
        copy = copy_of(target, upload.upload_id)
        try:
            publish(source, target, copy, sync=self._must_sync(upload))
        except FileExistsError:
            _log.error("%s exists: %s is not published", target, upload.upload_id)
            raise PathTaken from None
        upload = replace(upload, published=True)
        self._write_info(upload)
        self._remove(self._name(upload.upload_id))
        copy.unlink(missing_ok=True)
        return upload

    def terminate(self, upload: Upload) -> None:
        name = self._name(upload.upload_id)
        for file in (f"{name}.info", f"{name}.info.new", name):
            self._remove(file)
        self._unmark(upload)
        self.delivered(upload.upload_id)
        self._remove_waiting(upload)
        if self._durability is Durability.ALWAYS:
            self._layout.sync_shard(upload.upload_id)

    def _remove_waiting(self, upload: Upload) -> None:
        for part in _waited_for(upload):
            self._remove_mark(part, upload.upload_id)

    def _remove_mark(self, part: str, final: str) -> None:
        self._remove(f"waiting/{part}/{final}")
        with suppress(OSError):  # others wait for it too
            os.rmdir(f"waiting/{part}", dir_fd=self._root)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._root)

    def waiting_for(self, upload_id: str) -> list[str]:
        try:
            return self._list(f"waiting/{upload_id}")
        except FileNotFoundError:
            return []

    def waiting(self) -> list[str]:
        waiting: set[str] = set()
        for part in self._list("waiting"):
            for final in self.waiting_for(part):
                if self._is_waiting(final):
                    waiting.add(final)
                elif self._is_old(f"waiting/{part}/{final}"):
                    self._remove_mark(part, final)  # a crash left it
        return sorted(waiting)

    def tidy(self) -> None:
        """Remove what a crash left half-built. What another process builds now is locked."""
        for name in self._list("joining"):
            flags = os.O_RDONLY | os.O_NOFOLLOW
            with (
                closing(os.open(f"joining/{name}", flags, dir_fd=self._root)) as fd,
                suppress(BlockingIOError),
            ):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(f"joining/{name}")

    def _list(self, folder: str) -> list[str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        with closing(os.open(folder, flags, dir_fd=self._root)) as fd:
            return os.listdir(fd)

    def _is_old(self, name: str) -> bool:
        """Older than a creation under way could be."""
        with suppress(FileNotFoundError):
            return time.time() - os.stat(name, dir_fd=self._root).st_mtime > 60
        return False

    def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        upload_id = upload.upload_id
        assert isinstance(upload.concat, Final)
        _check_path(upload)
        self._layout.make_shard(upload_id)
        length = sum(part.offset for part in parts)
        joined = replace(
            upload, concat=replace(upload.concat, joined=True), length=length, offset=length
        )
        building, name = f"joining/{upload_id}", self._name(upload_id)
        try:
            self._build(building, parts, stopped, sync=self._must_sync(joined))
            if upload.finish_due:
                self._note_finish(joined)
            appear = os.rename if self._is_waiting(upload_id) else os.link
            appear(building, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        except FileExistsError:
            raise UploadExists from None
        finally:
            self._remove(building)
        self._write_info(joined)
        self._remove_waiting(upload)
        return joined

    def _is_waiting(self, upload_id: str) -> bool:
        try:
            text = self._read(f"{self._name(upload_id)}.info")
            known = infofile.decode(upload_id, text)
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(known.concat, Final) and not known.concat.joined

    def _build(
        self, name: str, parts: Iterable[Upload], stopped: Callable[[], bool], *, sync: bool
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        offset = 0
        with closing(os.open(name, flags, 0o666, dir_fd=self._root)) as target:
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in parts:
                with closing(self._open(part, os.O_RDONLY)) as source:
                    copy(source, target, part.offset, offset, stopped)
                offset += part.offset
            if sync:
                datasync(target)

    def _read(self, name: str) -> bytes:
        with closing(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._root)) as fd:
            return os.read(fd, os.fstat(fd).st_size)

    def _write(self, name: str, text: bytes, *, sync: bool = False) -> None:
        with closing(os.open(name, _ANEW, 0o666, dir_fd=self._root)) as fd:
            write_all(fd, [text], 0)
            if sync:
                os.fsync(fd)


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
