from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Hooks, MemoryStore, sweep
from aiotus_server.body import Body, EmptySource, Source
from aiotus_server.locks import Purpose
from aiotus_server.protocol.errors import UploadNotFound
from aiotus_server.protocol.uploads import Final, Partial, Upload
from aiotus_server.server import Server
from aiotus_server.stores import Store
from aiotus_server.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Whole(Source):
    """Bytes that have all arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, patience: float | None = None) -> bytes | None:
        data, self._data = self._data, b""
        return data

    def read_whole(self) -> list[bytes] | None:
        return [self._data]


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["disk", "memory"])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Server]:
    """A server with a hook that remembers what has expired."""
    store: Store
    if request.param == "disk":
        store = DiskStore(tmp_path / "uploads", durability="none")
    else:
        store = MemoryStore(clock)
    server = Server(store, hooks=Hooks(), clock=clock)
    await server.start()
    yield server
    await server.stop()


async def make(
    server: Server, upload_id: str, data: bytes = b"abc", *, length: int = 10, **facts: Any
) -> Upload:
    store: Any = server.store
    upload = Upload(upload_id, 0, length, START, **{"expires": START + HOUR, **facts})
    body = Body(Whole(data), limit=length)
    assert body.buffered()
    made: Upload = await store.create(upload, body)
    return made


async def there(server: Server, *upload_ids: str) -> list[str]:
    """Those of ``upload_ids`` that the store still knows."""
    found = []
    for upload_id in upload_ids:
        try:
            await server.store.get(upload_id)
        except UploadNotFound:
            continue
        found.append(upload_id)
    return found


async def test_what_is_due_and_unfinished_is_removed(server: Server, clock: Clock) -> None:
    await make(server, "due")
    await make(server, "empty", b"")
    await make(server, "complete", b"x" * 10)
    await make(server, "later", expires=START + 3 * HOUR)
    await make(server, "never", expires=None)
    assert await sweep(server) == 0
    clock.now += 2 * HOUR
    assert await sweep(server) == 2
    left = await there(server, "due", "empty", "complete", "later", "never")
    assert left == ["complete", "later", "never"]
    assert await sweep(server) == 0
    clock.now += 2 * HOUR
    assert await sweep(server) == 1
    assert await there(server, "complete", "later", "never") == ["complete", "never"]


async def test_an_upload_is_due_at_the_very_moment(server: Server, clock: Clock) -> None:
    await make(server, "due")
    clock.now = START + HOUR - timedelta(milliseconds=1)
    assert await sweep(server) == 0
    clock.now = START + HOUR
    assert await sweep(server) == 1


async def test_an_upload_that_became_complete_stays(server: Server, clock: Clock) -> None:
    upload = await make(server, "a")
    await server.store.append(upload, Body(Whole(b"x" * 7), limit=7))
    clock.now += 9 * HOUR
    assert await sweep(server) == 0
    assert (await server.store.get("a")).complete


async def test_a_complete_upload_stays_even_while_it_is_marked_unverified(
    server: Server, clock: Clock
) -> None:
    """A crash under a checksummed body behind its end leaves such a mark."""
    upload = await make(server, "a", b"x" * 10)
    body = Body(EmptySource(), limit=0)
    body.atomic = True
    body.interrupt(UploadNotFound())
    body.error = UploadNotFound()
    await server.store.append(upload, body)
    clock.now += 9 * HOUR
    assert await sweep(server) == 0
    assert await there(server, "a") == ["a"]


async def test_an_upload_in_use_is_left_for_the_next_time(server: Server, clock: Clock) -> None:
    await make(server, "a")
    clock.now += 2 * HOUR
    async with server.locker.lock("a", Purpose.APPEND, wait=0):
        assert await sweep(server) == 0
    assert await there(server, "a") == ["a"]
    assert await sweep(server) == 1


async def test_nobody_in_use_is_asked_to_let_go_for_good(server: Server, clock: Clock) -> None:
    await make(server, "a")
    await make(server, "b")
    clock.now += 2 * HOUR
    async with server.locker.lock("a", Purpose.APPEND, wait=0) as lock:
        lock.on_release_requested(lambda purpose: purpose is not Purpose.EXPIRE)
        assert await sweep(server) == 1


async def test_an_upload_whose_expiry_moved_on_is_found_later(server: Server) -> None:
    """Sliding: counted from the last byte, which is now and not in START's year."""
    lifetime = timedelta(hours=1)
    upload = await make(server, "a", expires=START + HOUR, lifetime=lifetime)
    server.clock = lambda: datetime.now(UTC)
    if isinstance(server.store, MemoryStore):
        server.store = MemoryStore(server.clock)
        upload = await make(server, "a", expires=START + HOUR, lifetime=lifetime)
    assert upload.expires is not None
    assert upload.expires > datetime.now(UTC)
    assert await sweep(server) == 0
    server.clock = lambda: datetime.now(UTC) + 2 * HOUR
    assert await sweep(server) == 1
    assert await there(server, "a") == []


