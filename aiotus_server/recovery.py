"""What a crash has left to do. In the background, from the start of the server on."""

from __future__ import annotations

from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING

from .damage import get_held
from .disk_errors import disk_errors
from .locks import Purpose
from .protocol.errors import Refuse, TusError, UploadLocked, UploadNotFound

if TYPE_CHECKING:
    from collections.abc import Collection

    from .call import Call
    from .server import Server

_log = getLogger("aiotus_server")

# Seconds that the first and the second attempt wait for whoever uses an upload. Who receives its
# bytes declines at once, and will tell of it.
LOCK_WAITS = (0.05, 3)


async def recover(server: Server, call: Call) -> None:
    """Make the final uploads that wait for nothing any more, and tell the application of the
    uploads that became complete without its being told. Both are marked apart, so that no
    other upload is read."""
    for work in (server.concatenation.join_all, partial(deliver_all, server)):
        try:
            await work(call)
        except TusError as error:
            if not server.stopping:
                _log.error("Recovery could not be done: %s", error)


async def deliver_all(server: Server, call: Call) -> None:
    with disk_errors():
        upload_ids: Collection[str] = await server.store.undelivered()
    if server.events.deaf:
        if upload_ids:
            _log.warning(
                "The application was not told of the end of %d %s, and has no hooks now: noted "
                "until it has",
                len(upload_ids),
                "upload" if len(upload_ids) == 1 else "uploads",
            )
        return
    for wait in LOCK_WAITS:
        upload_ids = [
            upload_id
            for upload_id in upload_ids
            if not server.stopping and not await _deliver(server, upload_id, call, wait)
        ]


async def _deliver(server: Server, upload_id: str, call: Call, wait: float) -> bool:
    """Whether it was done, in one way or another."""
    try:
        async with server.locker.lock(upload_id, Purpose.RECOVER, wait=wait):
            try:
                upload = await get_held(server.store, upload_id)
            except UploadNotFound:
                with disk_errors():
                    await server.store.delivered(upload_id)
            else:
                with disk_errors():
                    # Whoever held the lock until now may have told of it.
                    due = await server.store.is_undelivered(upload_id)
                if due:
                    await server.events.deliver(upload, call)
    except UploadLocked:
        return False
    except Refuse:
        return True  # recorded with the upload, or to be asked for again
    except TusError as error:
        _log.error(
            "%s is complete, but could not be finished: %s",
            upload_id,
            error,
            exc_info=error.__cause__,
        )
    return True
