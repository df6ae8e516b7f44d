"""What the disk says, turned into what the client is told."""

from __future__ import annotations

import errno
from logging import getLogger
from typing import TYPE_CHECKING

from .protocol.errors import StoreFailed, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from types import TracebackType

_log = getLogger("aiotus_server")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What somebody can mend while the server runs, and no traceback makes clearer.
_UNAVAILABLE = {
    errno.EMFILE: "there is no file descriptor left",
    errno.ENFILE: "there is no file descriptor left",
    errno.EROFS: "its file system is read-only",
}


class DiskErrors:
    """Around every call of a store: an OSError becomes StoreFull, StoreUnavailable or, logged,
    StoreFailed."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError) or isinstance(error, InterruptedError):
            return
        if error.errno in FULL:
            _log.warning("The disk is full: %s", error)
            raise StoreFull from error
        if why := _UNAVAILABLE.get(error.errno or 0):
            _log.error("The store cannot be used: %s", error)
            raise StoreUnavailable(why) from error
        _log.error("The store failed", exc_info=error)
        raise StoreFailed from error


_disk_errors = DiskErrors()


def disk_errors() -> DiskErrors:
    """It has no state: there is one for all."""
    return _disk_errors
