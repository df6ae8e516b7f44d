"""Bodies that end early, black box: the client is gone, or silent. "The Server SHOULD always
attempt to store as much of the received data as possible." """

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import stat
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from logging import ERROR
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Hooks, MemoryStore, Options, tus_routes

from .client import OCTETS, TUS, Connection, DataPath, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .conftest import Serve

MEBIBYTE = 1024 * 1024
DATA = random.Random(1).randbytes(6 * MEBIBYTE)
BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

pytestmark = pytest.mark.data_paths(*DataPath)  # many bodies here are large


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


@asynccontextmanager
async def cancelling(root: Path) -> AsyncIterator[Site]:
    """A server in a host that has aiohttp cancel the handler when its client is gone."""
    store, app = DiskStore(root), web.Application()
    routes = tus_routes(store)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Site(runner.addresses[0][1], store, "/files", runner, routes)
    finally:
        await runner.cleanup()


async def begin(site: Site, path: str, sent: int, coding: str, length: int) -> Connection:
    """A PATCH of which ``sent`` bytes are sent."""
    if coding == "counted":
        return await site.begin(path, 0, DATA[:sent], length=length)
    pieces = [DATA[start : min(start + 70_001, sent)] for start in range(0, sent, 70_001)]
    return await site.begin(path, 0, chunked(*pieces)[:-5], length=None)


async def offset_of(site: Site, path: str) -> int:
    """The offset within a second; meanwhile the old connection may still be at work."""
    async with asyncio.timeout(1):
        return (await site.head(path)).offset


# The client is gone


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("sent", [1, 5000, 300_000, 3 * MEBIBYTE])
async def test_all_that_was_sent_before_a_fin_is_kept(site: Site, coding: str, sent: int) -> None:
    path = await site.create(len(DATA))
    connection = await begin(site, path, sent, coding, len(DATA))
    await connection.close()
    await site.until_stored(path, sent)
    assert await offset_of(site, path) == sent
    assert (await site.patch(path, sent, DATA[sent:])).status == 204
    assert (await site.get(path)).body == DATA


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("sent", [5000, 400_000, 700_000, len(DATA) - 1])
async def test_all_is_kept_when_the_server_was_slower_than_the_client(
    serve: Serve, coding: str, sent: int
) -> None:
    """The connection is closed while the server has not looked at one byte yet: they are in
    its buffers, in the kernel's, and still on their way."""
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def wait(event: Any) -> None:
        reached.set()
        await go_on.wait()

    site = await serve(hooks=hooks)
    path = await site.create(len(DATA))
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0"}
    if coding == "counted":
        fields["Content-Length"] = str(len(DATA))
        connection.writer.write(head("PATCH", path, fields) + DATA[:sent])
    else:
        fields["Transfer-Encoding"] = "chunked"
        pieces = [DATA[start : min(start + 70_001, sent)] for start in range(0, sent, 70_001)]
        connection.writer.write(head("PATCH", path, fields) + chunked(*pieces)[:-5])
    connection.writer.close()
    await reached.wait()
    await asyncio.sleep(0.1)  # let all buffers fill
    go_on.set()
    await site.until_stored(path, sent)
    assert await offset_of(site, path) == sent
    go_on.set()
    assert (await site.patch(path, sent, DATA[sent:])).status == 204
    assert (await site.get(path)).body == DATA


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("sent", [5000, 300_000, 2 * MEBIBYTE])
async def test_what_was_stored_before_a_reset_stays(site: Site, coding: str, sent: int) -> None:
    path = await site.create(len(DATA))
    connection = await begin(site, path, sent, coding, len(DATA))
    await site.until_stored(path, sent)
    connection.reset()
    assert await offset_of(site, path) == sent
    assert (await site.patch(path, sent, DATA[sent:])).status == 204
    assert (await site.get(path)).body == DATA


