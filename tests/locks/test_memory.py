from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from aiotus_server.locks import Declined, Lock, MemoryLocker, Purpose
from aiotus_server.protocol.errors import UploadLocked

if TYPE_CHECKING:
    from collections.abc import Callable

APPEND, INSPECT, TERMINATE = Purpose.APPEND, Purpose.INSPECT, Purpose.TERMINATE
SOON = 0.02  # seconds
LONG = 5.0  # seconds: a test that waits so long has failed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Request:
    """Somebody who wants a lock, and holds it until told."""

    def __init__(
        self,
        locker: MemoryLocker,
        purpose: Purpose = APPEND,
        *,
        upload_id: str = "a",
        wait: float = LONG,
        gives_way: Callable[[Purpose], bool] | None = None,
    ) -> None:
        self.asked: list[Purpose] = []
        self.held = asyncio.Event()
        self.over = asyncio.Event()
        self.lock: Lock | None = None
        self._gives_way = gives_way
        self.task = asyncio.create_task(self._run(locker, upload_id, purpose, wait))

    async def _run(
        self, locker: MemoryLocker, upload_id: str, purpose: Purpose, wait: float
    ) -> None:
        async with locker.lock(upload_id, purpose, wait=wait) as self.lock:
            self.held.set()
            self.lock.on_release_requested(self._hear)
            await self.over.wait()

    def _hear(self, purpose: Purpose) -> bool:
        self.asked.append(purpose)
        if self._gives_way is None:
            return True
        return self._gives_way(purpose)

    async def finish(self) -> None:
        self.over.set()
        await self.task


@pytest.fixture
def locker() -> MemoryLocker:
    return MemoryLocker()


async def test_one_at_a_time_in_the_order_of_asking(locker: MemoryLocker) -> None:
    inside, order = 0, []

    async def use(number: int) -> None:
        nonlocal inside
        async with locker.lock("a", APPEND, wait=LONG):
            inside += 1
            order.append(number)
            await turns()
            assert inside == 1
            inside -= 1

    await asyncio.gather(*(use(number) for number in range(20)))
    assert order == list(range(20))


async def test_uploads_do_not_wait_for_each_other(locker: MemoryLocker) -> None:
    async with AsyncExitStack() as stack:
        for upload_id in ("a", "b", "c"):
            await stack.enter_async_context(locker.lock(upload_id, APPEND, wait=0))


async def test_the_holder_is_asked_to_let_go(locker: MemoryLocker) -> None:
    first = Request(locker)
    await first.held.wait()
    assert first.lock is not None
    requested = [first.lock.release_requested]
    second = Request(locker, INSPECT)
    await turns()
    requested.append(first.lock.release_requested)
    assert (first.asked, requested) == ([INSPECT], [None, INSPECT])
    third = Request(locker, TERMINATE)
    await turns()
    assert first.asked == [INSPECT, TERMINATE]
    assert not second.held.is_set()
    await first.finish()
    await second.held.wait()
    assert not third.held.is_set()
    await second.finish()
    await third.held.wait()
    await third.finish()


async def test_who_gets_the_lock_hears_of_those_who_wait_already(locker: MemoryLocker) -> None:
    first = Request(locker)
    await first.held.wait()
    second, third = Request(locker), Request(locker, TERMINATE)
    await turns()
    await first.finish()
    await second.held.wait()
    await turns()
    assert second.asked == [TERMINATE]
    await second.finish()
    await third.held.wait()
    assert third.asked == []
    await third.finish()


async def test_who_gets_the_lock_hears_of_every_purpose(locker: MemoryLocker) -> None:
    """A DELETE must not be forgotten because a HEAD came behind it."""
    first = Request(locker)
    await first.held.wait()
    second = Request(locker)
    await turns()
    others = [Request(locker, TERMINATE), Request(locker, INSPECT)]
    await turns()
    await first.finish()
    await second.held.wait()
    await turns()
    assert TERMINATE in second.asked
    for request in (second, *others):
        await request.finish()


