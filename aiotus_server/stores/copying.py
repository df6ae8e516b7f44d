"""Bytes from file to file inside the kernel: blocks are shared where the file system can do
that (reflinks), else copied by copy_file_range, sendfile, or a plain loop.

Blocking, and interruptible between steps of ``STEP`` and ``SHARED_STEP``: for threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from typing import TYPE_CHECKING

from ..disk_errors import FULL

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 64 * 1024 * 1024  # bytes; whole blocks on every file system
SHARED_STEP = 16 * STEP  # of which no byte is copied
PLAIN_STEP = 1024 * 1024  # bytes
_CANNOT = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
}
# From linux/fs.h, for Python 3.11. Where the number is another one, the kernel answers ENOTTY.
_FICLONERANGE = getattr(fcntl, "FICLONERANGE", 0x4020940D)
_file_clone_range = struct.Struct("qQQQ")  # source, where in it, size, where in the target


class closing:
    """Close ``fd`` at the end of the block."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def copy(source: int, target: int, size: int, offset: int, stopped: Callable[[], bool]) -> None:
    """Copy the first ``size`` bytes of ``source`` to ``target`` from ``offset`` on.

    Raises InterruptedError once ``stopped()`` is true, EOFError when ``source`` is shorter,
    OSError when the disk refuses; ``target`` may be longer then than what was copied.
    """
    done = 0
    for step in (_share, _copy_file_range, _sendfile, _read_and_write):
        try:
            if step is _copy_file_range:
                _reserve(target, size - done, offset + done)
            while done < size:
                if stopped():
                    raise InterruptedError
                copied = step(source, target, size - done, done, offset + done)
                if not copied:
                    raise EOFError
                done += copied
        except OSError as error:
            if error.errno not in _CANNOT or step is _read_and_write:
                raise
        else:
            return


def _share(source: int, target: int, size: int, start: int, offset: int) -> int:
    """Both files have the same blocks, until one of them is written to.

    The kernel refuses unless ``start`` and ``offset`` are where blocks begin. A block that is
    not full is shared if both files end in it: so a part of odd size is, and the next one is
    copied.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no reflinks")
    size = min(size, SHARED_STEP)
    fcntl.ioctl(target, _FICLONERANGE, _file_clone_range.pack(source, start, size, offset))
    return size


def _copy_file_range(source: int, target: int, size: int, start: int, offset: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range")
    return os.copy_file_range(source, target, min(size, STEP), start, offset)


def _sendfile(source: int, target: int, size: int, start: int, offset: int) -> int:
    if not hasattr(os, "copy_file_range"):  # only Linux sends from file to file
        raise OSError(errno.ENOSYS, "no sendfile to a file")
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, start, min(size, STEP))


def _read_and_write(source: int, target: int, size: int, start: int, offset: int) -> int:
    return os.pwrite(target, os.pread(source, min(size, PLAIN_STEP), start), offset)


def _reserve(target: int, size: int, offset: int) -> None:
    """One allocation in place of one per page: a quarter of the time of a copy on ext4. And a
    full disk says so before the first byte.

    Not posix_fallocate: where the file system cannot reserve, libc would write to every block.
    """
    if _fallocate is None or size < PLAIN_STEP:
        return
    ctypes.set_errno(0)
    if _fallocate(target, 0, offset, size) != 0 and ctypes.get_errno() in FULL:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux" or sys.maxsize < 2**32:  # off_t may have 32 bits there
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


_fallocate = _find_fallocate()