@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_offset_that_is_told_is_the_last_word(
    any_site: Site, leave: str, coding: str
) -> None:
    """However it is asked for: what came later on the old connection does not count."""
    site, chance, data = any_site, random.Random(7), DATA[: 2 * MEBIBYTE]
    for _ in range(8):
        path = await site.create(len(data))
        sent = chance.randrange(1, 2 * MEBIBYTE)
        connection = await begin(site, path, sent, coding, len(data))
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.12]))
        if leave == "close":
            await connection.close()
        else:
            connection.reset()
        offset = await offset_of(site, path)
        assert offset <= sent
        await asyncio.sleep(chance.choice([0, 0.01]))
        assert await offset_of(site, path) == offset
        assert (await site.patch(path, offset, data[offset:])).status == 204
        assert (await site.get(path)).body == data


@pytest.mark.parametrize(
    ("coded", "kept"),
    [
        (b"", 0),
        (b"5", 0),
        (b"5\r", 0),
        (b"5\r\n", 0),
        (b"5\r\nhel", 3),
        (b"5\r\nhello", 5),
        (b"5\r\nhello\r", 5),
        (b"5\r\nhello\r\n", 5),
        (b"5\r\nhello\r\n5\r\nwo", 7),
        (b"5\r\nhello\r\n0\r\n", 5),
        (b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n", 5),
        (b"5\r\nhello\r\n0\r\nX-Trai", 5),
    ],
)
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_chunked_body_cut_short(any_site: Site, leave: str, coded: bytes, kept: int) -> None:
    path = await any_site.create(10)
    connection = await any_site.begin(path, 0, coded, length=None)
    if leave == "close":
        await connection.close()
    else:
        await asyncio.sleep(0.02)
        connection.reset()
    assert await offset_of(any_site, path) == kept
    assert (await any_site.patch(path, kept, b"helloworld"[kept:])).status == 204
    assert (await any_site.get(path)).body == b"helloworld"


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_client_that_only_stops_sending_is_answered_or_closed(
    site: Site, coding: str
) -> None:
    path = await site.create(10)
    connection = await begin(site, path, 5, coding, 10)
    connection.writer.write_eof()
    async with asyncio.timeout(2):
        try:
            reply = await connection.reply()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        else:
            assert_refused(reply, 400)
    assert await offset_of(site, path) == 5


@BOTH_LOOPS
async def test_creation_cut_short_keeps_what_came(serve: Serve) -> None:
    ids = iter(["first", "second"])
    site = await serve(options=Options(new_id=lambda: next(ids)))
    for name, sent in (("first", 5), ("second", 300_000)):
        fields = {**TUS, **OCTETS, "Upload-Length": str(len(DATA))}
        fields["Content-Length"] = str(len(DATA))
        connection = await site.connect()
        await connection.send(head("POST", "/files", fields) + DATA[:sent])
        await connection.close()
        path = f"/files/{name}"
        await site.until_stored(path, sent)
        assert await offset_of(site, path) == sent
        assert (await site.patch(path, sent, DATA[sent:])).status == 204
        assert (await site.get(path)).body == DATA


async def test_head_of_a_body_that_never_comes_changes_nothing(any_site: Site) -> None:
    path = await any_site.create(10)
    for leave in ("close", "reset"):
        connection = await any_site.begin(path, 0, b"", length=10)
        if leave == "close":
            await connection.close()
        else:
            connection.reset()
        assert await offset_of(any_site, path) == 0


async def test_upload_in_the_hands_of_a_clumsy_client(any_site: Site) -> None:
    """It loses its connection at every step, and gets its file across all the same."""
    site, chance = any_site, random.Random(3)
    data = DATA[:MEBIBYTE]
    path, offset, tries = await site.create(len(data)), 0, 0
    while offset < len(data):
        tries += 1
        end = min(len(data), offset + chance.randrange(1, 60_000))
        piece = data[offset:end]
        connection = await site.begin(path, offset, piece, length=len(data) - offset)
        if chance.random() < 0.5:
            await connection.close()
        else:
            await asyncio.sleep(0.005)
            connection.reset()
        offset = await offset_of(site, path)
        assert offset <= end
        assert tries < 500
    assert (await site.get(path)).body == data


async def test_clients_that_vanish_are_no_errors(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for coding in ("counted", "chunked"):
        for sent in (0, 5, 100_000):
            for leave in ("close", "reset"):
                path = await site.create(len(DATA))
                connection = await begin(site, path, sent, coding, len(DATA))
                if leave == "close":
                    await connection.close()
                else:
                    connection.reset()
                await offset_of(site, path)
    assert [record for record in caplog.records if record.levelno >= ERROR] == []


@BOTH_LOOPS
async def test_refused_clients_that_vanish_at_once_are_no_errors(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Their reset may come while the answer is being written, before the loop has seen it."""
    path = await site.create(2 * len(DATA))
    for number in range(60):
        connection = await site.begin(
            path, 5, DATA[: 100 + number % 2 * MEBIBYTE], length=len(DATA)
        )
        if number % 3 == 0:
            await asyncio.sleep(0)
        connection.reset()
    assert (await site.head(path)).offset == 0
    assert [record for record in caplog.records if record.levelno >= ERROR] == []


async def test_clients_that_vanish_leave_nothing_open(site: Site) -> None:
    async def round_trip() -> None:
        path = await site.create(len(DATA))
        connection = await begin(site, path, 100_000, "counted", len(DATA))
        connection.reset()
        await offset_of(site, path)

    await round_trip()
    before = files_open()
    for _ in range(20):
        await round_trip()
    async with asyncio.timeout(5):
        while files_open() > before + 2:
            await asyncio.sleep(0.01)


def files_open() -> int:
    """Descriptors of this process, but for the store's folders, which it keeps open."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # listing opens one, which is gone by now
            count += not stat.S_ISDIR(os.fstat(int(name)).st_mode)
    return count


async def test_connections_of_refused_clients_end_with_them(site: Site) -> None:
    """The rest of a refused body is read so that the answer arrives, but not from the dead."""
    path = await site.create(5)
    for fields in ({}, {"Expect": "100-continue"}):
        connection = await site.begin(path, 3, b"", length=5, **fields)
        assert_refused(await connection.reply(), 409)
        await connection.close()
    server = site.runner.server
    assert server is not None
    async with asyncio.timeout(2):
        while server.connections:
            await asyncio.sleep(0.01)


# The client is silent


@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("sent", [0, 5, 100_000])
@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_silence_ends_the_body_and_keeps_what_came(
    serve: Serve, kind: str, sent: int, coding: str
) -> None:
    """Without an answer: "A timeout SHOULD be handled by closing the underlying connection." """
    options = Options(read_timeout=timedelta(seconds=0.25))
    site = await serve(MemoryStore() if kind == "memory" else None, options=options)
    path = await site.create(len(DATA))
    before = asyncio.get_running_loop().time()
    connection = await begin(site, path, sent, coding, len(DATA))
    async with asyncio.timeout(2):
        assert await connection.closed()
    assert asyncio.get_running_loop().time() - before > 0.2
    assert await offset_of(site, path) == sent
    assert (await site.patch(path, sent, DATA[sent:])).status == 204
    assert (await site.get(path)).body == DATA


async def test_late_bytes_of_a_silent_client_count_no_more(serve: Serve) -> None:
    victim_options = Options(read_timeout=timedelta(seconds=0.2))
    site = await serve(options=victim_options)
    victim, path = await site.upload(b"hello"), await site.create(1000)
    connection = await site.begin(path, 0, b"hello", length=1000)
    assert await connection.closed()
    with suppress(ConnectionError):
        await connection.send(head("DELETE", victim, TUS))
    with suppress(TimeoutError, ConnectionError):
        assert await asyncio.wait_for(connection.reader.read(), 0.3) == b""
    assert await offset_of(site, path) == 5
    assert (await site.get(victim)).body == b"hello"


async def test_slow_client_is_not_silent(serve: Serve) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.3)))
    path = await site.create(8)
    connection = await site.begin(path, 0, b"", length=8)
    for number in range(8):
        await asyncio.sleep(0.1)
        await connection.send(DATA[number : number + 1])
    assert (await connection.reply()).status == 204
    assert (await site.get(path)).body == DATA[:8]


