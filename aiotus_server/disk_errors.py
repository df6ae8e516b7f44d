"""What the disk says, turned into what the client is told."""

from __future__ import annotations

import errno
from logging import getLogger
from typing import TYPE_CHECKING

from .protocol.errors import StoreFailed, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from types import TracebackType

_log = getLogger("aiotus_server")


class DiskErrors:
    """Around every call of a store: an OSError becomes StoreFull or, logged, StoreFailed."""

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
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _log.warning("The disk is full: %s", error)
            raise StoreFull from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _log.error("The store has no descriptor left: %s", error)
            raise StoreUnavailable("there is no file descriptor left") from error
        _log.error("The store failed", exc_info=error)
        raise StoreFailed from error


_disk_errors = DiskErrors()


def disk_errors() -> DiskErrors:
    """It has no state: there is one for all."""
    return _disk_errors
