"""The application is stopped while bodies run, black box: answered at once, and nothing lost.

aiohttp alone would wait for its shutdown timeout, a minute, and then cancel the handlers.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Hooks, Options, TusRoutes, setup, tus_routes
from aiotus_server.stores.writing import PAGE

from ..processes import ServerProcess
from .client import OCTETS, TUS, Connection, Site, assert_refused, chunked, head, serving, sha1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    Host = Callable[..., web.Application]

ROUTES = web.AppKey[TusRoutes]("routes")  # for the tests, to look into the server
AT_ONCE = 1.5  # seconds
DATA = random.Random(1).randbytes(3_000_000)
BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def with_add_routes(store: DiskStore, **kwargs: Any) -> web.Application:
    app = web.Application()
    routes = app[ROUTES] = tus_routes(store, **kwargs)
    app.add_routes(routes)
    return app


def with_setup(store: DiskStore, **kwargs: Any) -> web.Application:
    app = web.Application()
    app[ROUTES] = setup(app, store, **kwargs)
    return app


def below(app: web.Application) -> web.Application:
    outer = web.Application()
    outer[ROUTES] = app[ROUTES]
    outer.add_subapp("/api", app)
    return outer


def with_add_routes_below(store: DiskStore, **kwargs: Any) -> web.Application:
    return below(with_add_routes(store, **kwargs))


def with_setup_below(store: DiskStore, **kwargs: Any) -> web.Application:
    return below(with_setup(store, **kwargs))


HOSTS = [with_add_routes, with_setup, with_add_routes_below, with_setup_below]


@asynccontextmanager
async def hosted(host: Host, root: Path, **kwargs: Any) -> AsyncIterator[Site]:
    """A server with aiohttp's own shutdown timeout, which nobody may have to wait for."""
    store = DiskStore(root)
    app = host(store, **kwargs)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    prefix = "/api/files" if "below" in host.__name__ else "/files"
    site = Site(runner.addresses[0][1], store, prefix, runner, app[ROUTES])
    try:
        yield site
    finally:
        for connection in site.connections:
            await connection.close()
        async with asyncio.timeout(10):
            await runner.cleanup()
            await store.close()


@asynccontextmanager
async def started_again(root: Path, prefix: str) -> AsyncIterator[Site]:
    async with serving(DiskStore(root), prefix=prefix) as site:
        yield site
        await site.routes.server.stop()


async def stop(site: Site) -> None:
    async with asyncio.timeout(10):
        await site.runner.cleanup()


async def assert_stopped(connection: Connection) -> None:
    """Answered 503 at once, with the connection closed after it."""
    async with asyncio.timeout(AT_ONCE):
        reply = await connection.reply()
    assert_refused(reply, 503, "SERVER_STOPPING")
    assert int(reply.headers["Retry-After"]) > 0


async def goes_on(root: Path, site: Site, path: str, offset: int) -> None:
    """The next server has ``offset`` bytes, and takes the rest."""
    await site.store.close()
    async with started_again(root, site.prefix) as again:
        assert (await again.head(path)).offset == offset
        assert (await again.patch(path, offset, DATA[offset:])).status == 204
        assert (await again.get(path)).body == DATA


# In this process


@BOTH_LOOPS
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
async def test_bodies_are_ended_and_what_came_is_kept(tmp_path: Path, host: Host) -> None:
    async with hosted(host, tmp_path) as site:
        sizes = [0, 5000, 300_000, 2_000_000]
        paths = [await site.create(len(DATA)) for _ in [*sizes, *sizes]]
        connections = []
        for path, size in zip(paths, sizes, strict=False):
            connections.append(await site.begin(path, 0, DATA[:size], length=len(DATA)))
        for path, size in zip(paths[4:], sizes, strict=True):
            pieces = [DATA[:size]] if size else []
            connections.append(await site.begin(path, 0, chunked(*pieces)[:-5], length=None))
        for path, size in zip(paths, [*sizes, *sizes], strict=True):
            await site.until_stored(path, size)
        await asyncio.sleep(0.05)  # the handlers have begun, even where there is nothing to store
        stopping = asyncio.create_task(stop(site))
        await asyncio.gather(*map(assert_stopped, connections))
        async with asyncio.timeout(3):
            await stopping
        await site.store.close()
        async with started_again(tmp_path, site.prefix) as again:
            for path, size in zip(paths, [*sizes, *sizes], strict=True):
                assert (await again.head(path)).offset == size
                assert (await again.patch(path, size, DATA[size:])).status == 204
                assert (await again.get(path)).body == DATA


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
async def test_body_under_a_checksum_is_discarded(tmp_path: Path, host: Host) -> None:
    async with hosted(host, tmp_path) as site:
        paths = [await site.create(len(DATA)) for _ in range(2)]
        counted = await site.begin(
            paths[0], 0, DATA[:5000], length=len(DATA), Upload_Checksum=sha1(DATA[:5000])
        )
        trailed = await site.begin(
            paths[1], 0, chunked(DATA[:5000])[:-5], length=None, Trailer="Upload-Checksum"
        )
        for path in paths:
            await site.until_stored(path, 5000)
        stopping = asyncio.create_task(stop(site))
        await assert_stopped(counted)
        await assert_stopped(trailed)
        await stopping
        for path in paths:
            assert site.stored(path) == b""
            await goes_on(tmp_path, site, path, 0)


