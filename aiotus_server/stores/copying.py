"""Bytes from file to file inside the kernel: copy_file_range, sendfile, or a plain loop.

Blocking, and interruptible between steps of 64 MiB: for threads.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEP = 64 * 1024 * 1024  # bytes
PLAIN_STEP = 1024 * 1024  # bytes
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close ``fd`` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def copy(source: int, target: int, size: int, offset: int, stopped: Callable[[], bool]) -> None:
    """Copy the first ``size`` bytes of ``source`` to ``target`` from ``offset`` on.

    Raises InterruptedError once ``stopped()`` is true, EOFError when ``source`` is shorter,
    OSError when the disk refuses.
    """
    done = 0
    for step in (_copy_file_range, _sendfile, _read_and_write):
        try:
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
