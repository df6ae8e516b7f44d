"""Threads for file operations, so that the event loop never waits for a disk.

A hop to a thread costs more than the small file operations themselves: what belongs together
goes into one function and one hop. Results come back to the loop in batches.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Result(asyncio.Future[Any]):
    """Cannot be cancelled: a thread's file operation goes on, and whoever waits for it holds
    the descriptor and the lock until it is over. A cancelled task learns of it afterwards."""

    def cancel(self, msg: object = None) -> bool:
        return False


class _Mailbox:
    """Results on their way to one event loop, one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._results: deque[tuple[_Result, Any, BaseException | None]] = deque()
        self._awaited = False

    def put(self, future: _Result, result: Any, error: BaseException | None) -> None:
        self._results.append((future, result, error))
        if not self._awaited:
            self._awaited = True
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._awaited = False
        while self._results:
            future, result, error = self._results.popleft()
            if isinstance(error, StopIteration):
                # A future refuses it, since a coroutine could not raise it either.
                error = RuntimeError("a function in a thread raised StopIteration")
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


class Threads:
    """At most ``size`` daemon threads, started when they are first needed.

    ``with_loop`` says that they belong on the core of the event loop, when there is one.
    """

    def __init__(self, size: int, name: str, *, with_loop: bool = False) -> None:
        self._size = size
        self._name = name
        self._with_loop = with_loop
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._queue: SimpleQueue[tuple[_Mailbox, _Result, Callable[..., Any], Any]] = SimpleQueue()
        self._started = 0
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
            WeakKeyDictionary()
        )

    def submit(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """Begin ``function(*args)`` in a thread; the future cannot be cancelled."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = _Mailbox(loop)
        future = _Result(loop=loop)
        if self._started < self._size:
            self._started += 1
            name = f"{self._name}-{self._started}"
            work = threading.Thread(target=self._work, args=(self._queue,), name=name, daemon=True)
            work.start()
        self._queue.put((mailbox, future, function, args))
        return future

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        return await self.submit(function, *args)

    def _work(self, queue: SimpleQueue[Any]) -> None:
        if _everywhere and not self._with_loop:
            os.sched_setaffinity(0, _everywhere)
        _work(queue)


def _work(queue: SimpleQueue[tuple[_Mailbox, _Result, Callable[..., Any], Any]]) -> None:
    while True:
        mailbox, future, function, args = queue.get()
        result: Any = None
        error: BaseException | None = None
        try:
            result = function(*args)
        except BaseException as caught:
            error = caught
        mailbox.put(future, result, error)
        # Not to be kept alive until the next call.
        del mailbox, future, function, args, result, error


_everywhere: set[int] = set()  # the cores of this process, once it is pinned


def pin(core: int) -> None:
    """Keep this thread, the event loop's, and those of small operations on one core, where the
    GIL passes between them at less cost. The other threads may run on any. Call it before the
    first use of any. Does nothing where threads cannot be bound to cores.
    """
    if hasattr(os, "sched_setaffinity"):
        if not _everywhere:
            _everywhere.update(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})


# What takes microseconds to milliseconds: opening, writing a piece, reading an info file.
quick = Threads(4, "tus-quick", with_loop=True)
# What moves the bytes of large bodies. It hardly needs the GIL, and shares itself out.
pumping = Threads(max(4, 2 * (os.cpu_count() or 1)), "tus-pump")
# What waits for the disk itself. Many at a time cost it hardly more than one.
syncing = Threads(16, "tus-sync")
# What may take seconds: concatenation, sweeping, copying to another file system.
slow = Threads(4, "tus-slow")
