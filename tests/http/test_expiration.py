"""Expiration, black box: the server's clock is a fake, and the sweep is asked for."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Expiry, MemoryStore, Options, sweep
from aiotus_server.options import EXTENSIONS

from .client import OCTETS, Reply, Site, assert_refused, chunked, serving, sha1

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from .conftest import Serve

    Start = Callable[..., Awaitable[Site]]

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
LONG = timedelta(days=400)


class Clock:
    """Starts at the real time, as the times of files do, and goes on only when told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["disk", "memory"])
def start(request: pytest.FixtureRequest, serve: Serve, clock: Clock) -> Start:
    """``await start(sliding=…)``: a server whose uploads expire after an hour, over each store."""

    async def start(*, sliding: bool = False, **options: Any) -> Site:
        store = MemoryStore(clock) if request.param == "memory" else None
        expiry = Expiry(after=HOUR, sliding=sliding)
        site = await serve(store, options=Options(expiry=expiry, **options))
        site.routes.server.clock = clock
        return site

    return start


def expires(reply: Reply) -> datetime:
    """Upload-Expires; it must be a date as HTTP writes it."""
    text = reply.headers["Upload-Expires"]
    moment = parsedate_to_datetime(text)
    assert text == moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    return moment


def about(moment: datetime, expected: datetime) -> bool:
    """Dates have whole seconds, and file systems and clocks differ a little."""
    return abs(moment - expected) < 3 * SECOND


# Upload-Expires


@pytest.mark.parametrize("sliding", [False, True], ids=["absolute", "sliding"])
async def test_date_is_on_every_answer_while_unfinished(
    start: Start, clock: Clock, sliding: bool
) -> None:
    site, due = await start(sliding=sliding), clock.now + HOUR
    reply = await site.request("POST", headers={"Upload-Length": "10"})
    path = reply.path
    assert about(expires(reply), due)
    assert about(expires(await site.head(path)), due)
    assert about(expires(await site.patch(path, 0, b"hello")), due)
    assert about(expires(await site.patch(path, 5, b"")), due)
    assert about(expires(await site.head(path)), due)


async def test_date_is_on_a_creation_with_a_part_of_the_upload(start: Start, clock: Clock) -> None:
    site = await start()
    fields = {"Upload-Length": "10", **OCTETS}
    reply = await site.request("POST", headers=fields, body=b"hello")
    assert (reply.status, reply.offset) == (201, 5)
    assert about(expires(reply), clock.now + HOUR)


async def test_date_is_on_uploads_of_deferred_length_and_on_partials(
    start: Start, clock: Clock
) -> None:
    site = await start()
    for fields in (
        {"Upload-Defer-Length": "1"},
        {"Upload-Length": "5", "Upload-Concat": "partial"},
    ):
        reply = await site.request("POST", headers=fields)
        assert about(expires(reply), clock.now + HOUR)
        assert about(expires(await site.patch(reply.path, 0, b"he")), clock.now + HOUR)


async def test_no_date_once_complete(start: Start) -> None:
    site = await start()
    path = await site.create(10)
    await site.patch(path, 0, b"hello")
    replies = [await site.patch(path, 5, b"world"), await site.patch(path, 10, b"")]
    replies += [await site.head(path), await site.get(path)]
    replies += [await site.patch(path, 10, b"x"), await site.patch(path, 5, b"")]
    replies.append(await site.request("POST", headers={"Upload-Length": "0"}))
    fields = {"Upload-Length": "5", **OCTETS}
    replies.append(await site.request("POST", headers=fields, body=b"hello"))
    statuses = [reply.status for reply in replies]
    assert statuses == [204, 204, 200, 200, 413, 409, 201, 201]
    for reply in replies:
        assert "Upload-Expires" not in reply.headers


