"""The folders of a disk store, and the lock on its root.

``<root>/<2 hex>/<id>`` holds the bytes, ``<id>.info`` beside it the facts. ``expiry/``,
``finishing/``, ``unverified/`` and ``waiting/`` hold apart what must be found without reading
every info file, ``joining/`` what is being built, ``quarantine/`` what is damaged. Everything is
opened relative to a descriptor of the root; an id has no dot and no slash, so no request can name
a path.
"""

from __future__ import annotations

import fcntl
import gc
import os
import threading
import weakref
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from ..protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

SHARDS = tuple(f"{shard:02x}" for shard in range(256))
FOLDERS = ("expiry", "finishing", "joining", "unverified", "waiting")


class View:
    """The folders under ``root`` as they are: makes nothing and takes no lock, for those who only
    look.

    Names are relative to ``fd``, the descriptor of the root. Raises OSError.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._fds = [self.fd]
        self.close = weakref.finalize(self, _close_all, self._fds)

    def name(self, upload_id: str) -> str:
        """Where the bytes are, below the root."""
        return f"{_shard_of(upload_id)}/{upload_id}"

    def path(self, upload_id: str) -> Path:
        return path_of(self.root, upload_id)


class Layout(View):
    """The folders under ``root``, made as they are needed. Blocking: for threads.

    ``make`` says whether those are made at once that every store has. ``flushes`` brings the
    names of new folders to the disk. The root and the lock on it are all that is kept open.
    Raises StoreInUse, which says who is in the way, or OSError.
    """

    def __init__(
        self, root: Path, *, shared: bool, make: bool = True, flushes: bool = True
    ) -> None:
        make_folders(root, sync=flushes)
        super().__init__(root)
        self.exclusive = not shared
        self._flushes = flushes
        self._made: set[str] = set()
        self._mending = threading.Lock()
        try:
            self._fds.append(self._locked(self.fd))
            if make:
                self.make_all()
        except BaseException:
            self.close()
            raise

    def mend(self) -> bool:
        """Make again what somebody has removed of the root and the folders that every store has.
        Whether the root was among it; all that was in it is gone then. Raises StoreInUse if
        another server has the new root."""
        with self._mending:
            removed = self.is_removed()
            if removed:
                self._reopen()
            self.make_all()
            return removed

    def is_removed(self) -> bool:
        """Whether there is nothing left of the root but our descriptor."""
        return os.fstat(self.fd).st_nlink == 0

    def _reopen(self) -> None:
        """Under the same numbers, which others know too."""
        make_folders(self.root, sync=self._flushes)
        fds = [os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)]
        try:
            fds.append(self._locked(fds[0]))
            for old, new in zip(reversed(self._fds), reversed(fds), strict=True):
                os.dup2(new, old, inheritable=False)  # the root last: who sees it has the lock
        finally:
            _close_all(fds)
        self._made.clear()

    def make_all(self) -> None:
        for name in FOLDERS:
            self.make_folder(name)

    def make_shard(self, upload_id: str, *, anew: bool = False) -> str:
        """The folder for ``upload_id``: spread by a hash, since hooks may choose ids that are
        alike. Returns ``name(upload_id)``. ``anew``: though it was made before."""
        shard = _shard_of(upload_id)
        if anew or shard not in self._made:
            self.make_folder(shard)
            self._made.add(shard)
        return f"{shard}/{upload_id}"

    def make_folder(self, name: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=self.fd)
        if self._flushes:
            os.fsync(self.fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        os.close(os.open(name, flags, dir_fd=self.fd))  # a folder, and ours

    def sync_shard(self, upload_id: str) -> None:
        """Flush the names in the folder for ``upload_id``."""
        self.sync_folder(_shard_of(upload_id))

    def sync_folder(self, name: str) -> None:
        """Flush the names in a folder."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _locked(self, root: int) -> int:
        """A descriptor that holds the lock on the root until it is closed."""
        fd = os.open(".lock", os.O_RDWR | os.O_CREAT, 0o666, dir_fd=root)
        how = (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
        try:
            try:
                fcntl.flock(fd, how)
            except BlockingIOError:
                # A store that was dropped without close(), in tests say, goes with its last cycle.
                gc.collect()
                fcntl.flock(fd, how)
        except BlockingIOError:
            os.close(fd)
            raise StoreInUse(self.root) from None
        except BaseException:
            os.close(fd)
            raise
        return fd


def make_folders(path: Path, *, sync: bool) -> None:
    """Make the folder and those above it that are missing; ``sync`` flushes their names."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    if sync:
        for folder in reversed(missing):
            sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Flush the names in the folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def path_of(root: Path, upload_id: str) -> Path:
    """Where the bytes are, for programs that want a path."""
    return root / _shard_of(upload_id) / upload_id


def _shard_of(upload_id: str) -> str:
    return SHARDS[zlib.crc32(upload_id.encode()) & 0xFF]


class StoreInUse(StoreUnavailable):
    """Another server holds the root, and their lockers do not span processes."""

    code = StoreUnavailable.code

    def __init__(self, root: Path) -> None:
        super().__init__(f"another server, or another store in this process, is using {root}")


def _close_all(fds: list[int]) -> None:
    while fds:
        with suppress(OSError):  # nothing was written to them, and they are closed all the same
            os.close(fds.pop())