async def test_the_hook_is_told(server: Server, clock: Clock) -> None:
    told: list[Upload] = []
    hooks = Hooks()
    hooks.on_expired.append(lambda event: told.append(event.upload))
    other = Server(server.store, hooks=hooks, clock=clock)
    await make(server, "a")
    await make(server, "b", b"x" * 10)
    clock.now += 2 * HOUR
    await sweep(other)
    assert [(upload.upload_id, upload.offset) for upload in told] == [("a", 3)]


async def test_a_hook_that_fails_stops_nothing(
    server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Any) -> None:
        raise RuntimeError("of the application")

    hooks = Hooks()
    hooks.on_expired.append(fail)
    for upload_id in ("a", "b"):
        await make(server, upload_id)
    clock.now += 2 * HOUR
    assert await sweep(Server(server.store, hooks=hooks, clock=clock)) == 2
    assert "of the application" in caplog.text


async def wait_for(server: Server, final_id: str, *part_ids: str) -> None:
    final = Final(part_ids)
    await make(server, final_id, b"", concat=final, concat_header="final;…", expires=None)


async def test_a_final_that_waits_for_an_expired_partial_goes_too(
    server: Server, clock: Clock
) -> None:
    for upload_id in ("a", "b"):
        await make(server, upload_id, concat=Partial(), concat_header="partial")
    await wait_for(server, "final", "a", "b")
    clock.now += 2 * HOUR
    assert await sweep(server) == 2
    assert await there(server, "a", "b", "final") == []


async def test_a_final_in_use_does_not_stop_the_sweep(server: Server, clock: Clock) -> None:
    for upload_id in ("a", "b", "c"):
        await make(server, upload_id, concat=Partial(), concat_header="partial")
    for upload_id in ("a", "b", "c"):
        await wait_for(server, f"final-{upload_id}", upload_id)
    clock.now += 2 * HOUR
    async with server.locker.lock("final-b", Purpose.APPEND, wait=0) as lock:
        lock.on_release_requested(lambda purpose: False)
        assert await sweep(server) == 3
    assert await there(server, "a", "b", "c") == []


async def test_many(server: Server, clock: Clock) -> None:
    for number in range(300):
        await make(server, f"{number}", expires=START + number * timedelta(seconds=1))
    clock.now = START + timedelta(seconds=149)
    assert await sweep(server) == 150
    clock.now += HOUR
    assert await sweep(server) == 150


async def test_a_sweep_that_was_cut_off_is_made_up_for(server: Server, clock: Clock) -> None:
    """And what has come since expires with what was there before."""
    store: Any = server.store
    for upload_id in ("a", "b"):
        await make(server, upload_id)
    clock.now += 2 * HOUR
    async with aclosing(store.expired(clock())) as expired:
        await anext(expired)
    for upload_id in ("c", "d"):
        await make(server, upload_id)
    assert await sweep(server) == 4
    assert await sweep(server) == 0
    await make(server, "e")
    assert await sweep(server) == 1