@pytest.mark.parametrize(
    ("offset", "body", "headers", "status"),
    [
        (0, b"x", {}, 409),
        (9, b"", {}, 409),
        (5, b"x" * 6, {}, 413),
        (5, b"world", {"Upload_Checksum": sha1(b"")}, 460),
        (5, b"", {"Upload_Length": "11"}, 400),
        (5, chunked(b"wo"), {"Transfer_Encoding": "chunked", "Trailer": "upload-checksum"}, 400),
        (5, b"2\r\nwo\r\nzz\r\n", {"Transfer_Encoding": "chunked"}, 400),
    ],
)
async def test_date_is_on_errors_once_the_upload_is_known(
    start: Start,
    clock: Clock,
    offset: int,
    body: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    site = await start()
    path = await site.create(10)
    await site.patch(path, 0, b"hello")
    reply = await site.patch(path, offset, body, **headers)
    assert_refused(reply, status)
    assert about(expires(reply), clock.now + HOUR)


async def test_date_is_on_the_answer_to_a_displaced_patch(start: Start, clock: Clock) -> None:
    site = await start()
    path = await site.create(10)
    connection = await site.begin(path, 0, b"hello", length=10)
    await asyncio.sleep(0.15)
    assert (await site.head(path)).offset == 5
    reply = await connection.reply()
    assert_refused(reply, 423)
    assert about(expires(reply), clock.now + HOUR)


async def test_date_is_on_the_error_of_a_creation_that_created(start: Start, clock: Clock) -> None:
    site = await start()
    fields = {"Upload-Length": "5", "Upload-Checksum": sha1(b""), **OCTETS}
    reply = await site.request("POST", headers=fields, body=b"hello")
    assert reply.status == 460
    assert about(expires(reply), clock.now + HOUR)


async def test_waiting_final_tells_when_it_expires_and_a_complete_one_does_not(
    start: Start, clock: Clock
) -> None:
    site = await start()
    part = await site.create(5, Upload_Concat="partial")
    reply = await site.request("POST", headers={"Upload-Concat": f"final;{part}"})
    assert about(expires(reply), clock.now + HOUR)
    assert about(expires(await site.head(reply.path)), clock.now + HOUR)
    await site.patch(part, 0, b"hello")
    assert "Upload-Expires" not in (await site.head(reply.path)).headers
    made = await site.request("POST", headers={"Upload-Concat": f"final;{part}"})
    assert "Upload-Expires" not in made.headers


async def test_without_expiry_nothing_is_told_or_offered(site: Site) -> None:
    assert "expiration" not in (await site.request("OPTIONS")).headers["Tus-Extension"]
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert "Upload-Expires" not in reply.headers
    assert "Upload-Expires" not in (await site.head(reply.path)).headers
    assert "Upload-Expires" not in (await site.patch(reply.path, 0, b"he")).headers


async def test_offered_with_expiry(start: Start) -> None:
    site = await start()
    extensions = (await site.request("OPTIONS")).headers["Tus-Extension"].split(",")
    assert "expiration" in extensions


async def test_switched_off_uploads_do_not_expire(start: Start, clock: Clock) -> None:
    site = await start(extensions=EXTENSIONS - {"expiration"})
    assert "expiration" not in (await site.request("OPTIONS")).headers["Tus-Extension"]
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert "Upload-Expires" not in reply.headers
    clock.now += LONG
    assert await sweep(site.routes.server) == 0
    assert (await site.patch(reply.path, 0, b"hello")).status == 204


# After the date


@pytest.mark.parametrize("sliding", [False, True], ids=["absolute", "sliding"])
@pytest.mark.parametrize("sent", [0, 3])
async def test_expired_upload_is_gone(start: Start, clock: Clock, sent: int, sliding: bool) -> None:
    site = await start(sliding=sliding)
    path = await site.create(5)
    await site.patch(path, 0, b"hello"[:sent])
    clock.now += HOUR - 5 * SECOND
    assert (await site.head(path)).status == 200
    clock.now += 10 * SECOND
    assert_refused(await site.head(path), 410, method="HEAD")
    assert_refused(await site.patch(path, sent, b"hello"[sent:]), 410)
    assert_refused(await site.patch(path, sent, b""), 410)
    assert_refused(await site.patch(path, 99, b""), 410)
    assert_refused(await site.delete(path), 410)
    assert (await site.get(path)).status in (404, 410)


async def test_expired_upload_is_refused_before_its_body(start: Start, clock: Clock) -> None:
    site = await start()
    path = await site.create(5)
    clock.now += 2 * HOUR
    connection = await site.begin(path, 0, b"", length=5, Expect="100-continue")
    async with asyncio.timeout(5):
        reply = await connection.reply()
    assert_refused(reply, 410)
    assert reply.interim == ()


async def test_absolute_date_stays(start: Start, clock: Clock) -> None:
    site = await start()
    path = await site.create(10)
    due = expires(await site.head(path))
    clock.now += HOUR / 2
    assert expires(await site.patch(path, 0, b"hello")) == due
    assert expires(await site.head(path)) == due
    clock.now += HOUR / 2 + 5 * SECOND
    assert (await site.head(path)).status == 410


async def test_sliding_date_moves_with_the_last_byte(serve: Serve, clock: Clock) -> None:
    """In memory, where the store's clock can be turned too."""
    expiry = Expiry(after=HOUR, sliding=True)
    site = await serve(MemoryStore(clock), options=Options(expiry=expiry))
    site.routes.server.clock = clock
    path = await site.create(10)
    for offset, piece in enumerate((b"h", b"e", b"l", b"l")):
        clock.now += HOUR / 2
        assert about(expires(await site.patch(path, offset, piece)), clock.now + HOUR)
    assert about(expires(await site.head(path)), clock.now + HOUR)
    assert await sweep(site.routes.server) == 0
    clock.now += HOUR + 5 * SECOND
    assert (await site.head(path)).status == 410


async def test_sliding_date_on_disk_moves_with_the_last_byte(serve: Serve, clock: Clock) -> None:
    expiry = Expiry(after=HOUR, sliding=True)
    site = await serve(options=Options(expiry=expiry))
    site.routes.server.clock = clock
    path = await site.create(10)
    (file,) = site.store.root.glob(f"??/{path.rpartition('/')[2]}")
    long_ago = clock.now.timestamp() - 3000
    os.utime(file, (long_ago, long_ago))  # as if it had been created fifty minutes ago
    assert about(expires(await site.head(path)), clock.now + timedelta(minutes=10))
    assert about(expires(await site.patch(path, 0, b"hello")), clock.now + HOUR)
    clock.now += timedelta(minutes=15)
    assert await sweep(site.routes.server) == 0
    assert (await site.patch(path, 5, b"world")).status == 204


async def test_complete_uploads_never_expire(start: Start, clock: Clock) -> None:
    site = await start()
    part = await site.upload(b"hello", Upload_Concat="partial")
    paths = [await site.upload(b"hello"), part, await site.create(Upload_Concat=f"final;{part}")]
    empty = await site.create(0)
    clock.now += LONG
    for _ in range(2):
        for path in paths:
            reply = await site.head(path)
            assert (reply.status, reply.offset) == (200, 5)
            assert (await site.get(path)).body == b"hello"
        assert (await site.patch(paths[0], 5, b"")).status == 204
        assert (await site.get(empty)).status == 200
        assert await sweep(site.routes.server) == 0
    assert (await site.delete(paths[0])).status == 204


# The sweep


@pytest.mark.parametrize("sliding", [False, True], ids=["absolute", "sliding"])
async def test_sweep_removes_what_is_due_and_nothing_else(
    start: Start, clock: Clock, sliding: bool
) -> None:
    site = await start(sliding=sliding)
    server = site.routes.server
    due = [await site.create(5) for _ in range(3)]
    await site.patch(due[1], 0, b"he")
    complete = await site.upload(b"hello")
    assert await sweep(server) == 0
    clock.now += HOUR - 5 * SECOND
    assert await sweep(server) == 0
    clock.now += 10 * SECOND
    assert await sweep(server) == 3
    assert await sweep(server) == 0
    for path in due:
        assert (await site.head(path)).status in (404, 410)
        assert (await site.patch(path, 0, b"hello")).status in (404, 410)
    assert (await site.get(complete)).body == b"hello"


async def test_sweep_leaves_younger_ones(start: Start, clock: Clock) -> None:
    site = await start()
    server = site.routes.server
    old = await site.create(5)
    clock.now += HOUR / 2
    young = await site.create(5)
    clock.now += HOUR / 2 + 5 * SECOND
    assert await sweep(server) == 1
    assert (await site.head(old)).status in (404, 410)
    assert (await site.patch(young, 0, b"he")).status == 204
    clock.now += HOUR
    assert await sweep(server) == 1
    assert (await site.head(young)).status in (404, 410)


async def test_sweep_leaves_an_upload_in_use(start: Start, clock: Clock) -> None:
    """It is the business of the next sweep, if the upload is not complete by then."""
    site = await start()
    server = site.routes.server
    stays, goes = await site.create(10), await site.create(10)
    connections = [await site.begin(path, 0, b"hello", length=10) for path in (stays, goes)]
    await asyncio.sleep(0.15)
    clock.now += 2 * HOUR
    assert await sweep(server) == 0
    await connections[0].send(b"world")
    assert (await connections[0].reply()).status == 204
    await connections[1].close()
    async with asyncio.timeout(5):
        while await sweep(server) != 1:
            await asyncio.sleep(0.01)
    assert (await site.get(stays)).body == b"helloworld"
    assert (await site.head(goes)).status in (404, 410)


class EagerStore(MemoryStore):
    """Takes all uploads for due, as if they had been completed since it looked."""

    known: tuple[str, ...] = ()

    async def expired(self, now: datetime) -> AsyncGenerator[str, None]:
        for upload_id in self.known:
            yield upload_id


async def test_sweep_never_touches_what_was_completed_in_the_meantime(
    serve: Serve, clock: Clock
) -> None:
    store = EagerStore(clock)
    site = await serve(store, options=Options(expiry=Expiry(after=HOUR)))
    site.routes.server.clock = clock
    complete, young = await site.upload(b"hello"), await site.create(5)
    store.known = tuple(path.rpartition("/")[2] for path in (complete, young, "/files/unknown"))
    clock.now += HOUR / 2
    assert await sweep(site.routes.server) == 0
    clock.now += HOUR
    assert await sweep(site.routes.server) == 1
    assert (await site.get(complete)).body == b"hello"
    assert (await site.head(young)).status in (404, 410)


async def test_sweep_frees_the_disk(serve: Serve, clock: Clock) -> None:
    site = await serve(options=Options(expiry=Expiry(after=HOUR)))
    site.routes.server.clock = clock
    ids = []
    for fields in ({}, {"Upload_Concat": "partial"}):
        path = await site.create(10, **fields)
        await site.patch(path, 0, b"hello")
        ids.append(path.rpartition("/")[2])
    path = await site.create(Upload_Concat=f"final;{path}")
    ids.append(path.rpartition("/")[2])
    clock.now += 2 * HOUR
    await sweep(site.routes.server)
    left = [file for file in site.store.root.rglob("*") if any(name in str(file) for name in ids)]
    assert left == []
    for file in site.store.root.rglob("*"):
        assert not file.is_file() or not any(name in file.read_text() for name in ids)


async def test_sweep_finds_what_an_earlier_process_left(tmp_path: Path, clock: Clock) -> None:
    options = Options(expiry=Expiry(after=HOUR))
    async with serving(DiskStore(tmp_path), options=options) as site:
        site.routes.server.clock = clock
        due, complete = await site.create(5), await site.upload(b"hello")
        await site.routes.server.stop()
    clock.now += 2 * HOUR
    async with serving(DiskStore(tmp_path), options=options) as site:
        site.routes.server.clock = clock
        assert await sweep(site.routes.server) == 1
        assert (await site.head(due)).status in (404, 410)
        assert (await site.get(complete)).body == b"hello"
        await site.routes.server.stop()


async def test_swept_id_is_gone_for_sweeps_at_a_time(start: Start, clock: Clock) -> None:
    site = await start()
    for _ in range(5):
        await site.create(5)
    clock.now += 2 * HOUR
    counts = await asyncio.gather(*(sweep(site.routes.server) for _ in range(3)))
    assert sum(counts) == 5
