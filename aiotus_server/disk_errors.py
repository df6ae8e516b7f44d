"""What the disk says, turned into what the client is told."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from logging import getLogger
from typing import TYPE_CHECKING

from .protocol.errors import StoreFailed, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = getLogger("aiotus_server")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Around every call of a store: an OSError becomes StoreFull or, logged, StoreFailed."""
    try:
        yield
    except InterruptedError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _log.error("The store has no descriptor left: %s", error)
            raise StoreUnavailable("there is no file descriptor left") from error
        _log.exception("The store failed")
        raise StoreFailed from error
