"""One thread after the other, for operations of microseconds."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from .results import Job, Mailbox, Result, do

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Counter(Mailbox):
    """The mailbox of a loop that has work for a lane."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.called = False  # the lane begins soon
        self.watched = False


class Lane:
    """Threads for operations of microseconds: one does them one after the other, and hands all
    that it has done to the event loop at once.

    Threads that take turns, with the loop and with each other, cost more than such operations:
    each system call lets go of the GIL, and each that waits for it is woken. So work begins
    when the loop has handed out all that it had, and one thread does it. Another is called only
    when that one has done nothing for ``PATIENCE``: the disk has kept it.
    """

    PATIENCE = 0.005  # seconds

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._jobs: deque[Job] = deque()
        self._idle: list[threading.Lock] = []  # one for each thread that sleeps; it holds it
        self._started = 0
        self._done = 0
        self._counters: WeakKeyDictionary[asyncio.AbstractEventLoop, _Counter] = WeakKeyDictionary()

    def submit(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """Begin ``function(*args)`` in a thread, soon; the future cannot be cancelled."""
        loop = asyncio.get_running_loop()
        counter = self._counters.get(loop)
        if counter is None:
            counter = self._counters[loop] = _Counter(loop)
        future = Result(loop=loop)
        self._jobs.append((counter, future, function, args))
        if not counter.called:
            counter.called = True
            loop.call_soon(self._begin, counter)
        return future

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        return await self.submit(function, *args)

    def _begin(self, counter: _Counter) -> None:
        counter.called = False
        if len(self._idle) == self._started:
            self._wake()
        if not counter.watched:
            self._watch(counter)

    def _watch(self, counter: _Counter) -> None:
        counter.watched = True
        counter.loop.call_later(self.PATIENCE, self._look, counter, self._done)

    def _look(self, counter: _Counter, done: int) -> None:
        counter.watched = False
        counter.deliver()
        if self._jobs:
            if self._done == done:
                self._wake()
            self._watch(counter)

    def _wake(self) -> None:
        try:
            self._idle.pop().release()
        except IndexError:
            if self._started < self._size:
                self._started += 1
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        jobs, idle = self._jobs, self._idle
        asleep = threading.Lock()
        asleep.acquire()
        while True:
            while jobs:
                self._do_some(jobs)
            idle.append(asleep)
            if not jobs or not _taken_from(idle, asleep):
                asleep.acquire()

    def _do_some(self, jobs: deque[Job]) -> None:
        """What is there now; what comes meanwhile is for the next time."""
        counters = set()
        for _ in range(len(jobs)):
            try:
                job = jobs.popleft()
            except IndexError:
                break  # another thread helps
            do(job)
            self._done += 1
            counters.add(job[0])
            del job
        for counter in counters:
            counter.announce()


def _taken_from(idle: list[threading.Lock], asleep: threading.Lock) -> bool:
    """False: somebody has taken it already, to wake its thread."""
    try:
        idle.remove(asleep)
    except ValueError:
        return False
    return True
