"""What the files of a disk store say about its uploads. Changes nothing; blocking: for threads."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..protocol.errors import UploadDamaged, UploadNotFound
from ..protocol.uploads import UPLOAD_ID, Final, Upload
from . import infofile, marks, unflushed
from .copying import closing
from .filesystem import is_known, may_lose_pages
from .layout import SHARDS
from .writing import first_hole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .layout import View


LARGEST_INFO = 64 * 1024 * 1024  # bytes; no server writes so many


class Snapshots:
    """Uploads as files below ``view``. Raises OSError where the disk does."""

    def __init__(self, view: View) -> None:
        self._root = view.fd
        self._name = view.name
        # Files that nobody has written to since then may have holes: the machine may have lost
        # its power before. Those of complete uploads only if they were written after the other
        # moment. Both are in nanoseconds, None if that is not looked at.
        self._opened: int | None = None
        self._may_lose_pages = may_lose_pages(view.fd)
        # Up to where uploads count whose flush has failed, until their files are so long.
        self._doubts: dict[str, int] = {}
        self._unflushed = unflushed.since(view.fd) if is_known(view.fd) else None

    def ids(self) -> Iterator[str]:
        """Of all uploads that have an info file in its place, folder by folder."""
        for shard in SHARDS:
            names: list[str] = []
            with suppress(FileNotFoundError, NotADirectoryError):
                names = self._list(shard)
            for name in names:
                upload_id, _, end = name.partition(".")
                right = UPLOAD_ID.fullmatch(upload_id) and self._name(upload_id)
                if end == "info" and right == f"{shard}/{upload_id}":
                    yield upload_id

    def get(self, upload_id: str) -> Upload:
        """Raises UploadNotFound, or UploadDamaged when there is something."""
        if not UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound
        upload = self._facts(upload_id)
        if upload.published:
            return replace(upload, offset=upload.length or 0)
        try:
            facts = os.stat(self._name(upload_id), dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            damage = UploadDamaged("data-missing", "its data file is missing")
            return self._to_be_joined_again(upload, damage)
        if not stat.S_ISREG(facts.st_mode):
            raise UploadDamaged("not-a-file", "its data file is no file")
        if upload.length is not None and facts.st_size > upload.length:
            why = f"it has {facts.st_size} bytes, but its length is {upload.length}"
            raise UploadDamaged("data-too-long", why)
        mark = self._mark(upload, facts)
        if mark is None:
            # Whoever discards unverified bytes cuts them off, and then removes the mark.
            now = os.stat(self._name(upload_id), dir_fd=self._root, follow_symlinks=False)
            facts = min(facts, now, key=lambda found: found.st_size)
        return self._checked(upload, self._snapshot(upload, facts, mark))

    def _checked(self, upload: Upload, there: Upload) -> Upload:
        """``there``, what is there of ``upload``, if that is possible."""
        whole = there.offset == upload.length and not there.unverified
        if isinstance(upload.concat, Final) and upload.concat.joined and not whole:
            why = f"{there.offset} bytes of its {upload.length} are there"
            return self._to_be_joined_again(upload, UploadDamaged("data-cut-short", why))
        if upload.outcome is not None and not there.complete:
            # The application has had it whole: it must not be resumed, nor expire.
            why = f"it was finished, and {there.offset} bytes of its {upload.length} are there"
            raise UploadDamaged("data-cut-short", why)
        return there

    def _to_be_joined_again(self, upload: Upload, damage: UploadDamaged) -> Upload:
        """A power cut has left a joined final its info file, and taken bytes: without a flush the
        kernel writes them in any order. If the partials are there, it can still be made, however
        late. Raises ``damage`` if they are not, or it is no such final."""
        concat = upload.concat
        if not isinstance(concat, Final) or not concat.joined:
            raise damage
        if not all(self._is_there(f"{self._name(part)}.info") for part in concat.parts):
            raise UploadDamaged(damage.finding, f"{damage.why}, and a partial of it is gone")
        concat = replace(concat, joined=False)
        return replace(upload, concat=concat, length=None, expires=None, lifetime=None)

    def _mark(self, upload: Upload, facts: os.stat_result) -> int | None:
        """Where bytes begin that do not count, if there are any."""
        size, mark = facts.st_size, marks.read(self._root, upload.upload_id)
        if self._opened and facts.st_ctime_ns < self._opened and self.is_suspect(upload, facts):
            with closing(self._open(self._name(upload.upload_id), os.O_RDONLY)) as fd:
                hole = first_hole(fd, size)
            if hole < size:
                mark = hole if mark is None else min(mark, hole)
        doubt = self._doubts.get(upload.upload_id, mark)
        return doubt if mark is None or doubt is None else min(mark, doubt)

    def is_suspect(self, upload: Upload, facts: os.stat_result) -> bool:
        """Whether a hole in its file may be what a power cut has left."""
        if not self._may_lose_pages:
            return False
        if facts.st_size != upload.length:
            return True  # then nothing is lost if it is not: what follows is sent again
        return self._unflushed is not None and facts.st_mtime_ns >= self._unflushed

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666, dir_fd=self._root)

    def _facts(self, upload_id: str) -> Upload:
        """What the info file says."""
        name = self._name(upload_id)
        try:
            return infofile.decode(upload_id, self._read(f"{name}.info"))
        except FileNotFoundError:
            if self._is_there(name):
                raise UploadDamaged("info-missing", "its info file is missing") from None
            raise UploadNotFound from None
        except ValueError as error:
            why = f"its info file cannot be read: {error}"
            raise UploadDamaged("info-unreadable", why) from None
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise UploadDamaged("not-a-file", "its info file is no file") from None
            raise

    def _snapshot(self, upload: Upload, facts: os.stat_result, mark: int | None = None) -> Upload:
        # A mark beyond the bytes: they were lost in a power cut, and zeros must not replace them.
        offset = facts.st_size if mark is None else min(mark, facts.st_size)
        expires = upload.expires
        if upload.lifetime is not None:
            expires = datetime.fromtimestamp(facts.st_mtime, UTC) + upload.lifetime
        return replace(upload, offset=offset, unverified=mark is not None, expires=expires)

    def waiting_for(self, upload_id: str) -> list[str]:
        try:
            return self._list(f"waiting/{upload_id}")
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_waiting(self, upload_id: str) -> bool:
        try:
            return bool(self.get(upload_id).waits_for)
        except UploadNotFound:
            return False

    def _is_there(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
            return True
        return False

    def _list(self, folder: str) -> list[str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        with closing(os.open(folder, flags, dir_fd=self._root)) as fd:
            return os.listdir(fd)

    def _read(self, name: str) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would let us wait for ever
        with closing(os.open(name, flags, dir_fd=self._root)) as fd:
            size = os.fstat(fd).st_size
            if size > LARGEST_INFO:
                raise ValueError(f"it has {size} bytes")
            return os.read(fd, size)
