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


_Job = tuple["_Mailbox", _Result, "Callable[..., Any]", tuple[Any, ...]]


class _Mailbox:
    """Results on their way to one event loop, one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[_Result, Any, BaseException | None]] = deque()
        self._awaited = False

    def put(self, future: _Result, result: Any, error: BaseException | None) -> None:
        self._results.append((future, result, error))

    def announce(self) -> None:
        """Have the loop deliver what was put in."""
        if not self._awaited:
            self._awaited = True
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                self.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
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


def _do(job: _Job) -> None:
    """One job. Nothing of it is kept alive afterwards but its result, until it is delivered."""
    mailbox, future, function, args = job
    result: Any = None
    error: BaseException | None = None
    try:
        result = function(*args)
    except BaseException as caught:
        error = caught
    mailbox.put(future, result, error)
    del error  # it refers to this frame


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
        self._queue: SimpleQueue[_Job] = SimpleQueue()
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


def _work(queue: SimpleQueue[_Job]) -> None:
    while True:
        job = queue.get()
        _do(job)
        job[0].announce()
        del job  # not to be kept alive until the next call


class _Counter(_Mailbox):
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
        self._jobs: deque[_Job] = deque()
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
        future = _Result(loop=loop)
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

    def _do_some(self, jobs: deque[_Job]) -> None:
        """What is there now; what comes meanwhile is for the next time."""
        counters = set()
        for _ in range(len(jobs)):
            try:
                job = jobs.popleft()
            except IndexError:
                break  # another thread helps
            _do(job)
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


# What takes microseconds: opening, reading an info file, writing a small body.
small = Lane(4, "tus-small")
# What takes up to milliseconds: reading and writing pieces, hashing.
quick = Threads(4, "tus-quick", with_loop=True)
# What moves the bytes of large bodies. It hardly needs the GIL, and shares itself out.
pumping = Threads(max(4, 2 * (os.cpu_count() or 1)), "tus-pump")
# What waits for the disk itself. Many at a time cost it hardly more than one.
syncing = Threads(16, "tus-sync")
# What may take seconds: concatenation, sweeping, copying to another file system.
slow = Threads(4, "tus-slow")
