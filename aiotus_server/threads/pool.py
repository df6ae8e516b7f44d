"""Threads that take what is to be done from one queue."""

from __future__ import annotations

import asyncio
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from .results import Job, Mailbox, Result, do

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

everywhere: set[int] = set()  # the cores of this process, once it is pinned


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
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._started = 0
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()

    def submit(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """Begin ``function(*args)`` in a thread; the future cannot be cancelled."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = Mailbox(loop)
        future = Result(loop=loop)
        if self._started < self._size:
            self._started += 1
            name = f"{self._name}-{self._started}"
            work = threading.Thread(target=self._work, args=(self._queue,), name=name, daemon=True)
            work.start()
        self._queue.put((mailbox, future, function, args))
        return future

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        return await self.submit(function, *args)

    def _work(self, queue: SimpleQueue[Job]) -> None:
        if not self._with_loop:
            anywhere()
        _work(queue)


def anywhere() -> None:
    """Let this thread run on any core of the process, though the event loop's stays on one."""
    if everywhere:
        os.sched_setaffinity(0, everywhere)


def _work(queue: SimpleQueue[Job]) -> None:
    while True:
        job = queue.get()
        do(job)
        job[0].announce()
        del job  # not to be kept alive until the next call
