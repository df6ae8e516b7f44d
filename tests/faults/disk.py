"""A disk that fails at a call of one's choice.

The store calls ``os`` and ``fcntl`` in threads of its own. Their functions are replaced by such as
count the calls of these threads, and fail at the one that was asked for.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any

from aiotus_server.stores import filesystem, flushing, unflushed, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

# All that can fail; ``close`` is apart, since it has closed the descriptor whatever it says.
CALLS = (
    *("open", "pwrite", "pwritev", "write", "pread", "read", "ftruncate", "lseek"),
    *("fsync", "fdatasync", "link", "symlink", "readlink", "unlink", "rename", "mkdir", "rmdir"),
    *("stat", "lstat", "fstat", "listdir", "statvfs", "copy_file_range", "sendfile"),
    *("fchmod", "chmod", "utime", "posix_fadvise", "posix_fallocate"),
)


# What the store takes from another place to a name that begins so goes to another file system.
ELSEWHERE = "elsewhere"


class Disk:
    """``arm`` it, and the ``call``-th call from then on fails, or all do from it on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []  # since it was armed
        self._failing: Callable[[int], bool] = lambda call: False
        self._errno = 0
        self._lock = threading.Lock()
        for name in CALLS:
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._guarded(name, getattr(os, name)))
        monkeypatch.setattr(os, "link", _on_one_file_system(os.link))
        monkeypatch.setattr(os, "close", self._closing(os.close))
        monkeypatch.setattr(fcntl, "flock", self._guarded("flock", fcntl.flock))
        monkeypatch.setattr(fcntl, "ioctl", self._guarded("ioctl", fcntl.ioctl))
        synced = self._guarded("syncfs", filesystem.sync_file_system)
        for module in (flushing, unflushed):
            monkeypatch.setattr(module, "sync_file_system", synced)
        if writing._sync_file_range is not None:  # noqa: SLF001
            ranged = self._returning(writing._sync_file_range)  # noqa: SLF001
            monkeypatch.setattr(writing, "_sync_file_range", ranged)

    def arm(self, number: int, call: int, *, on: bool = False) -> None:
        """``on`` fails what follows too."""
        with self._lock:
            self.calls = []
            self._errno = number
            self._failing = (lambda n: n >= call) if on else (lambda n: n == call)

    def disarm(self) -> list[str]:
        """The calls that there were."""
        with self._lock:
            self._failing = lambda call: False
            calls, self.calls = self.calls, []
            return calls

    @staticmethod
    def _of_store() -> bool:
        return threading.current_thread().name.startswith("tus-")

    def _fails(self, name: str) -> bool:
        if not self._of_store():
            return False
        with self._lock:
            self.calls.append(name)
            return self._failing(len(self.calls) - 1)

    def _guarded(self, name: str, function: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._fails(name):
                raise OSError(self._errno, os.strerror(self._errno))
            return function(*args, **kwargs)

        return guarded

    def _closing(self, function: Any) -> Any:
        def close(fd: int) -> None:
            function(fd)
            if self._fails("close"):
                raise OSError(self._errno, os.strerror(self._errno))

        return close

    def _returning(self, function: Any) -> Any:
        """For a function of the C library."""

        def returning(*args: Any) -> int:
            if self._fails("sync_file_range"):
                ctypes.set_errno(self._errno)
                return -1
            result: int = function(*args)
            return result

        return returning


def _on_one_file_system(link: Any) -> Any:
    def linked(source: Any, target: Any, **kwargs: Any) -> None:
        names = [os.path.basename(name) for name in (source, target)]
        if names[1].startswith(ELSEWHERE) and not names[0].endswith(".publishing"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target, **kwargs)

    return linked