@pytest.mark.parametrize("line", ["inf a", "1e999 a", "-inf a", "nan a", "-1 a", "a", "", "\xff"])
async def test_a_line_of_the_journal_that_says_nothing_stops_no_sweep(
    server: Server, clock: Clock, line: str
) -> None:
    await make(server, "due")
    if isinstance(server.store, DiskStore):
        (minute,) = (server.store.root / "expiry").iterdir()
        minute.write_bytes(f"{line}\n".encode("latin-1") + minute.read_bytes())
    clock.now += 2 * HOUR
    assert await sweep(server) == 1
    assert await sweep(server) == 0


async def test_two_sweeps_at_a_time(server: Server, clock: Clock) -> None:
    for number in range(20):
        await make(server, f"{number}")
    clock.now += 2 * HOUR
    removed = await asyncio.gather(sweep(server), sweep(server))
    assert sum(removed) + await sweep(server) == 20
    assert await there(server, *(f"{number}" for number in range(20))) == []


async def test_a_store_in_which_nothing_expires() -> None:
    class Plain(Store):
        async def get(self, upload_id: str) -> Upload:
            raise AssertionError

        async def append(self, upload: Upload, body: Body) -> Upload:
            raise AssertionError

    assert await sweep(Server(Plain())) == 0


# In the background


class Counting(MemoryStore):
    """Counts how often it is asked what has expired, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps = 0
        self.error: Exception | None = None
        self.slow: asyncio.Event | None = None

    async def expired(self, now: datetime) -> AsyncGenerator[str, None]:
        self.sweeps += 1
        if self.slow is not None:
            await self.slow.wait()
        if self.error is not None:
            raise self.error
        return
        yield


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def sweeping(store: Counting, interval: float = 0.002) -> AsyncIterator[Sweeper]:
    sweeper = Sweeper(Server(store), timedelta(seconds=interval))
    sweeper.start()
    yield sweeper
    await sweeper.stop()


async def test_it_sweeps_again_and_again_until_it_is_stopped() -> None:
    store = Counting()
    async with sweeping(store) as sweeper:
        await until(lambda: store.sweeps > 3)
        await sweeper.stop()
        swept = store.sweeps
        await asyncio.sleep(0.02)
        assert store.sweeps == swept
        sweeper.start()
        await until(lambda: store.sweeps > swept)


async def test_the_first_sweep_is_not_at_once() -> None:
    store = Counting()
    async with sweeping(store, interval=3600):
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.sweeps == 0


async def test_starting_twice_does_no_harm() -> None:
    store = Counting()
    store.slow = asyncio.Event()
    async with sweeping(store) as sweeper:
        sweeper.start()
        await until(lambda: store.sweeps > 0)
        sweeper.start()
        await asyncio.sleep(0.02)
        assert store.sweeps == 1, "one at a time"
        store.slow.set()
        await until(lambda: store.sweeps > 1)


async def test_stopping_waits_for_the_sweep_under_way() -> None:
    store = Counting()
    store.slow = asyncio.Event()
    async with sweeping(store) as sweeper:
        await until(lambda: store.sweeps > 0)
        stopping = asyncio.create_task(sweeper.stop())
        await asyncio.sleep(0.01)
        assert not stopping.done()
        store.slow.set()
        await asyncio.wait_for(stopping, 5)
        assert store.sweeps == 1


async def test_stopping_what_was_never_started() -> None:
    await Sweeper(Server(Counting())).stop()


async def test_a_sweep_that_fails_is_told_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Counting()
    store.error = OSError(5, "the disk is gone")
    with caplog.at_level(logging.ERROR):
        async with sweeping(store):
            await until(lambda: store.sweeps > 2)
            store.error = None
            await until(lambda: store.sweeps > 5)
    assert "the disk is gone" in caplog.text


async def test_a_fault_of_a_store_does_not_end_the_sweeping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Counting()
    store.error = ValueError("a fault in a store")
    async with sweeping(store):
        await until(lambda: store.sweeps > 2)
        store.error = None
        await until(lambda: store.sweeps > 5)


def test_an_event_loop_may_be_closed_without_stopping() -> None:
    async def leave() -> None:
        Sweeper(Server(Counting()), HOUR).start()

    asyncio.run(leave())
