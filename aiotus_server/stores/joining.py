"""How finals are built: beside the uploads, in ``joining/``, so that there is never half a one.
Blocking: for threads."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..protocol.errors import UploadExists
from ..protocol.uploads import Final
from .copying import closing, copy
from .doubts import datasync
from .publishing import check_path
from .records import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..protocol.uploads import Upload


class Joining(Records):
    """Concatenation. Raises the TusErrors that ``concatenate`` of a store does, and OSError."""

    def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        upload_id = upload.upload_id
        assert isinstance(upload.concat, Final)
        check_path(upload)
        self._mending(self._layout.make_shard, upload_id, anew=True)
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
            with closing(self._mending(self._open, building, flags)) as target:
                fcntl.flock(target, fcntl.LOCK_EX)  # a verification may just be trying it
                self._build(target, parts, stopped, sync=self.must_sync(joined))
                if upload.finish_due:
                    self._note_finish(joined)
                self._appear(building, joined, new=not waiting)
        finally:
            self._remove(building)
        if waiting:
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

    def tidy(self) -> None:
        """Remove what a crash left half-built. What another process builds now is locked."""
        for name in self._list("joining"):
            flags = os.O_RDONLY | os.O_NOFOLLOW
            with (
                closing(os.open(f"joining/{name}", flags, dir_fd=self._root)) as fd,
                suppress(BlockingIOError, IsADirectoryError),
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
