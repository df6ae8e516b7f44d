"""Locks within one process."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..protocol.errors import UploadLocked
from .base import Declined, Lock, Locker, Purpose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Queue:
    """The holder of one lock and those who wait for it, first come first served."""

    __slots__ = ("holder", "waiting")

    def __init__(self, holder: Lock) -> None:
        self.holder = holder
        self.waiting: deque[tuple[asyncio.Future[Lock], Purpose]] = deque()


class MemoryLocker(Locker):
    """The default: exact, without files, for one process.

    An upload that nobody uses takes no memory here.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def lock(self, upload_id: str, purpose: Purpose, *, wait: float) -> AsyncIterator[Lock]:
        lock = await self._acquire(upload_id, purpose, wait)
        try:
            yield lock
        finally:
            self._release(upload_id)

    async def _acquire(self, upload_id: str, purpose: Purpose, wait: float) -> Lock:
        queue = self._queues.get(upload_id)
        if queue is None:
            lock = Lock()
            self._queues[upload_id] = _Queue(lock)
            return lock
        if not queue.holder.request_release(purpose):
            raise Declined
        turn: asyncio.Future[Lock] = asyncio.get_running_loop().create_future()
        entry = (turn, purpose)
        queue.waiting.append(entry)
        try:
            async with asyncio.timeout(wait):
                return await asyncio.shield(turn)
        except BaseException as error:
            if turn.done():
                self._release(upload_id)
            else:
                queue.waiting.remove(entry)
            if isinstance(error, TimeoutError):
                raise UploadLocked from None
            raise

    def _release(self, upload_id: str) -> None:
        queue = self._queues[upload_id]
        if not queue.waiting:
            del self._queues[upload_id]
            return
        turn, _ = queue.waiting.popleft()
        queue.holder = Lock()
        for _, purpose in queue.waiting:
            queue.holder.request_release(purpose)
        turn.set_result(queue.holder)