@BOTH_LOOPS
async def test_creation_with_upload_is_ended_and_tells_its_location(tmp_path: Path) -> None:
    async with hosted(with_setup, tmp_path, options=Options(new_id=lambda: "known")) as site:
        fields = {**TUS, **OCTETS, "Upload-Length": str(len(DATA))}
        fields["Content-Length"] = str(len(DATA))
        connection = await site.connect()
        await connection.send(head("POST", "/files", fields) + DATA[:5000])
        await site.until_stored("/files/known", 5000)
        stopping = asyncio.create_task(stop(site))
        async with asyncio.timeout(AT_ONCE):
            reply = await connection.reply()
        assert_refused(reply, 503)
        assert "Retry-After" in reply.headers
        assert reply.path == "/files/known"
        await stopping
        await goes_on(tmp_path, site, "/files/known", 5000)


@BOTH_LOOPS
@pytest.mark.parametrize("host", [with_add_routes, with_setup], ids=lambda host: host.__name__)
async def test_client_in_full_swing_gets_the_answer(tmp_path: Path, host: Host) -> None:
    """It goes on sending; a reset would take the answer away from it."""
    async with hosted(host, tmp_path) as site:
        path = await site.create(10**10)
        connection = await site.begin(path, 0, b"", length=10**10)

        async def send() -> None:
            with suppress(ConnectionError):
                while True:
                    await connection.send(DATA)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(5):
            while not site.stored(path):
                await asyncio.sleep(0.02)
        stopping = asyncio.create_task(stop(site))
        await assert_stopped(connection)
        await stopping
        connection.reset()
        await sending
        kept = site.stored(path)
        assert kept == (DATA * (len(kept) // len(DATA) + 1))[: len(kept)]
        await site.store.close()
        async with started_again(tmp_path, "/files") as again:
            assert (await again.head(path)).offset == len(kept)


async def test_many_bodies_are_ended_together(tmp_path: Path) -> None:
    async with hosted(with_setup, tmp_path) as site:
        paths = [await site.create(10) for _ in range(20)]
        connections = [await site.begin(path, 0, b"hello", length=10) for path in paths]
        for path in paths:
            await site.until_stored(path, 5)
        stopping = asyncio.create_task(stop(site))
        async with asyncio.timeout(AT_ONCE):
            replies = await asyncio.gather(*(connection.reply() for connection in connections))
        assert [reply.status for reply in replies] == [503] * 20
        await stopping
        assert [site.stored(path) for path in paths] == [b"hello"] * 20


async def test_idle_connections_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with hosted(with_setup, tmp_path) as site:
        path = await site.create(5)
        connection = await site.connect()
        await connection.send(head("HEAD", path, TUS))
        await connection.reply(method="HEAD")
        before = time.monotonic()
        await stop(site)
        assert time.monotonic() - before < AT_ONCE
        assert await connection.closed()


@pytest.mark.parametrize("host", [with_add_routes, with_setup], ids=lambda host: host.__name__)
@pytest.mark.parametrize("moment", ["authorize", "pre_receive"])
async def test_body_whose_hook_is_at_work_is_ended_after_it(
    tmp_path: Path, host: Host, moment: str
) -> None:
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    async def wait(event: Any) -> None:
        if event.request.method == "PATCH":
            reached.set()
            await go_on.wait()

    getattr(hooks, moment)(wait)
    async with hosted(host, tmp_path, hooks=hooks) as site:
        path = await site.create(len(DATA))
        connection = await site.begin(path, 0, b"", length=len(DATA))
        await reached.wait()
        stopping = asyncio.create_task(stop(site))
        await asyncio.sleep(0.1)
        go_on.set()
        await assert_stopped(connection)
        async with asyncio.timeout(3):
            await stopping


async def test_head_that_waits_for_the_lock_gets_no_5xx(tmp_path: Path) -> None:
    """tus-js-client would upload everything again."""
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def wait(event: Any) -> None:
        reached.set()
        await go_on.wait()

    async with hosted(with_setup, tmp_path, hooks=hooks) as site:
        path = await site.create(10)
        patch = await site.begin(path, 0, b"hello", length=10)
        await reached.wait()
        connection = await site.connect()
        await connection.send(head("HEAD", path, TUS))
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(stop(site))
        await asyncio.sleep(0.1)
        go_on.set()
        async with asyncio.timeout(AT_ONCE):
            reply = await patch.reply()
            assert reply.status in (423, 503)
            try:
                answer = await connection.reply(method="HEAD")
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            else:
                assert answer.status in (200, 423)
                assert answer.status == 423 or answer.offset == len(site.stored(path))
        await stopping


async def test_finished_requests_stay_finished(tmp_path: Path) -> None:
    """The last byte came before the stop; its answer and its hook come all the same."""
    hooks, go_on, finished = Hooks(), asyncio.Event(), []
    reached = asyncio.Event()

    @hooks.pre_finish
    async def wait(event: Any) -> None:
        reached.set()
        await go_on.wait()

    @hooks.post_finish
    def note(event: Any) -> None:
        finished.append(event.upload.upload_id)

    async with hosted(with_setup, tmp_path, hooks=hooks) as site:
        path = await site.create(5)
        connection = await site.begin(path, 0, b"hello", length=5)
        await reached.wait()
        stopping = asyncio.create_task(stop(site))
        await asyncio.sleep(0.1)
        go_on.set()
        async with asyncio.timeout(AT_ONCE):
            assert (await connection.reply()).status == 204
        await stopping
        assert finished == [path.rpartition("/")[2]]


async def test_store_is_free_after_the_stop(tmp_path: Path) -> None:
    """With ``setup`` another server may have it at once."""
    async with hosted(with_setup, tmp_path) as site:
        path = await site.create(10)
        connection = await site.begin(path, 0, b"hello", length=10)
        await site.until_stored(path, 5)
        stopping = asyncio.create_task(stop(site))
        await assert_stopped(connection)
        await stopping
        async with started_again(tmp_path, "/files") as again:
            assert (await again.head(path)).offset == 5


async def test_routes_of_the_host_are_not_ended(tmp_path: Path) -> None:
    """Bodies of other handlers have the time that aiohttp gives them."""
    read = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        read.set()
        await asyncio.sleep(0.3)
        return web.Response(text="done")

    app = web.Application()
    app.add_routes([web.get("/slow", slow), *tus_routes(DiskStore(tmp_path))])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site = Site(runner.addresses[0][1], None, "/files", runner)
    answer = asyncio.create_task(site.get("/slow"))
    await read.wait()
    await stop(site)
    assert (await answer).body == b"done"


# A process of its own


_SERVE = """
import sys
from aiohttp import web
from aiotus_server import DiskStore, setup, tus_routes

port, root, how, loop = sys.argv[1:]
app = web.Application()
if "setup" in how:
    setup(app, DiskStore(root))
else:
    app.add_routes(tus_routes(DiskStore(root)))
if "below" in how:
    outer = web.Application()
    outer.add_subapp("/api", app)
    app = outer
if loop == "uvloop":
    import uvloop
    uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(port), print=None)
"""


class Application(ServerProcess):
    """``web.run_app`` with the routes in one of the ways that there are."""

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-c", _SERVE, str(self.port), str(self.root), *self.arguments]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_sigterm_ends_bodies_and_keeps_what_came(
    tmp_path: Path, host: Host, loop: str
) -> None:
    process = Application(tmp_path / "uploads", host.__name__, loop)
    prefix = "/api/files" if "below" in host.__name__ else "/files"
    store = DiskStore(tmp_path / "uploads")  # only to look at its files
    site = Site(process.port, store, prefix, web.AppRunner(web.Application()))
    await process.start()
    try:
        sizes = [PAGE, 70 * PAGE, 500 * PAGE]  # nothing else can be seen in another process's file
        paths = [await site.create(len(DATA)) for _ in [*sizes, 0]]
        connections = [
            await site.begin(path, 0, DATA[:size], length=len(DATA))
            for path, size in zip(paths, sizes, strict=False)
        ]
        connections.append(
            await site.begin(paths[3], 0, DATA[:PAGE], length=9000, Upload_Checksum=sha1(b""))
        )
        for path, size in zip(paths, [*sizes, PAGE], strict=True):
            await site.until_stored(path, size)
        before = time.monotonic()
        ending = asyncio.create_task(process.terminate())
        for connection in connections:
            await assert_stopped(connection)
        assert await ending == 0
        assert time.monotonic() - before < 5
        for connection in connections:
            await connection.close()
        await process.start()
        for path, size in zip(paths, [*sizes, 0], strict=True):
            assert (await site.head(path)).offset == size
            assert (await site.patch(path, size, DATA[size:])).status == 204
            assert (await site.get(path)).body == DATA
        assert "Traceback" not in process.log
    finally:
        for connection in site.connections:
            await connection.close()
        await process.aclose()


async def test_sigterm_of_the_bundled_server(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "uploads")
    await process.start()
    try:
        store = DiskStore(tmp_path / "uploads")
        site = Site(process.port, store, "/files", web.AppRunner(web.Application()))
        path = await site.create(len(DATA))
        connection = await site.begin(path, 0, DATA[: 70 * PAGE], length=len(DATA))
        await site.until_stored(path, 70 * PAGE)
        ending = asyncio.create_task(process.terminate())
        await assert_stopped(connection)
        await connection.close()
        assert await ending == 0
        await process.start()
        assert (await site.head(path)).offset == 70 * PAGE
        assert "Traceback" not in process.log
    finally:
        await process.aclose()
