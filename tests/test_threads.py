from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from typing import NoReturn

import pytest

from aiotus_server.threads import Lane, Threads

FORKED = """
import asyncio, os, sys, threading
from aiotus_server.threads import Lane, Threads

pool = {kind}(2, "pool")

async def use():
    return await pool.run(threading.get_ident)

assert asyncio.run(use()) != threading.get_ident()
child = os.fork()
if child == 0:
    assert asyncio.run(use()) != threading.get_ident()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


Pool = Threads | Lane


@pytest.fixture(params=[Threads, Lane])
def pool(request: pytest.FixtureRequest) -> Pool:
    made: Pool = request.param(2, "test-pool")
    return made


@pytest.fixture
def lane() -> Lane:
    return Lane(2, "test-lane")


def fail(error: BaseException) -> NoReturn:
    raise error


async def test_a_function_runs_in_another_thread(pool: Pool) -> None:
    def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    number, thread = await pool.run(work, 1)
    assert (number, thread != threading.get_ident()) == (1, True)


@pytest.mark.parametrize("error", [OSError(5), KeyError("x"), SystemExit(1)])
async def test_an_error_comes_back(pool: Pool, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await pool.run(fail, error)
    assert caught.value is error
    assert await pool.run(int) == 0, "the thread has survived"


async def test_not_even_stop_iteration_is_lost(pool: Pool) -> None:
    """A future cannot hold one; whoever waits must not wait for ever, nor those behind."""
    first: asyncio.Future[object] = pool.submit(fail, StopIteration())
    second: asyncio.Future[object] = pool.submit(int)
    await asyncio.wait([first, second], timeout=2)
    assert first.done()
    assert isinstance(first.exception(), Exception)
    assert second.result() == 0


async def test_no_more_threads_than_allowed(pool: Pool) -> None:
    barrier = threading.Barrier(2)

    def meet() -> str:
        barrier.wait(5)
        return threading.current_thread().name

    names = await asyncio.gather(*(pool.run(meet) for _ in range(8)))
    assert set(names) == {"test-pool-1", "test-pool-2"}


@pytest.mark.parametrize("kind", [Threads, Lane])
async def test_threads_are_started_when_they_are_needed(kind: type[Pool]) -> None:
    kind(3, "never-used")
    assert not any(thread.name.startswith("never-used") for thread in threading.enumerate())


async def test_they_do_not_keep_the_process_alive(pool: Pool) -> None:
    assert await pool.run(lambda: threading.current_thread().daemon)


async def test_results_of_many_come_back_to_those_who_wait(pool: Pool) -> None:
    results = await asyncio.gather(*(pool.run(pow, number, 2) for number in range(2000)))
    assert results == [number**2 for number in range(2000)]


async def test_a_cancelled_task_waits_until_the_thread_has_done(pool: Pool) -> None:
    """Whoever waits holds the descriptor and the lock: they must not be let go before."""
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(5)
        ended.append(True)

    async def use() -> None:
        try:
            await pool.run(work)
        finally:
            assert ended

    task = asyncio.create_task(use())
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_arguments_and_results_are_not_kept(pool: Pool) -> None:
    class Thing:
        pass

    async def use() -> list[weakref.ref[Thing]]:
        thing = Thing()
        result = await pool.run(lambda it: (it, Thing()), thing)
        return [weakref.ref(thing), weakref.ref(result[1])]

    refs = await use()
    await pool.run(int)
    await pool.run(int)
    assert [ref() for ref in refs] == [None, None]


def test_one_event_loop_after_another(pool: Pool) -> None:
    for number in range(3):
        assert asyncio.run(pool.run(int, number)) == number


def test_two_event_loops_at_a_time(pool: Pool) -> None:
    results: list[list[int]] = []

    async def use() -> None:
        results.append(await asyncio.gather(*(pool.run(int, number) for number in range(200))))

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [list(range(200))] * 2


def test_a_loop_that_was_closed_meanwhile_does_no_harm(pool: Pool) -> None:
    go_on = threading.Event()

    async def leave() -> None:
        pool.submit(go_on.wait, 5)

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(pool.run(int)) == 0


@pytest.mark.parametrize("kind", ["Threads", "Lane"])
def test_a_forked_process_has_threads_of_its_own(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED.format(kind=kind)],
        timeout=20,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_what_is_stuck_in_a_lane_keeps_neither_those_before_nor_those_behind(
    lane: Lane,
) -> None:
    go_on = threading.Event()
    before = lane.submit(int, 1)
    stuck = lane.submit(go_on.wait, 20)
    behind = lane.submit(int, 2)
    done, _ = await asyncio.wait([before, behind], timeout=10)
    later = lane.submit(int, 3)
    assert await asyncio.wait_for(asyncio.shield(later), 10) == 3
    assert done == {before, behind}
    assert not stuck.done()
    go_on.set()
    assert await stuck


async def test_a_lane_with_all_threads_stuck_goes_on_afterwards(lane: Lane) -> None:
    go_on = threading.Event()
    stuck = [lane.submit(go_on.wait, 20) for _ in range(4)]
    behind = lane.submit(int, 1)
    await asyncio.sleep(5 * lane.PATIENCE)
    assert not behind.done()
    go_on.set()
    assert all(await asyncio.gather(*stuck))
    assert await behind == 1
