"""Locks within one process."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..protocol.errors import UploadLocked
from .base import Declined, Lock, Locker, Purpose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody who wants a lock; ``turn`` becomes the lock, or Declined."""

    purpose: Purpose
    turn: asyncio.Future[Lock]

    def decline(self) -> None:
        if not self.turn.done():
            self.turn.set_exception(Declined())

    def forget(self) -> None:
        """Nobody waits any more: the holder may still decline."""
        if self.turn.done():
            self.turn.exception()  # seen
        else:
            self.turn.cancel()


@dataclass(eq=False, slots=True)
class _Queue:
    """The holder of one lock and those who wait for it, first come first served."""

    holder: Lock
    waiting: deque[_Waiter] = field(default_factory=deque)


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
        waiter = _Waiter(purpose, asyncio.get_running_loop().create_future())
        queue.waiting.append(waiter)
        queue.holder.request_release(purpose, waiter.decline)
        try:
            async with asyncio.timeout(wait):
                return await asyncio.shield(waiter.turn)
        except BaseException as error:
            if waiter in queue.waiting:
                queue.waiting.remove(waiter)
                waiter.forget()
            elif waiter.turn.exception() is None:
                self._release(upload_id)  # it was given just now
            if isinstance(error, TimeoutError):
                raise UploadLocked from None
            raise

    def _release(self, upload_id: str) -> None:
        queue = self._queues[upload_id]
        while queue.waiting and queue.waiting[0].turn.done():
            queue.waiting.popleft()  # declined, and not yet gone
        if not queue.waiting:
            del self._queues[upload_id]
            return
        waiter = queue.waiting.popleft()
        queue.holder = Lock()
        for other in queue.waiting:
            queue.holder.request_release(other.purpose, other.decline)
        waiter.turn.set_result(queue.holder)
