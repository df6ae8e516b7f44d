"""What a disk store does to its files. Everything here blocks: it runs in threads, one hop for
all that belongs together."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..body import Body, write_all
from ..protocol.errors import PathTaken, UploadDamaged, UploadExists, UploadNotFound
from ..protocol.uploads import Final, Upload
from . import infofile, marks, unflushed
from .copying import closing, copy
from .doubts import NamesNotFlushed, NotFlushed, closing_data, datasync, telling
from .journal import ExpiryJournal
from .publishing import copy_of, publish
from .quarantine import put_aside
from .snapshots import Snapshots
from .writing import PAGE, FileWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .layout import Layout

_log = getLogger("aiotus_server")
# The times of files are those of the last tick of the kernel's clock.
CLOCK_TICK = 20_000_000  # nanoseconds, and more than that
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Durability(Enum):
    """When bytes, info file and folders are flushed to the disk.

    ``none``: when the kernel likes. ``complete``: before the last byte of an upload is
    acknowledged and its finish hooks run. ``always``: before every success is acknowledged.
    A crash of the process alone loses nothing acknowledged under any of them.
    """

    NONE = "none"
    COMPLETE = "complete"
    ALWAYS = "always"


class Files(Snapshots):
    """Uploads as files in ``layout``, flushed as ``durability`` says.

    Raises the TusErrors that the methods of the same names of a store do, and OSError.
    """

    def __init__(self, layout: Layout, durability: Durability) -> None:
        super().__init__(layout)
        self._layout = layout
        self._durability = durability
        self._flushes = durability is not Durability.NONE
        self._opened = time.time_ns() - CLOCK_TICK
        self._flush_at_end = False
        if not self._flushes:
            noted = unflushed.begin(layout.fd, self._opened)
            self._flush_at_end = noted and layout.exclusive
        self.journal = ExpiryJournal(layout.fd)

    def close(self) -> None:
        """Nothing may be under way."""
        try:
            if self._flush_at_end:
                unflushed.end(self._root)
        except OSError as error:
            _log.warning("%s could not be flushed: %s", self._layout.root, error)
        finally:
            self._layout.close()

    def quarantine(self, upload_id: str) -> None:
        try:
            self.get(upload_id)
        except UploadDamaged as damage:
            place = self.put_aside(upload_id)
            _log.error(
                "The upload %s is damaged: %s; it is in %s now", upload_id, damage.why, place
            )
        except UploadNotFound:
            pass

    def put_aside(self, upload_id: str) -> Path | None:
        """Move all files of the upload, in whatever state they are, into the quarantine."""
        name = self._name(upload_id)
        files = {f"{name}{end}": f"{upload_id}{end}" for end in ("", ".info", ".info.new")}
        files[marks.name_of(upload_id)] = "unverified"
        folder = put_aside(self._root, upload_id, files)
        return None if folder is None else self._layout.root / folder

    def may_flush_later(self, upload: Upload, offset: int) -> bool:
        """Whether ``create`` or ``append_whole`` will leave ``upload`` with ``offset`` bytes in a
        state that must be flushed, and that ``flush`` can."""
        if upload.complete or upload.offset % PAGE != 0:
            return False
        upload = replace(upload, offset=offset)
        marked = upload.expires is not None or bool(_waited_for(upload))
        return self.must_sync(upload) and (upload.complete or not marked)

    def flush(self, upload: Upload) -> None:
        """Bring to the disk what was done with ``later``."""
        with closing_data(self._open_data(upload)) as fd:
            datasync(fd)
        with telling(NamesNotFlushed):
            self._layout.sync_folder("unverified")
            self._sync_facts(upload)

    def doubt(self, upload: Upload, error: OSError) -> None:
        """``upload``, as it was before, was to be flushed: count what is certainly there, so that
        the rest is sent again. At once, or as soon as the disk allows it."""
        offset = upload.offset
        if isinstance(error, NamesNotFlushed):
            offset = max(offset, ((upload.length or 0) - 1) // PAGE * PAGE)  # but not complete
        elif self._durability is Durability.COMPLETE:
            offset = 0  # nobody has asked for a flush before
        self._doubts[upload.upload_id] = offset
        with suppress(OSError):
            self._cut(upload, offset)

    def create(self, upload: Upload, body: Body, whole: bool, later: bool = False) -> Upload:
        """``later`` leaves it to ``flush``."""
        _check_path(upload)
        data, info = self._claim(upload.upload_id)
        try:
            with closing(data), closing(info):
                upload = self._begin(upload, data, body.take() if whole else (), later)
                if not upload.complete:
                    self._add_marks(upload)
                elif upload.finish_due:
                    self._note_finish(upload)
                self._write_first_info(upload, info, later)
        except BaseException as error:
            self._mend(error)
            self.terminate(upload)
            raise
        return upload

    def _mend(self, error: BaseException) -> None:
        """Make the folders that somebody has removed, for those who come next."""
        if isinstance(error, FileNotFoundError):
            self._layout.make_all()

    def _claim(self, upload_id: str) -> tuple[int, int]:
        """New files for data and info. Where one of them is, published uploads have no data, there
        is an upload or what is left of one, and nothing is touched."""
        name = self._layout.make_shard(upload_id)
        try:
            return self._open_new(name)
        except FileNotFoundError:
            self._layout.make_shard(upload_id, anew=True)  # somebody has removed the folder
            return self._open_new(name)

    def _open_new(self, name: str) -> tuple[int, int]:
        try:
            data = self._open(name, _NEW)
            try:
                return data, self._open(f"{name}.info", _NEW)
            except BaseException:
                os.close(data)
                self._remove(name)
                raise
        except FileExistsError:
            raise UploadExists from None

    def _begin(self, upload: Upload, fd: int, pieces: Sequence[bytes], later: bool) -> Upload:
        """The first bytes. The data file is new, so its size need not be asked for."""
        if pieces:
            upload = replace(upload, offset=write_all(fd, pieces, 0))
        if upload.lifetime is not None:
            upload = self._snapshot(upload, os.fstat(fd))
        if not later and self.must_sync(upload):
            datasync(fd)
        return upload

    def _add_marks(self, upload: Upload) -> None:
        """Before there is an info file: a mark without an upload does no harm."""
        sync = self.must_sync(upload)
        if upload.expires is not None:
            self.journal.add(upload.upload_id, upload.expires.timestamp(), sync=sync)
        for part in _waited_for(upload):
            self.add_mark(part, upload.upload_id)
            if sync:
                self._layout.sync_folder(f"waiting/{part}")
        if sync and _waited_for(upload):
            self._layout.sync_folder("waiting")

    def add_mark(self, part: str, final: str) -> None:
        """That ``final`` waits for ``part``."""
        name = f"waiting/{part}/{final}"
        while True:
            with suppress(FileExistsError):
                os.mkdir(f"waiting/{part}", dir_fd=self._root)
            # Another final may have been the last, and have taken the folder away.
            with suppress(FileNotFoundError):
                os.close(os.open(name, os.O_CREAT, 0o666, dir_fd=self._root))
                return

    def append_whole(self, upload: Upload, body: Body, later: bool = False) -> Upload:
        """``later`` leaves it to ``flush``."""
        pieces = body.take()
        self._note_if_last(upload, sum(map(len, pieces)))
        with self._doubting(upload), closing_data(self._open_data(upload)) as fd:
            if pieces:
                self._writer(upload, fd, atomic=False).write(pieces, last=True)
            return self._appended(upload, fd, later=later)

    @contextmanager
    def _doubting(self, upload: Upload) -> Iterator[None]:
        try:
            yield
        except (NotFlushed, NamesNotFlushed) as error:
            self.doubt(upload, error)
            raise

    def begin_append(self, upload: Upload, body: Body) -> FileWriter:
        """``end_append`` must follow, or ``abandon_append``."""
        fd = self._open_data(upload)
        try:
            self._note_if_last(upload, body.length)
            return self._writer(upload, fd, atomic=body.atomic)
        except BaseException as error:
            self._mend(error)
            os.close(fd)
            raise

    def _writer(self, upload: Upload, fd: int, *, atomic: bool) -> FileWriter:
        inside = upload.offset % PAGE != 0
        if atomic or inside:
            # "The uploaded chunk MUST be discarded": so it must be known where it began,
            # before the first of its bytes, and after a crash.
            marks.put(self._root, upload.upload_id, upload.offset)
        return FileWriter(
            fd,
            upload.offset,
            write_back=self._flushes,
            settled=partial(marks.remove, self._root, upload.upload_id)
            if inside and not atomic
            else None,
        )

    def end_append(self, upload: Upload, body: Body, writer: FileWriter) -> Upload:
        with self._doubting(upload), closing_data(writer.fd):
            if body.atomic and body.error is not None:
                return self._snapshot(upload, os.fstat(writer.fd), upload.offset)
            return self._appended(upload, writer.fd, marked=body.atomic or writer.unsettled)

    def abandon_append(self, upload: Upload, writer: FileWriter, error: BaseException) -> None:
        """What came before ``error`` stays, unless that was a flush."""
        with self._doubting(upload), closing_data(writer.fd):
            if isinstance(error, NotFlushed):
                raise error
            if self._durability is Durability.ALWAYS:
                datasync(writer.fd)

    def _appended(
        self, upload: Upload, fd: int, *, marked: bool = False, later: bool = False
    ) -> Upload:
        upload = self._snapshot(upload, os.fstat(fd))
        sync = self.must_sync(upload) and not later
        if sync:
            datasync(fd)
        if marked:
            marks.remove(self._root, upload.upload_id)
        if sync:
            with telling(NamesNotFlushed):
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

    def undelivered(self, upload_id: str | None) -> list[str]:
        if upload_id is not None:
            return [upload_id] if self._is_there(f"finishing/{upload_id}") else []
        return self._list("finishing")

    def delivered(self, upload_id: str) -> None:
        self._remove(f"finishing/{upload_id}")

    def rewind(self, upload: Upload) -> Upload:
        with self._doubting(upload):
            return self._cut(upload, upload.offset)

    def _cut(self, upload: Upload, offset: int) -> Upload:
        """Make the file so long, if it is longer, and let no mark be left."""
        with closing_data(self._open_data(upload)) as fd:
            if os.fstat(fd).st_size > offset:
                os.ftruncate(fd, offset)
            if self._flushes:
                datasync(fd)  # before the mark goes: refused bytes must not come back
            marks.remove(self._root, upload.upload_id)
            self._doubts.pop(upload.upload_id, None)
            return self._snapshot(upload, os.fstat(fd))

    def open_for_reading(self, upload: Upload) -> int:
        """A descriptor of the bytes, wherever they are."""
        try:
            if upload.published and upload.path:
                return os.open(upload.path, os.O_RDONLY)
            return self._open(self._name(upload.upload_id), os.O_RDONLY)
        except FileNotFoundError:
            raise UploadNotFound from None

    def _open_data(self, upload: Upload) -> int:
        try:
            return self._open(self._name(upload.upload_id), os.O_WRONLY)
        except FileNotFoundError:
            raise UploadNotFound from None

    def declare_length(self, upload: Upload) -> Upload:
        """``upload`` has its length now. If that makes it complete, its bytes came before, and
        nobody has flushed them."""
        if self.must_sync(upload):
            with self._doubting(upload), closing_data(self._open_data(upload)) as fd:
                datasync(fd)
            self._layout.sync_folder("unverified")
        self._note_if_last(upload, 0)
        self._write_info(upload)
        return upload

    def _write_first_info(self, upload: Upload, fd: int, later: bool) -> None:
        """Without the cost of a rename: until its last byte is there it is no info file, and
        what there is counts as no upload."""
        write_all(fd, [infofile.encode(upload)], 0)
        if not later and self.must_sync(upload):
            os.fsync(fd)
            self._sync_names(upload)

    def _write_info(self, upload: Upload) -> None:
        """Atomic: the old info file or the new one, never half of one."""
        name = f"{self._name(upload.upload_id)}.info"
        fresh = f"{name}.new"
        # Else a power cut might leave an empty one in place of one that was there.
        self._write(fresh, infofile.encode(upload), sync=self._flushes)
        os.rename(fresh, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        if self.must_sync(upload):
            self._sync_names(upload)

    def must_sync(self, upload: Upload) -> bool:
        """Before anybody is told that ``upload`` is as it is."""
        if not self._flushes:
            return False
        return self._durability is Durability.ALWAYS or upload.complete

    def _sync_facts(self, upload: Upload) -> None:
        """The info file and the folder, which creation may have left to the kernel."""
        name = f"{self._name(upload.upload_id)}.info"
        try:
            with closing(os.open(name, os.O_RDONLY, dir_fd=self._root)) as fd:
                os.fsync(fd)
        except OSError:
            self._write_info(self._facts(upload.upload_id))  # the kernel has forgotten it
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
            publish(source, target, copy, sync=self.must_sync(upload))
        except FileExistsError:
            _log.error("%r exists: %s is not published", str(target), upload.upload_id)
            raise PathTaken from None
        upload = replace(upload, published=True)
        self._write_info(upload)
        self._remove(self._name(upload.upload_id))
        copy.unlink(missing_ok=True)
        return upload

    def terminate(self, upload: Upload) -> None:
        name = self._name(upload.upload_id)
        # Another name first: what a crash leaves behind this line has not lost its info file.
        with suppress(FileNotFoundError):
            info = f"{name}.info"
            os.rename(info, f"{info}.new", src_dir_fd=self._root, dst_dir_fd=self._root)
        for file in (name, f"{name}.info.new"):
            self._remove(file)
        marks.remove(self._root, upload.upload_id)
        self._doubts.pop(upload.upload_id, None)
        self.delivered(upload.upload_id)
        self._remove_waiting(upload)
        if self._durability is Durability.ALWAYS:
            self._layout.sync_shard(upload.upload_id)

    def _remove_waiting(self, upload: Upload) -> None:
        for part in _waited_for(upload):
            self.remove_mark(part, upload.upload_id)

    def remove_mark(self, part: str, final: str) -> None:
        self._remove(f"waiting/{part}/{final}")
        self._remove_folder(f"waiting/{part}")

    def _remove_folder(self, name: str) -> None:
        with suppress(OSError):  # it is not empty: others wait for the partial too
            os.rmdir(name, dir_fd=self._root)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._root)

    def waiting(self) -> list[str]:
        waiting: set[str] = set()
        for part in self._list("waiting"):
            finals = self.waiting_for(part)
            for final in finals:
                if self._is_waiting(final):
                    waiting.add(final)
                elif self._is_old(f"waiting/{part}/{final}"):
                    self.remove_mark(part, final)  # a crash left it
            if not finals and self._is_old(f"waiting/{part}"):
                self._remove_folder(f"waiting/{part}")
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
                self.remove_half_built(name, os.fstat(fd))

    def remove_half_built(self, upload_id: str, facts: os.stat_result) -> None:
        """Remove the file with ``facts`` from ``joining/``, and from where it had just appeared
        if it has no info file there."""
        name = self._name(upload_id)
        if facts.st_nlink > 1 and not self._is_there(f"{name}.info"):
            with suppress(FileNotFoundError):
                there = os.stat(name, dir_fd=self._root, follow_symlinks=False)
                if os.path.samestat(there, facts):
                    self._remove(f"{name}.info.new")
                    self._remove(name)
        self._remove(f"joining/{upload_id}")

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
        waiting, name = self._is_waiting(upload_id), self._name(upload_id)
        if not waiting and (self._is_there(f"{name}.info") or self._is_there(name)):
            raise UploadExists
        length = sum(part.offset for part in parts)
        joined = replace(
            upload, concat=replace(upload.concat, joined=True), length=length, offset=length
        )
        building = f"joining/{upload_id}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._remove(building)  # what a crash left, if it did
        try:
            with closing(self._open(building, flags)) as target:
                fcntl.flock(target, fcntl.LOCK_EX)  # a verification may just be trying it
                self._build(target, parts, stopped, sync=self.must_sync(joined))
                if upload.finish_due:
                    self._note_finish(joined)
                self._appear(building, joined, new=not waiting)
        except BaseException as error:
            self._mend(error)
            raise
        finally:
            self._remove(building)
        self._remove_waiting(upload)
        return joined

    def _build(
        self, target: int, parts: Iterable[Upload], stopped: Callable[[], bool], *, sync: bool
    ) -> None:
        offset = 0
        for part in parts:
            name = self._name(part.upload_id)
            with closing(self._open(name, os.O_RDONLY)) as source:
                copy(source, target, part.offset, offset, stopped)
            offset += part.offset
        if sync:
            datasync(target)

    def _appear(self, building: str, joined: Upload, *, new: bool) -> None:
        """Give what was built its name, and its info file. A new final keeps the other name until
        it has one: that tells what a crash in between leaves from an upload that lost its info
        file."""
        name = self._name(joined.upload_id)
        appear = os.link if new else os.rename
        appear(building, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        try:
            self._write_info(joined)
        except BaseException:
            if new:
                self.terminate(joined)
            raise

    def _write(self, name: str, text: bytes, *, sync: bool = False) -> None:
        with closing(self._open(name, _ANEW)) as fd:
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
