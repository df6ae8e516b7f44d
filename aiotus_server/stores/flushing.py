"""Bringing to the disk what many uploads have written: one flush for all that wait for one.

An upload of 4 KiB needs three flushes of its own, and each takes milliseconds. So those that
come while others are being flushed wait, and are flushed together by ``syncfs``, which takes
about as long as one of them. It also waits for what everybody else has written to the file
system. So it is left out while large bodies arrive, for a while when it took long, and for good
when it has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from .. import threads
from ..threads.results import Result
from .filesystem import can_sync, sync_file_system

# So many uploads are flushed by themselves at the same time, before others gather.
APART = 2
# Seconds for which as many are expected as came at last, and that are waited for them.
MOMENT = 0.05
GATHER_TIME = 0.004
# Of a body, in bytes: nobody waits until so much is on the disk.
LARGE = 1024 * 1024
# Fewer are better flushed by themselves.
GROUP = 4
# Seconds that a flush of everything may take before it is somebody else's bytes that it waits
# for; and for how long it is then left out, at first and at most.
LONG = 0.05
PAUSE = (1.0, 64.0)

Flush = Callable[[], None]


class Flushes:
    """Of one store, whose files are on the file system of ``fd``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._may_group = can_sync(fd)
        self._waiting: list[tuple[Flush, Result]] = []
        self._apart = 0
        self._grouped = False
        self._pause, self._not_before = PAUSE[0], 0.0
        self._last, self._busy_until = 0, 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._large = 0  # bodies that arrive now

    async def flush(self, own: Flush) -> None:
        """Return when what was written before is on the disk. ``own`` flushes what this caller
        wrote and nothing else. Raises what ``own`` does if not all of that could be brought
        there."""
        flushed = Result(loop=asyncio.get_running_loop())
        self._waiting.append((own, flushed))
        self._begin()
        await flushed

    @contextmanager
    def avoiding(self, length: int | None) -> Iterator[None]:
        """While a body of so many bytes is written, if that is much to wait for."""
        large = length is not None and length > LARGE
        self._large += large
        try:
            yield
        finally:
            self._large -= large

    def _begin(self) -> None:
        if not self._waiting or self._grouped:
            return
        if self._can_group():
            if self._apart >= APART:
                return  # more gather meanwhile
            if len(self._waiting) >= max(GROUP, self._expected()):
                self._flush_all()
                return
            if self._expected():
                self._gather()
                return
        waiting, self._waiting = self._waiting, []
        self._flush_apart(waiting)

    def _flush_apart(self, waiting: list[tuple[Flush, Result]]) -> None:
        for own, flushed in waiting:
            self._apart += 1
            flushing = threads.syncing.submit(own)
            flushing.add_done_callback(partial(self._flushed, flushed))

    def _flushed(self, flushed: Result, done: asyncio.Future[None]) -> None:
        self._apart -= 1
        error = done.exception()
        if error is None:
            flushed.set_result(None)
        else:
            flushed.set_exception(error)
        self._begin()

    def _flush_all(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if not self._waiting:
            return
        group, self._waiting = self._waiting, []
        self._grouped = True
        begun = asyncio.get_running_loop().time()
        flushing = threads.syncing.submit(sync_file_system, self._fd)
        flushing.add_done_callback(partial(self._all_flushed, group, begun))

    def _all_flushed(
        self, group: list[tuple[Flush, Result]], begun: float, done: asyncio.Future[None]
    ) -> None:
        self._grouped = False
        now = asyncio.get_running_loop().time()
        self._last, self._busy_until = len(group), now + MOMENT
        if now - begun > LONG:
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, PAUSE[1])
        else:
            self._pause = max(self._pause / 2, PAUSE[0])
        if done.exception() is None:
            for _, flushed in group:
                flushed.set_result(None)
        else:
            # It may be anybody's bytes that did not get there, also those of somebody who does not
            # wait yet, and the kernel tells this descriptor only once. But a flush of their own
            # file will tell him.
            self._may_group = False
            self._flush_apart(group)
        self._begin()

    def _expected(self) -> int:
        """How many may come in a moment, as a moment ago."""
        loop = asyncio.get_running_loop()
        return self._last * 3 // 4 if loop.time() < self._busy_until else 0

    def _gather(self) -> None:
        """Give those who are expected a moment to come."""
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_TIME, self._flush_all)

    def _can_group(self) -> bool:
        if not self._may_group or self._large:
            return False
        return asyncio.get_running_loop().time() >= self._not_before
