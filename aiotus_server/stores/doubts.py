"""What counts when a flush has failed. Blocking: for threads.

Linux tells of pages that it could not bring to the disk once, to whoever flushes next, and takes
them for clean from then on: the next flush succeeds, reads give their bytes as long as they are
remembered, and then what the disk has. So a flush must not be tried again, and it does not say which
pages they were. The bytes since the last flush that succeeded do not count any more: they are cut
off, and the client, who asks for the offset, sends them again. A close is a flush on NFS.

A folder that cannot be flushed is another matter. The file systems themselves go on with it, or
refuse all writes from then on; so it may be flushed again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .copying import closing

if TYPE_CHECKING:
    from types import TracebackType


class NotFlushed(OSError):
    """Bytes of a file have not got to the disk, and are in doubt."""


class NamesNotFlushed(OSError):
    """The bytes have, and the upload's info file or its folders have not."""


class telling:
    """An OSError in the block is raised as ``kind``."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type[OSError]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            raise self._kind(error.errno, error.strerror) from error


class closing_data(closing):
    """Close a file that was written to at the end of the block. Raises NotFlushed."""

    __slots__ = ()

    def __exit__(self, *_: object) -> None:
        with telling(NotFlushed):
            os.close(self._fd)


def datasync(fd: int) -> None:
    """Return when the file's bytes and its size are on the disk. Raises NotFlushed."""
    with telling(NotFlushed):
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:
            os.fsync(fd)
