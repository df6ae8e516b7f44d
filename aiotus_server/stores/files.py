"""What a disk store does to its files. Everything here blocks: it runs in threads, one hop for
all that belongs together."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..body import Body, write_all
from ..protocol.errors import PathTaken, UploadExists, UploadNotFound
from . import marks
from .copying import closing
from .doubts import NamesNotFlushed, NotFlushed, closing_data, datasync, telling
from .durability import Durability
from .joining import Joining
from .publishing import check_path, copy_of, publish
from .writing import PAGE, FileWriter, check_reserve, free_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..protocol.uploads import Upload

_log = getLogger("aiotus_server")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Files(Joining):
    """Uploads as files: their bytes, and beneath it their records and how finals are joined.

    Raises the TusErrors that the methods of the same names of a store do, and OSError.
    """

    def free_space(self) -> int:
        """Bytes."""
        return free_space(self._root)

    def may_flush_later(self, upload: Upload, offset: int) -> bool:
        """Whether ``create`` or ``append_whole`` will leave ``upload`` with ``offset`` bytes in a
        state that must be flushed, and that ``flush`` can."""
        if not self._flushes or upload.complete or upload.offset % PAGE != 0:
            return False
        if upload.offset and self._durability is Durability.COMPLETE:
            return False  # of what came before and was lost since, only its own file tells
        upload = replace(upload, offset=offset)
        marked = upload.expires is not None or bool(upload.waits_for)
        return self.must_sync(upload) and (upload.complete or not marked)

    def flush(self, upload: Upload) -> None:
        """Bring to the disk what was done with ``later``."""
        with closing_data(self._open_data(upload)) as fd:
            datasync(fd)
        with telling(NamesNotFlushed):
            self._sync_marks()
            self._sync_facts(upload)

    def _sync_marks(self) -> None:
        self._mending(self._layout.sync_folder, "unverified")

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
        check_path(upload)
        data, info = self._claim(upload.upload_id)
        try:
            with closing(data), closing(info):
                upload = self._begin(upload, data, body if whole else None, later)
                if not upload.complete:
                    self._add_marks(upload)
                elif upload.finish_due:
                    self._note_finish(upload)
                self._write_first_info(upload, info, later)
        except BaseException:
            self.terminate(upload)
            raise
        return upload

    def _claim(self, upload_id: str) -> tuple[int, int]:
        """New files for data and info. Where one of them is, published uploads have no data, there
        is an upload or what is left of one, and nothing is touched."""
        name = self._mending(self._layout.make_shard, upload_id)
        try:
            return self._open_new(name)
        except FileNotFoundError:  # somebody has removed the folder
            self._mend()
            self._layout.make_shard(upload_id, anew=True)
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

    def _begin(self, upload: Upload, fd: int, body: Body | None, later: bool) -> Upload:
        """The first bytes. The data file is new, so its size need not be asked for."""
        if body is not None and (pieces := body.take()):
            check_reserve(fd, pieces, body.reserve)
            upload = replace(upload, offset=write_all(fd, pieces, 0))
        if upload.lifetime is not None:
            upload = self._snapshot(upload, os.fstat(fd))
        if not later and self.must_sync(upload):
            datasync(fd)
        return upload

    def append_whole(self, upload: Upload, body: Body, later: bool = False) -> Upload:
        """``later`` leaves it to ``flush``."""
        pieces = body.take()
        size = sum(map(len, pieces))
        self._note_if_last(upload, size)
        # It has been verified, but a kill may come between two pages of it.
        atomic = body.atomic and upload.offset % PAGE + size > PAGE
        with self._doubting(upload), closing_data(self._open_data(upload)) as fd:
            if pieces:
                self._writer(upload, fd, body, atomic=atomic).write(pieces, last=True)
            return self._appended(upload, fd, marked=atomic, later=later)

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
            return self._writer(upload, fd, body, atomic=body.atomic)
        except BaseException:
            os.close(fd)
            raise

    def _writer(self, upload: Upload, fd: int, body: Body, *, atomic: bool) -> FileWriter:
        inside = upload.offset % PAGE != 0
        if atomic or inside:
            # "The uploaded chunk MUST be discarded": so it must be known where it began,
            # before the first of its bytes, and after a crash.
            self._mending(marks.put, self._root, upload.upload_id, upload.offset)
        return FileWriter(
            fd,
            upload.offset,
            write_back=self._flushes,
            settled=partial(marks.remove, self._root, upload.upload_id)
            if inside and not atomic
            else None,
            reserve=body.reserve,
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
                self._sync_marks()
                if upload.complete:
                    self._sync_facts(upload)
        return upload

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
        """A descriptor of the bytes, wherever they are. What has been published is the
        application's, which may have done anything with it."""
        try:
            if not (upload.published and upload.path):
                return self._open(self._name(upload.upload_id), os.O_RDONLY)
            fd = os.open(upload.path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would let us wait
        except FileNotFoundError:
            raise UploadNotFound from None
        facts = os.fstat(fd)
        if stat.S_ISREG(facts.st_mode) and facts.st_size >= upload.offset:
            return fd
        os.close(fd)
        raise UploadNotFound

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
            self._sync_marks()
        self._note_if_last(upload, 0)
        self._write_info(upload)
        return upload

    def finish(self, upload: Upload) -> Upload:
        if upload.path is None:
            self._write_info(upload)
            return upload
        if upload.published:
            self._clear_away(upload)  # a crash came between
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
        self._clear_away(upload)
        return upload

    def _clear_away(self, upload: Upload) -> None:
        """What is needed until it is published."""
        assert upload.path is not None
        self._remove(self._name(upload.upload_id))
        copy_of(Path(upload.path), upload.upload_id).unlink(missing_ok=True)
