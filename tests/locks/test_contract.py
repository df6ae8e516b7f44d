"""What every locker promises, within one event loop."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from aiotus_server.locks import Declined, FileLocker, Locker, MemoryLocker, Purpose
from aiotus_server.protocol.errors import UploadLocked

from .requests import LONG, SOON, Request, turns

if TYPE_CHECKING:
    from pathlib import Path

APPEND, INSPECT, TERMINATE = Purpose.APPEND, Purpose.INSPECT, Purpose.TERMINATE


@pytest.fixture(params=["memory", "file"])
def locker(request: pytest.FixtureRequest, tmp_path: Path) -> Locker:
    return MemoryLocker() if request.param == "memory" else FileLocker(tmp_path)


async def test_one_at_a_time_in_the_order_of_asking(locker: Locker) -> None:
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


async def test_uploads_do_not_wait_for_each_other(locker: Locker) -> None:
    async with AsyncExitStack() as stack:
        for upload_id in ("a", "b", "c"):
            await stack.enter_async_context(locker.lock(upload_id, APPEND, wait=0))


async def test_the_holder_is_asked_to_let_go(locker: Locker) -> None:
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


async def test_who_gets_the_lock_hears_of_those_who_wait_already(locker: Locker) -> None:
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


async def test_who_gets_the_lock_hears_of_every_purpose(locker: Locker) -> None:
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


async def test_a_holder_that_does_not_let_go(locker: Locker) -> None:
    first = Request(locker)
    await first.held.wait()
    second = Request(locker, wait=SOON)
    with pytest.raises(UploadLocked):
        await second.task
    assert first.asked == [APPEND]
    await first.finish()
    async with locker.lock("a", APPEND, wait=0):
        pass


async def test_a_holder_that_declines_is_not_waited_for(locker: Locker) -> None:
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


async def test_who_waits_is_told_when_the_next_holder_declines(locker: Locker) -> None:
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


async def test_one_who_gives_up_is_passed_over(locker: Locker) -> None:
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


async def test_one_who_has_given_up_may_still_be_declined(
    locker: Locker, caplog: pytest.LogCaptureFixture
) -> None:
    async with locker.lock("a", Purpose.APPEND, wait=LONG) as lock:
        with pytest.raises(UploadLocked):
            await Request(locker, Purpose.INSPECT, wait=SOON).task
        lock.on_release_requested(lambda purpose: False)
        gc.collect()
        await turns()
    assert caplog.records == []


async def test_one_who_gives_up_just_when_it_is_his_turn_passes_the_lock_on(
    locker: Locker,
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
    locker: Locker, patience: int
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


async def test_an_error_lets_go(locker: Locker) -> None:
    async def fail() -> None:
        async with locker.lock("a", APPEND, wait=0):
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - what comes out is what was raised inside
        await fail()
    async with locker.lock("a", APPEND, wait=0):
        pass


async def test_a_late_callback_hears_of_an_earlier_request(locker: Locker) -> None:
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