async def test_a_holder_that_does_not_let_go(locker: MemoryLocker) -> None:
    first = Request(locker)
    await first.held.wait()
    second = Request(locker, wait=SOON)
    with pytest.raises(UploadLocked):
        await second.task
    assert first.asked == [APPEND]
    await first.finish()
    async with locker.lock("a", APPEND, wait=0):
        pass


async def test_a_holder_that_declines_is_not_waited_for(locker: MemoryLocker) -> None:
    first = Request(locker, gives_way=lambda purpose: purpose is not INSPECT)
    await first.held.wait()
    with pytest.raises(Declined):
        await asyncio.wait_for(Request(locker, INSPECT).task, 1)
    second = Request(locker, TERMINATE)
    await turns()
    assert first.asked == [INSPECT, TERMINATE]
    await first.finish()
    await second.held.wait()
    await second.finish()


async def test_who_waits_is_told_when_the_next_holder_declines(locker: MemoryLocker) -> None:
    first = Request(locker)
    await first.held.wait()
    second = Request(locker, gives_way=lambda purpose: False)
    await turns()
    third = Request(locker, INSPECT)
    await turns()
    await first.finish()
    await second.held.wait()
    with pytest.raises(Declined):
        await asyncio.wait_for(asyncio.shield(third.task), 1)
    await second.finish()


async def test_declining_is_an_upload_locked_to_those_who_do_not_know_it() -> None:
    assert issubclass(Declined, UploadLocked)
    assert (Declined.status, Declined.code) == (UploadLocked.status, UploadLocked.code)


async def test_one_who_gives_up_is_passed_over(locker: MemoryLocker) -> None:
    first = Request(locker)
    await first.held.wait()
    second, third = Request(locker), Request(locker)
    await turns()
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    await first.finish()
    await third.held.wait()
    assert not second.held.is_set()
    await third.finish()


async def test_one_who_gives_up_just_when_it_is_his_turn_passes_the_lock_on(
    locker: MemoryLocker,
) -> None:
    first = Request(locker)
    await first.held.wait()
    second, third = Request(locker), Request(locker)
    await turns()
    first.over.set()
    for _ in range(10):
        if first.task.done():
            break
        await asyncio.sleep(0)
    second.task.cancel()
    with suppress(asyncio.CancelledError):
        await second.task
    await asyncio.wait_for(third.held.wait(), 1)
    await third.finish()
    await first.task


@pytest.mark.parametrize("patience", range(12))
async def test_a_cancellation_at_any_moment_leaves_nothing_locked(
    locker: MemoryLocker, patience: int
) -> None:
    first, second = Request(locker), Request(locker)
    await first.held.wait()
    await turns(2)
    first.over.set()
    await turns(patience)
    second.task.cancel()
    with suppress(asyncio.CancelledError):
        await second.task
    await first.task
    async with asyncio.timeout(1), locker.lock("a", APPEND, wait=LONG):
        pass


async def test_an_error_lets_go(locker: MemoryLocker) -> None:
    async def fail() -> None:
        async with locker.lock("a", APPEND, wait=0):
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - what comes out is what was raised inside
        await fail()
    async with locker.lock("a", APPEND, wait=0):
        pass


async def test_a_late_callback_hears_of_an_earlier_request(locker: MemoryLocker) -> None:
    heard: list[Purpose] = []

    def hear(purpose: Purpose) -> bool:
        heard.append(purpose)
        return True

    async with locker.lock("a", APPEND, wait=0) as lock:
        other = Request(locker, TERMINATE)
        await turns()
        lock.on_release_requested(hear)
        assert heard == [TERMINATE]
    await other.finish()


async def test_nothing_is_kept_for_an_upload_that_nobody_uses(locker: MemoryLocker) -> None:
    async def use() -> weakref.ref[asyncio.Task[None] | None]:
        request = Request(locker)
        await request.held.wait()
        with suppress(UploadLocked):
            await Request(locker, wait=SOON).task
        await request.finish()
        return weakref.ref(request.task)

    used = [await use() for _ in range(3)]
    await turns()
    gc.collect()
    assert [ref() for ref in used] == [None, None, None]
    assert locker.__dict__ == MemoryLocker().__dict__


def test_it_is_for_one_process() -> None:
    assert not MemoryLocker.spans_processes
