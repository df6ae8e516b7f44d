"""The folders of a disk store, and the lock on its root.

``<root>/<2 hex>/<id>`` holds the bytes, ``<id>.info`` beside it the facts. ``expiry/``,
``unverified/`` and ``waiting/`` hold apart what must be found without reading every info
file. Everything is opened relative to descriptors of these folders; an id has no dot and no
slash, so no request can name a path.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import weakref
import zlib
from typing import TYPE_CHECKING

from ..protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("expiry", "unverified", "waiting")


class Layout:
    """The open folders under ``root``, made as they are needed. Blocking: for threads.

    Raises StoreInUse, which says who is in the way, or OSError.
    """

    def __init__(self, root: Path, *, shared: bool) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._shards: list[int | None] = [None] * 256
        self._folders: dict[str, int] = {}
        self._fds = [self._root_fd]
        self.close = weakref.finalize(self, _close_all, self._fds)
        try:
            self._lock(shared=shared)
        except BaseException:
            self.close()
            raise
        for name in FOLDERS:
            self._folders[name] = self._open_folder(name)

    def shard(self, upload_id: str) -> int:
        """The descriptor of the folder for ``upload_id``: spread by a hash, since hooks may
        choose ids that are alike."""
        index = _shard_of(upload_id)
        fd = self._shards[index]
        if fd is None:
            fd = self._shards[index] = self._open_folder(f"{index:02x}")
        return fd

    def folder(self, name: str) -> int:
        return self._folders[name]

    def path(self, upload_id: str) -> Path:
        return path_of(self.root, upload_id)

    def _open_folder(self, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._root_fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=self._root_fd)
        self._fds.append(fd)
        return fd

    def _lock(self, *, shared: bool) -> None:
        fd = os.open(".lock", os.O_RDWR | os.O_CREAT, 0o666, dir_fd=self._root_fd)
        self._fds.append(fd)
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        try:
            fcntl.flock(fd, how)
        except BlockingIOError:
            # A store that was dropped without close(), in tests say, goes with its last cycle.
            gc.collect()
            try:
                fcntl.flock(fd, how)
            except BlockingIOError:
                raise StoreInUse(self.root) from None


def path_of(root: Path, upload_id: str) -> Path:
    """Where the bytes are, for programs that want a path."""
    return root / f"{_shard_of(upload_id):02x}" / upload_id


def _shard_of(upload_id: str) -> int:
    return zlib.crc32(upload_id.encode()) & 0xFF


class StoreInUse(StoreUnavailable):
    """Another server holds the root, and their lockers do not span processes."""

    code = StoreUnavailable.code

    def __init__(self, root: Path) -> None:
        super().__init__(f"another server, or another store in this process, is using {root}")


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