async def test_slow_hook_is_not_the_clients_silence(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_receive
    async def wait(event: Any) -> None:
        await asyncio.sleep(0.3)

    options = Options(read_timeout=timedelta(seconds=0.2))
    site = await serve(hooks=hooks, options=options)
    path = await site.create(10)
    connection = await site.begin(path, 0, b"", length=10, Expect="100-continue")
    interim = await connection.reader.readuntil(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 100 ")
    await asyncio.sleep(0.1)
    await connection.send(DATA[:10])
    assert (await connection.reply()).status == 204


@pytest.mark.parametrize("sent", [5, 100_000])
async def test_silence_under_a_checksum_discards(serve: Serve, sent: int) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.25)))
    path = await site.create(len(DATA))
    checksum = sha1(DATA[:sent])
    connection = await site.begin(path, 0, DATA[:sent], length=len(DATA), Upload_Checksum=checksum)
    assert await connection.closed()
    assert await offset_of(site, path) == 0
    assert site.stored(path) == b""


async def test_silence_after_a_creation_keeps_what_came(serve: Serve) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.25)))
    fields = {**TUS, **OCTETS, "Upload-Length": "10", "Content-Length": "10"}
    connection = await site.connect()
    await connection.send(head("POST", "/files", fields) + b"hello")
    reply = await connection.reply()
    assert_refused(reply, 400)
    assert await offset_of(site, reply.path) == 5


