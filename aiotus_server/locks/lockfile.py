"""The file behind a FileLocker: byte-range locks that the kernel drops when their owner dies.

They are OFD locks: owned by an open file description. Classic POSIX locks are the process's:
two lockers in one process would not exclude each other, and closing any descriptor of the file
would drop all of them. Nothing is stored at the offsets that are locked. An upload's lock is a
byte below ``SLOTS``, and each live locker holds a byte of its own, its slot, above it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Python has these names on Linux only; elsewhere the package can still be imported.
_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_SETLKW = getattr(fcntl, "F_OFD_SETLKW", None)
_GETLK = getattr(fcntl, "F_OFD_GETLK", None)
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid

SLOTS = 1 << 62
END = (1 << 63) - 1
TOKEN = 8  # bytes


def check_platform() -> None:
    """Raises NotImplementedError where there are no such locks."""
    if None in (_SETLK, _SETLKW, _GETLK):
        raise NotImplementedError(
            "FileLocker needs Linux: this system has no locks of open file descriptions (OFD)"
        )


class LockFile:
    """An open description of the file at ``path``, which is made if need be.

    No call waits, but for ``wait_until_free``. Raises OSError on opening.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.owner = os.fstat(self._fd).st_uid

    def close(self) -> None:
        """Drops every lock taken through this description. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def is_removed(self) -> bool:
        """Whether nobody else can open it any more."""
        return os.fstat(self._fd).st_nlink == 0

    def lock(self, offset: int) -> bool:
        """Whether the byte is ours now; it may have been before."""
        try:
            fcntl.fcntl(self._fd, _SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, offset, 1, 0))  # type: ignore[arg-type]
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: another's
            return False
        return True

    def unlock(self, offset: int) -> None:
        fcntl.fcntl(self._fd, _SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, offset, 1, 0))  # type: ignore[arg-type]

    def is_free(self, offset: int) -> bool:
        """Whether no other description has the byte."""
        return self._in_the_way(offset, offset + 1) is None

    def take_slot(self) -> int:
        """A slot that nobody ever had, and that is ours until we close or die."""
        slot = SLOTS + secrets.randbelow(END - SLOTS)
        assert self.lock(slot)
        return slot

    def other_slots(self, start: int = SLOTS, end: int = END) -> Iterator[int]:
        """The slots of all others that live.

        The kernel names some lock in a range, not the lowest: look on both sides of it.
        """
        if start < end and (slot := self._in_the_way(start, end)) is not None:
            yield slot
            yield from self.other_slots(start, slot)
            yield from self.other_slots(slot + 1, end)

    def _in_the_way(self, start: int, end: int) -> int | None:
        """Some byte in the range that another has, but not one that it only waits at."""
        # A shared lock meets exclusive ones only, so those in wait_until_free are not seen.
        asked = _FLOCK.pack(fcntl.F_RDLCK, 0, start, end - start, 0)
        how, _, found, *_ = _FLOCK.unpack(fcntl.fcntl(self._fd, _GETLK, asked))  # type: ignore[arg-type]
        return None if how == fcntl.F_UNLCK else found

    def token(self) -> bytes:
        """Differs from that of before whenever somebody has called ``renew_token`` since."""
        return os.pread(self._fd, TOKEN, 0)

    def renew_token(self) -> None:
        os.pwrite(self._fd, os.urandom(TOKEN), 0)


def wait_until_free(path: Path, slot: int) -> None:
    """Blocks until the owner of ``slot`` has closed its description or is dead."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # its own: closing another waits for no call
    try:
        fcntl.fcntl(fd, _SETLKW, _FLOCK.pack(fcntl.F_RDLCK, 0, slot, 1, 0))  # type: ignore[arg-type]
    finally:
        os.close(fd)
