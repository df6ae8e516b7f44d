"""Bytes of one body into a file, so that the file's size stays a true offset whatever happens.

When a process dies, what it wrote is in the kernel, and the size is right. After a power cut the
size may be ahead of the bytes:

* A page that is not full reaches the disk, is filled, and pages behind it reach the disk before
  it does so again: its second half is zeros. So within a body only whole pages are written.
* ext4 may record a size inside a block before the bytes in that block are on the disk. So where
  an append begins inside a page, that page is brought to the disk before anything behind it, and
  until it is there a mark says where the append began.
* A page that is to be written first is written last. That leaves a hole, which can be found:
  see ``first_hole``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from ..body import write_all
from .doubts import NotFlushed, datasync

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = max(4096, os.sysconf("SC_PAGE_SIZE"))  # bytes
# So many are handed to the disk at a time, while the next come: the last flush is short then.
WRITE_BACK = 8 * 1024 * 1024  # bytes


class FileWriter:
    """Writes behind each other what it is given, from ``offset`` on. Blocking: for threads, one
    at a time.

    ``offset`` is up to where it has written. ``write_back`` has the disk begin with what is
    there. ``settled`` is called when the page in which the file ended is on the disk.
    ``reserve`` bytes must stay free on it.
    """

    def __init__(
        self,
        fd: int,
        offset: int,
        *,
        write_back: bool = False,
        settled: Callable[[], None] | None = None,
        reserve: int = 0,
    ) -> None:
        self.fd = fd
        self.offset = offset
        self.held = b""  # the begin of a page, to be written with its rest
        self._write_back = write_back
        self._begun = offset // PAGE * PAGE  # behind it the disk has not been asked to begin
        self._in_page = offset % PAGE != 0
        self._settled = settled
        self._reserve = reserve

    @property
    def unsettled(self) -> bool:
        """The file ended inside a page, and nothing has come since."""
        return self._in_page

    def write(self, pieces: Sequence[bytes | memoryview], *, last: bool) -> None:
        """Write ``pieces``, but for what does not fill a page, unless they are the ``last``.

        ``pieces`` may be reused afterwards. Raises OSError; what was written before stays, but
        for NotFlushed, and nothing must be written any more.
        """
        if self.held:
            pieces, self.held = [self.held, *pieces], b""
        size = sum(map(len, pieces))
        rest = 0 if last else min(size, (self.offset + size) % PAGE)
        pieces, behind = split(pieces, size - rest) if rest else (pieces, ())
        held = b"".join(behind)
        if self._in_page and size > rest:
            pieces = self._fill_page(pieces)
        self._write(pieces)
        self.held = held
        if self._write_back and self.offset - self._begun >= WRITE_BACK:
            self._begin_write_back()

    def finish(self) -> None:
        """Write what was held back."""
        self.write((), last=True)

    def _fill_page(self, pieces: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        """Write to the end of the page in which the file ends; what is left of ``pieces``."""
        first, pieces = split(pieces, PAGE - self.offset % PAGE)
        self._write(first)
        self._in_page = False
        bring_to_disk(self.fd, self._begun, PAGE)
        if self._settled is not None:
            self._settled()
        return pieces

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        if pieces:
            check_reserve(self.fd, pieces, self._reserve)
            self.offset = write_all(self.fd, pieces, self.offset)

    def _begin_write_back(self) -> None:
        end = self.offset // PAGE * PAGE
        if _sync_file_range is not None:
            _sync_file_range(self.fd, self._begun, end - self._begun, _WRITE)
        self._begun = end


def free_space(fd: int) -> int:
    """Bytes on the file system of ``fd`` that a user who is not root may have."""
    numbers = os.fstatvfs(fd)
    return numbers.f_bavail * numbers.f_frsize


def check_reserve(fd: int, pieces: Sequence[bytes | memoryview], reserve: int) -> None:
    """Raises OSError as a full disk would if ``pieces`` would leave less than ``reserve`` bytes."""
    if reserve and free_space(fd) - sum(map(len, pieces)) < reserve:
        raise OSError(errno.ENOSPC, "what is left on the disk is reserved")


def split(
    pieces: Sequence[bytes | memoryview], size: int
) -> tuple[list[bytes | memoryview], list[bytes | memoryview]]:
    """The first ``size`` bytes of ``pieces``, and the rest."""
    before: list[bytes | memoryview] = []
    for index, piece in enumerate(pieces):
        if len(piece) > size:
            view = memoryview(piece)
            return [*before, view[:size]] if size else before, [view[size:], *pieces[index + 1 :]]
        before.append(piece)
        size -= len(piece)
    return before, []


def first_hole(fd: int, size: int) -> int:
    """Where the first hole in the file begins; ``size`` (bytes) if there is none, or the file
    system cannot tell."""
    try:
        return min(os.lseek(fd, 0, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP):
            raise
        return size


def bring_to_disk(fd: int, offset: int, size: int) -> None:
    """Wait until these bytes of the file are on the disk. Its size and its name may not be.
    Raises NotFlushed."""
    if _sync_file_range is None:
        datasync(fd)
        return
    ctypes.set_errno(0)
    if _sync_file_range(fd, offset, size, _WAIT_BEFORE | _WRITE | _WAIT_AFTER) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.ESPIPE, errno.EOPNOTSUPP):
            raise NotFlushed(number, os.strerror(number))
        datasync(fd)


# From linux/fs.h.
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function  # type: ignore[no-any-return] # ctypes finds it


_sync_file_range = _find_sync_file_range()