# A host that cancels handlers


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("sent", [5, 5000, 300_000, 2 * MEBIBYTE])
async def test_bytes_are_kept_when_the_host_cancels(tmp_path: Path, coding: str, sent: int) -> None:
    async with cancelling(tmp_path) as site:
        for leave in ("close", "reset"):
            path = await site.create(len(DATA))
            connection = await begin(site, path, sent, coding, len(DATA))
            if leave == "close":
                await connection.close()
                await site.until_stored(path, sent)
            else:
                await site.until_stored(path, sent)
                connection.reset()
            assert await offset_of(site, path) == sent
            assert (await site.patch(path, sent, DATA[sent:])).status == 204
            assert (await site.get(path)).body == DATA


async def test_bytes_are_discarded_when_the_host_cancels_under_a_checksum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cancelling(tmp_path) as site:
        for sent in (5, 300_000):
            path = await site.create(len(DATA))
            connection = await site.begin(
                path, 0, DATA[:sent], length=len(DATA), Upload_Checksum=sha1(DATA[:sent])
            )
            await site.until_stored(path, sent)
            connection.reset()
            assert await offset_of(site, path) == 0
            await site.until_stored(path, 0)
            assert (await site.patch(path, 0, DATA, Upload_Checksum=sha1(DATA))).status == 204
    assert [record for record in caplog.records if record.levelno >= ERROR] == []


async def test_other_verbs_are_done_when_the_host_cancels(tmp_path: Path) -> None:
    async with cancelling(tmp_path) as site:
        for _ in range(10):
            path = await site.upload(b"hello")
            connection = await site.connect()
            await connection.send(head("DELETE", path, TUS))
            connection.reset()
            async with asyncio.timeout(1):
                assert (await site.head(path)).status in (200, 404, 410)
                assert (await site.delete(path)).status in (204, 404, 410)


# The client closes its half


async def test_a_client_that_closes_its_half_behind_a_request_is_answered(site: Site) -> None:
    for size in (5, 200_000):
        connection = await site.connect()
        fields = {**TUS, **OCTETS, "Upload-Length": str(size), "Content-Length": str(size)}
        await connection.send_head("POST", "/files", fields)
        await connection.send(b"x" * size)
        connection.writer.write_eof()
        async with asyncio.timeout(3):
            reply = await connection.reply()
            assert (reply.status, reply.offset) == (201, size)
            assert await connection.closed()
