"""Locks within one process."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from ..protocol.errors import UploadLocked
from .base import Declined, Lock, Locker, Purpose


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


class _Request(AbstractAsyncContextManager[Lock]):
    """One use of a lock, from asking for it to its release."""

    __slots__ = ("_locker", "_purpose", "_upload_id", "_wait")

    def __init__(self, locker: MemoryLocker, upload_id: str, purpose: Purpose, wait: float) -> None:
        self._locker = locker
        self._upload_id = upload_id
        self._purpose = purpose
        self._wait = wait

    async def __aenter__(self) -> Lock:
        return await self._locker.acquire(self._upload_id, self._purpose, self._wait)

    async def __aexit__(self, *_: object) -> None:
        self._locker.release(self._upload_id)


class MemoryLocker(Locker):
    """The default: exact, without files, for one process.

    An upload that nobody uses takes no memory here.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def lock(
        self, upload_id: str, purpose: Purpose, *, wait: float
    ) -> AbstractAsyncContextManager[Lock]:
        return _Request(self, upload_id, purpose, wait)

    async def acquire(self, upload_id: str, purpose: Purpose, wait: float) -> Lock:
        """``lock`` without the context: ``release`` must follow. Raises as ``lock`` does."""
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
                self.release(upload_id)  # it was given just now
            if isinstance(error, TimeoutError):
                raise UploadLocked from None
            raise

    def release(self, upload_id: str) -> None:
        """Give up the lock, to the first of those who wait."""
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
