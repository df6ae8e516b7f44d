"""What a disk store writes down of uploads beside their bytes: info files, notes of ends that the
application has not been told of, marks of finals that wait. Blocking: for threads."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, TypeVar

from ..body import write_all
from ..protocol.errors import UploadDamaged, UploadNotFound
from . import infofile, marks, unflushed
from .copying import closing
from .durability import Durability
from .journal import ExpiryJournal
from .quarantine import put_aside
from .snapshots import Snapshots
from .writing import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..protocol.uploads import Upload
    from .layout import Layout

_log = getLogger("aiotus_server")
# The times of files are those of the last tick of the kernel's clock.
CLOCK_TICK = 20_000_000  # nanoseconds, and more than that
_T = TypeVar("_T")
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Records(Snapshots):
    """The uploads in ``layout``, flushed as ``durability`` says. Raises OSError."""

    def __init__(self, layout: Layout, durability: Durability) -> None:
        super().__init__(layout)
        self._layout = layout
        self._durability = durability
        self._flushes = durability is not Durability.NONE
        opened = self._opened = time.time_ns() - CLOCK_TICK
        self._flush_at_end = False
        self._note_unflushed(opened)
        self.journal = ExpiryJournal(layout.fd)

    def _note_unflushed(self, now: int) -> None:
        if not self._flushes:
            noted = unflushed.begin(self._root, now)
            self._flush_at_end = noted and self._layout.exclusive

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

    def begin_sweep(self) -> int | None:
        """See ExpiryJournal.lock."""
        return self._mending(self.journal.lock)

    def must_sync(self, upload: Upload) -> bool:
        """Before anybody is told that ``upload`` is as it is."""
        if not self._flushes:
            return False
        return self._durability is Durability.ALWAYS or upload.complete

    def get(self, upload_id: str) -> Upload:
        try:
            return super().get(upload_id)
        except UploadNotFound:
            if not self._layout.is_removed():
                raise
            self._mend()
            return super().get(upload_id)  # from another process, that has met it before

    def _mend(self) -> None:
        if self._layout.mend():
            _log.error("%s was removed: it is a new one now", self._layout.root)
            self._note_unflushed(time.time_ns() - CLOCK_TICK)

    def _mending(self, act: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Do ``act``, and once more if somebody has removed a folder that every store has."""
        try:
            return act(*args, **kwargs)
        except FileNotFoundError:
            self._mend()
            return act(*args, **kwargs)

    def _write_first_info(self, upload: Upload, fd: int, later: bool) -> None:
        """Without the cost of a rename: an empty one counts as no upload, and a kill can only come
        between two pages."""
        text = infofile.encode(upload)
        if len(text) > PAGE:
            self._write_info(upload)
            return
        write_all(fd, [text], 0)
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
            self._mending(self._layout.sync_folder, "finishing")

    def _note_if_last(self, upload: Upload, size: int | None) -> None:
        """Before ``size`` bytes come, if they may be the last."""
        room = upload.room
        if upload.finish_due and room is not None and (size is None or size >= room):
            self._note_finish(upload)

    def _note_finish(self, upload: Upload) -> None:
        """As a link, for the sake of the order in which names reach the disk."""
        note = f"finishing/{upload.upload_id}"
        with suppress(FileExistsError):
            self._mending(os.symlink, "due", note, dir_fd=self._root)

    def undelivered(self) -> list[str]:
        return self._mending(self._list, "finishing")

    def is_undelivered(self, upload_id: str) -> bool:
        return self._is_there(f"finishing/{upload_id}")

    def delivered(self, upload_id: str) -> None:
        with suppress(IsADirectoryError):  # whose?
            self._remove(f"finishing/{upload_id}")

    def _add_marks(self, upload: Upload) -> None:
        """Before there is an info file: a mark without an upload does no harm."""
        sync = self.must_sync(upload)
        if upload.expires is not None:
            due = upload.expires.timestamp()
            self._mending(self.journal.add, upload.upload_id, due, sync=sync)
        for part in upload.waits_for:
            self._mending(self.add_mark, part, upload.upload_id)
            if sync:
                self._layout.sync_folder(f"waiting/{part}")
        if sync and upload.waits_for:
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

    def remove_mark(self, part: str, final: str) -> None:
        self._remove(f"waiting/{part}/{final}")
        self._remove_folder(f"waiting/{part}")

    def _remove_waiting(self, upload: Upload) -> None:
        for part in upload.waits_for:
            self.remove_mark(part, upload.upload_id)

    def waiting(self) -> list[str]:
        waiting: set[str] = set()
        for part in self._mending(self._list, "waiting"):
            finals = self.waiting_for(part)
            for final in finals:
                if self._is_waiting(final):
                    waiting.add(final)
                elif self._is_old(f"waiting/{part}/{final}"):
                    self.remove_mark(part, final)  # a crash left it
            if not finals and self._is_old(f"waiting/{part}"):
                self._remove_folder(f"waiting/{part}")
        return sorted(waiting)

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

    def _is_old(self, name: str) -> bool:
        """Older than a creation under way could be."""
        with suppress(FileNotFoundError):
            return time.time() - os.stat(name, dir_fd=self._root).st_mtime > 60
        return False

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._root)

    def _remove_folder(self, name: str) -> None:
        with suppress(OSError):  # it is not empty: others wait for the partial too
            os.rmdir(name, dir_fd=self._root)

    def _write(self, name: str, text: bytes, *, sync: bool = False) -> None:
        with closing(self._open(name, _ANEW)) as fd:
            write_all(fd, [text], 0)
            if sync:
                os.fsync(fd)
