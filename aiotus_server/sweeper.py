"""Removes uploads that have expired unfinished, now and then, in the background."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from datetime import timedelta
from logging import getLogger
from typing import TYPE_CHECKING

from .damage import get_held
from .disk_errors import disk_errors
from .locks import Purpose
from .protocol.errors import TusError, UploadLocked, UploadNotFound
from .stores.base import ExpirationStore

if TYPE_CHECKING:
    from .server import Server

_log = getLogger("aiotus_server")

# An upload that somebody is using right now is left for the next time.
LOCK_WAIT = 0.05  # seconds


async def sweep(server: Server) -> int:
    """Remove what is due, and tell how many that were.

    Complete uploads and those in use are not touched; what is not due is not read.
    """
    store = server.store
    if not isinstance(store, ExpirationStore):
        return 0
    await server.start()
    removed = 0
    with disk_errors():
        async with aclosing(store.expired(server.clock())) as expired:
            async for upload_id in expired:
                removed += await _remove(server, store, upload_id)
    return removed


async def _remove(server: Server, store: ExpirationStore, upload_id: str) -> bool:
    try:
        async with server.locker.lock(upload_id, Purpose.EXPIRE, wait=LOCK_WAIT):
            upload = await get_held(store, upload_id)
            if upload.complete or upload.expires is None or upload.expires > server.clock():
                return False
            await store.terminate(upload)
            waiting = await server.concatenation.waiting_for(upload)
    except (UploadLocked, UploadNotFound):
        return False
    await server.concatenation.abandon(waiting)
    await server.events.expired(upload)
    return True


class Sweeper:
    """Sweeps every ``interval``, give or take a quarter, so that many servers do not sweep at
    the same moment. Holds no task between sweeps, so a loop may be closed without ``stop``."""

    def __init__(self, server: Server, interval: timedelta = timedelta(minutes=1)) -> None:
        self._server = server
        self._interval = interval.total_seconds()
        self._timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._stopped = True

    def start(self) -> None:
        """On the running loop; doing it twice does no harm."""
        if self._stopped:
            self._stopped = False
            self._set_timer()

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sweep is not None:
            await self._sweep

    def _set_timer(self) -> None:
        delay = self._interval * random.uniform(0.75, 1.25)
        self._timer = asyncio.get_running_loop().call_later(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._sweep = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            if removed := await sweep(self._server):
                _log.info("%d expired uploads removed", removed)
        except TusError as error:
            _log.error("The sweep failed: %s", error)
        finally:
            self._sweep = None
            if not self._stopped:
                self._set_timer()
