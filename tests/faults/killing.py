"""A disk that ends the process, as SIGKILL would, at one of the calls that change something."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from aiotus_server.stores.writing import PAGE

from .disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable

KILLED = 77
# Seconds in which a client may hear of what should not have been acknowledged yet.
MOMENT = 0.003
CHANGES = {
    *("write", "pwrite", "pwritev", "ftruncate", "link", "symlink", "unlink", "rename", "mkdir"),
    *("rmdir", "copy_file_range", "sendfile", "ioctl", "posix_fallocate", "fchmod", "utime"),
}


class KillingDisk(Disk):
    """Flushes change nothing that a process could see, and reads do not either: so a kill before
    one of them leaves the same as a kill before the next change."""

    _changes = 0
    _deadly: int | None = None
    _half = False
    _dying = False

    def arm_kill(self, change: int, *, half: bool) -> None:
        """Before the ``change``-th from now on, or with ``half`` of it done. Where there is no
        half of it, the process ends well."""
        self._changes, self._half = 0, half
        self._deadly = change

    def disarm_kill(self) -> None:
        self._deadly = None

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        guarded = super()._guarded(name, function)

        def killing(*args: Any, **kwargs: Any) -> Any:
            if self._is_deadly(name, args):
                self._dying = True
                if self._half and _do_half(name, function, args) is None:
                    os._exit(0)
                time.sleep(MOMENT)
                os._exit(KILLED)
            return guarded(*args, **kwargs)

        return killing

    def _is_deadly(self, name: str, args: tuple[Any, ...]) -> bool:
        creates = name == "open" and args[1] & (os.O_CREAT | os.O_TRUNC)
        if not self._of_store() or self._deadly is None or not (name in CHANGES or creates):
            return False
        while self._dying:
            time.sleep(1)
        self._changes += 1
        return self._changes > self._deadly


def _do_half(name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> object:
    """What it returned; None if it cannot be parted: the kernel ends a write between two pages."""
    if name in ("write", "pwrite", "pwritev"):
        data = b"".join(args[1]) if name == "pwritev" else args[1]
        half = data[: _half_of(len(data))]
        return function(args[0], [half] if name == "pwritev" else half, *args[2:]) if half else None
    if name == "copy_file_range" and _half_of(args[2]):
        return function(args[0], args[1], _half_of(args[2]), *args[3:])
    return None


def _half_of(size: int) -> int:
    return size // 2 // PAGE * PAGE
