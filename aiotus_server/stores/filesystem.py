"""What is known of a file system, and bringing all of it to the disk."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import Any

# Those that make no holes of zeros, and on which ``sync_file_system`` does what it should.
FILE_SYSTEMS = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # btrfs
    0xF2F52010,  # F2FS
    0x01021994,  # tmpfs
}
# ZFS makes holes of zeros where it compresses, and that is its default. (btrfs does not, however it
# compresses.) A power cut makes none: it writes whole transactions, so no size is ahead of its
# bytes.
MAKES_HOLES = {0x2FC12FC1}
# Before it, syncfs told of no error: man 2 sync.
KERNEL = (5, 8)


def is_known(fd: int) -> bool:
    """Whether ``fd`` is on one of FILE_SYSTEMS."""
    return file_system_of(fd) in FILE_SYSTEMS


def may_lose_pages(fd: int) -> bool:
    """Whether a hole in a file may be a page that a power cut has kept from the disk."""
    return file_system_of(fd) not in MAKES_HOLES


def can_sync(fd: int) -> bool:
    return _syncfs is not None and is_known(fd)


def sync_file_system(fd: int) -> None:
    """Bring to the disk all that was written to the file system of ``fd``. Blocking."""
    assert _syncfs is not None
    ctypes.set_errno(0)
    if _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def file_system_of(fd: int) -> int | None:
    """Its magic number, None where that is not known."""
    if _fstatfs is None:
        return None
    facts = (ctypes.c_long * 64)()  # more than it needs; the type comes first
    if _fstatfs(fd, ctypes.byref(facts)) != 0:
        return None
    return facts[0] & 0xFFFFFFFF


def _find(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None) if _linux else None


def _kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


_linux = sys.platform == "linux"
_fstatfs = _find("fstatfs")
_syncfs = _find("syncfs") if _linux and _kernel() >= KERNEL else None
