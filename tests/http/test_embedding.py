"""tus in somebody's application: several mounts, sub-applications, middlewares, other servers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import traceback
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web, web_protocol, web_server
from yarl import URL

from aiotus_server import DiskStore, MemoryStore, Options, TusError, TusRoutes, setup, tus_routes

from .client import (
    OCTETS,
    TUS,
    Connection,
    Reply,
    Site,
    assert_refused,
    chunked,
    head,
    running,
    sha1,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from aiohttp.typedefs import Handler

    from .conftest import Serve

    ClientFactory = Callable[[web.Application], Awaitable[TestClient[web.Request, web.Application]]]


@asynccontextmanager
async def hosting(app: web.Application, prefix: str = "/files") -> AsyncIterator[Site]:
    """The client's view of an application that was put together by hand."""
    async with running(app) as (runner, port):
        site = Site(port, None, prefix, runner)
        yield site
        for connection in site.connections:
            await connection.close()


async def check_uploading(site: Site, prefix: str) -> None:
    """All of tus works at ``prefix``: what Location says and Upload-Concat names is there."""
    for browser in ({}, {"Origin": "https://app.example"}):
        fields = {"Upload-Concat": "partial", "Upload-Length": "5", **browser}
        one = await site.request("POST", prefix, fields)
        two = await site.request("POST", f"{prefix}/", {**fields, **OCTETS}, b"world")
        assert (one.status, two.status) == (201, 201)
        for reply in (one, two):
            url = reply.headers["Location"]
            pattern = r"(http://localhost)?(/[!-~]*)/[A-Za-z0-9_-]+"
            match = re.fullmatch(pattern, url) or re.fullmatch(r"(http://localhost)?()/\w+", url)
            assert match is not None, url
            assert match[2] == prefix
            assert (match[1] is None) == bool(browser)
        assert (await site.patch(one.path, 0, b"hello")).offset == 5
        urls = f"{one.path} {two.headers['Location']}"
        final = await site.request("POST", prefix, {"Upload-Concat": f"final;{urls}"})
        assert (await site.get(final.path)).body == b"helloworld"
        assert (await site.head(final.path)).headers["Upload-Concat"] == f"final;{urls}"
        assert (await site.delete(one.path)).status == 204
        assert (await site.head(one.path)).status in (404, 410)


# Prefixes


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("/files", "/files"),
        ("/files/", "/files"),
        ("/a/b/c", "/a/b/c"),
        ("/a.b~c-d", "/a.b~c-d"),
    ],
)
async def test_any_prefix_will_do(serve: Serve, prefix: str, path: str) -> None:
    await check_uploading(await serve(prefix=prefix), path)


@pytest.mark.parametrize("prefix", ["/", ""])
async def test_the_root_may_be_the_prefix(serve: Serve, prefix: str) -> None:
    site = await serve(prefix=prefix)
    reply = await site.request("POST", "/", {"Upload-Length": "5"})
    assert re.fullmatch(r"http://localhost/[A-Za-z0-9_-]+", reply.headers["Location"])
    assert (await site.patch(reply.path, 0, b"hello")).offset == 5
    assert (await site.get(reply.path)).body == b"hello"
    reply = await site.request("POST", "/", {"Upload-Length": "0", "Origin": "null"})
    assert re.fullmatch(r"/[A-Za-z0-9_-]+", reply.headers["Location"])
    assert_refused(await site.head("/unknown"), 404, method="HEAD")
    part = await site.request("POST", "/", {"Upload-Length": "0", "Upload-Concat": "partial"})
    final = await site.request("POST", "/", {"Upload-Concat": f"final;{part.path}"})
    assert final.status == 201


@pytest.mark.parametrize(
    "prefix",
    [
        "files",
        "files/",
        "http://example.org/files",
        "*",
        # aiohttp finds no routes that begin so and have a variable.
        "/\u00fcbertragen",
        "/two words",
        "/two%20words",
    ],
)
def test_a_prefix_that_cannot_be_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        tus_routes(MemoryStore(), prefix=prefix)


async def test_a_prefix_may_have_a_variable(serve: Serve) -> None:
    tenants: list[str] = []

    def options(request: web.Request) -> Options | None:
        tenants.append(request.match_info["tenant"])
        return Options() if request.match_info["tenant"] in ("red", "blue") else None

    site = await serve(prefix="/of/{tenant}/files", options=options)
    await check_uploading(site, "/of/red/files")
    assert set(tenants) == {"red"}
    assert_refused(await site.request("POST", "/of/green/files", {"Upload-Length": "5"}), 404)


async def test_two_mounts_have_nothing_in_common() -> None:
    app = web.Application()
    app.add_routes(tus_routes(MemoryStore(), prefix="/one", options=Options(max_size=100)))
    app.add_routes(tus_routes(MemoryStore(), prefix="/two", options=Options(read=False)))
    async with hosting(app, "/one") as site:
        await check_uploading(site, "/one")
        ours = await site.upload(b"hello", Upload_Concat="partial")
        theirs = ours.replace("/one/", "/two/")
        for method in ("HEAD", "PATCH", "DELETE"):
            fields = {**OCTETS, "Upload-Offset": "5"}
            assert_refused(await site.request(method, theirs, fields), 404, method=method)
        for named in (ours, theirs):
            final = {"Upload-Concat": f"final;{named}"}
            assert_refused(await site.request("POST", "/two", final), 400, "PARTIAL_UNKNOWN")
        assert (await site.request("OPTIONS", "/one")).headers["Tus-Max-Size"] == "100"
        assert "Tus-Max-Size" not in (await site.request("OPTIONS", "/two")).headers
        assert_refused(await site.get("/two/x"), 405)
        assert (await site.get(ours)).body == b"hello"


async def test_two_mounts_may_share_what_one_server_keeps(tmp_path: Path) -> None:
    """One store under two prefixes: by a proxy's name for it."""
    app = web.Application()
    store = MemoryStore()
    app.add_routes(tus_routes(store, prefix="/one"))
    app.add_routes(tus_routes(store, prefix="/two", options=Options(read=False)))
    async with hosting(app, "/one") as site:
        path = await site.upload(b"hello")
        assert (await site.head(path.replace("/one/", "/two/"))).offset == 5


@pytest.mark.parametrize("complete", [True, False])
async def test_a_sub_application_under_another_prefix(tmp_path: Path, complete: bool) -> None:
    sub = web.Application()
    if complete:
        setup(sub, DiskStore(tmp_path), prefix="/files")
    else:
        sub.add_routes(tus_routes(DiskStore(tmp_path), prefix="/files"))
    app = web.Application()
    app.add_subapp("/api/v1", sub)
    async with hosting(app, "/api/v1/files") as site:
        await check_uploading(site, "/api/v1/files")
        inside = {"Upload-Concat": "final;/files/a"}
        assert_refused(await site.request("POST", headers=inside), 400, "PARTIAL_UNKNOWN")


async def test_sub_applications_within_one_another(tmp_path: Path) -> None:
    inner, middle, app = web.Application(), web.Application(), web.Application()
    setup(inner, DiskStore(tmp_path), prefix="/")
    middle.add_subapp("/b", inner)
    app.add_subapp("/a", middle)
    async with hosting(app) as site:
        await check_uploading(site, "/a/b")


async def test_a_request_for_an_upload_in_a_relative_url(serve: Serve) -> None:
    site = await serve(prefix="/deep/files")
    path = await site.upload(b"hello", Upload_Concat="partial")
    upload_id = path.rpartition("/")[2]
    for url in (upload_id, f"./{upload_id}", f"../files/{upload_id}", f"files/{upload_id}"):
        reply = await site.request("POST", headers={"Upload-Concat": f"final;{url}"})
        assert (await site.get(reply.path)).body == b"hello"


# Beside other handlers


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def test_other_handlers_are_as_they_were(tmp_path: Path) -> None:
    app = web.Application(client_max_size=5_000_000)
    app.add_routes([web.post("/echo", echo), web.post("/files/echo", echo)])
    setup(app, DiskStore(tmp_path))
    async with hosting(app) as site:
        data = b"x" * 3_000_000
        for path in ("/echo", "/files/echo"):
            reply = await site.request("POST", path, {}, data, tus=False)
            assert (reply.status, reply.body) == (200, data)
            assert "Tus-Resumable" not in reply.headers
        body = chunked(b"hello", b" world", trailers={"X-Trailer": "yes"})
        coding = {"Transfer-Encoding": "chunked"}
        for announced in ({}, {"Trailer": "X-Trailer"}, TUS):
            connection = await site.connect()
            await connection.send(
                (head("POST", "/echo", {**coding, **announced}) + body) * 2
                + head("HEAD", "/files/unknown", TUS)
            )
            assert (await connection.reply()).body == b"hello world"
            assert (await connection.reply()).body == b"hello world"
            assert (await connection.reply(method="HEAD")).status == 404
        connection = await site.connect()
        expect = {"Expect": "100-continue", "Content-Length": "5"}
        await connection.send(head("POST", "/echo", expect) + b"hello")
        reply = await connection.reply()
        assert (reply.body, reply.interim) == (b"hello", (100,))
        await connection.send(head("POST", "/echo", {"Content-Length": "2"}) + b"on")
        assert (await connection.reply()).body == b"on"


async def test_the_limit_on_other_bodies_is_not_for_uploads(tmp_path: Path) -> None:
    app = web.Application(client_max_size=10)
    setup(app, DiskStore(tmp_path))
    async with hosting(app) as site:
        path = await site.upload(b"x" * 100_000)
        assert len((await site.get(path)).body) == 100_000


async def test_signals_and_middlewares_see_every_answer(tmp_path: Path) -> None:
    seen: list[int] = []

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        seen.append(response.status)
        return response

    app = web.Application(middlewares=[watch, web.normalize_path_middleware()])
    app.on_response_prepare.append(sign)
    setup(app, DiskStore(tmp_path))
    async with hosting(app) as site:
        path = await site.upload(b"hello")
        replies = [
            await site.get(path),
            await site.head("/files/unknown"),
            await site.request("PUT", path),
            await site.request("OPTIONS", tus=False),
        ]
        assert seen == [201, 204, 200, 404, 405, 204]
        assert all("X-Signed" in reply.headers for reply in replies)


# An application's own authentication


@web.middleware
async def by_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.headers.get("Authorization") != "Bearer good":
        return web.Response(status=401, text="Who are you?\n")
    return await handler(request)


@web.middleware
async def by_exception(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.headers.get("Authorization") != "Bearer good":
        raise web.HTTPUnauthorized(text="Who are you?\n")
    return await handler(request)


GOOD = {"Authorization": "Bearer good"}
LENGTH = 10_000_000


@pytest.fixture(params=[by_answer, by_exception])
async def guarded(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Site, str]]:
    """A server that wants to know who asks, and the path of an empty upload in it."""
    app = web.Application(middlewares=[request.param])
    setup(app, DiskStore(tmp_path / "uploads", durability="none"))
    async with hosting(app) as site:
        created = await site.request("POST", headers={**GOOD, "Upload-Length": str(LENGTH)})
        assert created.status == 201
        yield site, created.path


def patch_head(path: str, size: int, headers: dict[str, str]) -> bytes:
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(size), **headers}
    return head("PATCH", path, fields)


async def offset_of(guarded: tuple[Site, str]) -> int:
    site, path = guarded
    return (await site.request("HEAD", path, GOOD)).offset


async def test_a_stranger_is_refused_before_a_byte_is_stored(
    guarded: tuple[Site, str], tmp_path: Path
) -> None:
    site, path = guarded
    files = sorted(tmp_path.rglob("*"))
    for size in (5, 300_000, LENGTH):
        connection = await site.connect()
        await connection.send(patch_head(path, size, {}))
        assert (await connection.reply()).status == 401  # no byte of the body has been sent
        with suppress(ConnectionError):
            await connection.send(b"x" * size)
        await connection.close()
        assert await offset_of(guarded) == 0
    fields = {**OCTETS, "Upload-Length": "5"}
    assert (await site.request("POST", "/files", fields, b"hello")).status == 401
    assert sorted(tmp_path.rglob("*")) == files
    reply = await site.request("PATCH", path, {**OCTETS, **GOOD, "Upload-Offset": "0"}, b"hello")
    assert reply.offset == 5


async def test_a_stranger_is_not_told_to_continue(guarded: tuple[Site, str]) -> None:
    site, path = guarded
    connection = await site.connect()
    await connection.send(patch_head(path, 300, {"Expect": "100-continue"}))
    reply = await connection.reply()
    assert (reply.status, reply.interim) == (401, ())
    smuggled = head("DELETE", path, {**TUS, **GOOD})
    with suppress(ConnectionError):
        await connection.send(smuggled)
    async with asyncio.timeout(8):
        assert await connection.closed()
    assert await offset_of(guarded) == 0


async def test_a_friend_is_told_to_continue(guarded: tuple[Site, str]) -> None:
    site, path = guarded
    connection = await site.connect()
    await connection.send(patch_head(path, 5, {"Expect": "100-continue", **GOOD}))
    assert b" 100 " in await connection.reader.readuntil(b"\r\n\r\n")
    await connection.send(b"hello")
    assert (await connection.reply()).offset == 5


@pytest.mark.parametrize("chunks", [True, False])
async def test_what_a_stranger_sends_behind_is_judged_for_itself(
    guarded: tuple[Site, str], chunks: bool
) -> None:
    site, path = guarded
    smuggled = head("DELETE", path, {**TUS, **GOOD})
    begin = patch_head(path, len(smuggled), {})
    body = smuggled
    if chunks:
        body = chunked(smuggled)
        length = f"Content-Length: {len(smuggled)}".encode()
        begin = begin.replace(length, b"Transfer-Encoding: chunked")
    connection = await site.connect()
    follow = head("HEAD", path, {**TUS, **GOOD})
    await connection.send(begin + body + begin + body + follow)
    replies: list[Reply] = []
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        replies.append(await connection.reply())
        replies.append(await connection.reply())
        replies.append(await connection.reply(method="HEAD"))
    assert [reply.status for reply in replies] == [401, 401, 200][: len(replies)]
    assert len(replies) == 3 or chunks
    assert await offset_of(guarded) == 0


async def test_a_stranger_with_a_big_body_gets_the_answer(guarded: tuple[Site, str]) -> None:
    site, path = guarded
    connection = await site.connect()
    await connection.send(patch_head(path, LENGTH, {}))
    with suppress(ConnectionError):
        await connection.send(b"x" * LENGTH)
    assert (await connection.reply()).status == 401
    assert await offset_of(guarded) == 0


# Start and stop


async def test_setup_opens_the_store_when_the_application_starts(tmp_path: Path) -> None:
    root = tmp_path / "uploads"
    app = web.Application()
    routes = setup(app, DiskStore(root), prefix="/up")
    assert isinstance(routes, TusRoutes)
    assert not root.exists()
    async with hosting(app, "/up") as site:
        assert root.is_dir()
        await check_uploading(site, "/up")


async def test_an_application_that_cannot_store_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file in the way")
    app = web.Application()
    setup(app, DiskStore(tmp_path / "uploads"))
    with pytest.raises(TusError) as caught:
        async with hosting(app):
            pass
    assert str(tmp_path / "uploads") in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("sub", [True, False])
async def test_cleanup_ctx_gives_the_store_back(tmp_path: Path, sub: bool) -> None:
    """Another application may go on where the first one stopped."""
    path = ""
    for turn in range(3):
        routes = tus_routes(DiskStore(tmp_path), prefix="/files")
        inner = app = web.Application()
        inner.add_routes(routes)
        inner.cleanup_ctx.append(routes.cleanup_ctx)
        if sub:
            app = web.Application()
            app.add_subapp("/api", inner)
        async with hosting(app, "/api/files" if sub else "/files") as site:
            path = path or await site.create(6)
            assert (await site.patch(path, 2 * turn, b"%02d" % turn)).offset == 2 * turn + 2
            if turn == 2:
                assert (await site.get(path)).body == b"000102"


async def test_one_store_may_be_opened_again(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    paths = []
    for _ in range(2):
        app = web.Application()
        setup(app, store)
        async with hosting(app) as site:
            paths.append(await site.upload(b"hello"))
            assert [(await site.get(path)).body for path in paths] == [b"hello"] * len(paths)


async def test_routes_are_a_sequence_of_routes() -> None:
    routes = tus_routes(MemoryStore())
    assert len(routes) == len(list(routes)) == len(routes[:])
    assert all(isinstance(route, web.RouteDef) for route in routes)
    app = web.Application()
    app.router.add_routes(routes)
    async with hosting(app) as site:
        await check_uploading(site, "/files")


# aiohttp's own ways to serve and to test


async def test_a_test_of_a_users_own(aiohttp_client: ClientFactory, tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes(tus_routes(DiskStore(tmp_path)))
    client = await aiohttp_client(app)
    response = await client.post("/files", headers={**TUS, "Upload-Length": "11"})
    assert response.status == 201
    location = URL(response.headers["Location"]).path  # aiohttp's test client takes paths only
    for offset, data in ((0, b"hello"), (5, b" world")):
        response = await client.patch(
            location,
            headers={**TUS, **OCTETS, "Upload-Offset": str(offset)},
            data=data,
        )
        assert response.status == 204
    response = await client.get(location)
    assert await response.read() == b"hello world"


async def test_a_test_of_a_users_own_with_setup(aiohttp_client: ClientFactory) -> None:
    app = web.Application()
    setup(app, MemoryStore())
    client = await aiohttp_client(app)
    fields = {**TUS, **OCTETS, "Upload-Defer-Length": "1"}
    response = await client.post("/files/", headers=fields, data=b"hello", expect100=True)
    assert (response.status, response.headers["Upload-Offset"]) == (201, "5")


async def test_a_unix_socket(tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes(tus_routes(MemoryStore()))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    try:
        connection = Connection(*await asyncio.open_unix_connection(str(tmp_path / "socket")))
        fields = {**TUS, **OCTETS, "Upload-Length": "5", "Content-Length": "5"}
        await connection.send(head("POST", "/files", fields) + b"hello")
        reply = await connection.reply()
        assert (reply.status, reply.offset) == (201, 5)
        await connection.close()
    finally:
        await runner.cleanup()


APPLICATION = """
from aiohttp import web
from aiotus_server import DiskStore, tus_routes

app = web.Application()
app.add_routes(tus_routes(DiskStore("uploads"), prefix="/files"))

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=0)
"""
GUNICORN = ["-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket", "-k"]


@pytest.mark.parametrize(
    "command",
    [
        ["application.py"],
        [*GUNICORN, "aiohttp.GunicornWebWorker", "application:app"],
        [*GUNICORN, "aiohttp.GunicornUVLoopWebWorker", "application:app"],
    ],
    ids=["run_app", "gunicorn", "gunicorn-uvloop"],
)
async def test_a_process_of_its_own(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        *command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while not (
                found := re.search(
                    rb"http://127\.0\.0\.1:(\d+)", line := await process.stdout.readline()
                )
            ):
                assert line, "it ended before it served"
        await check_served(int(found[1]))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            rest = await process.stdout.read()
        assert b"Traceback" not in rest
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def announced_port(output: asyncio.StreamReader) -> int:
    said = b""
    while line := await output.readline():
        said += line
        if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError(said.decode())


async def check_served(port: int) -> None:
    """With aiohttp's client: an upload with a checksum in its trailer, in two requests."""
    url = f"http://127.0.0.1:{port}/files"
    async with aiohttp.ClientSession(headers=TUS) as session:
        async with session.options(url) as response:
            assert "checksum-trailer" in response.headers["Tus-Extension"]
        async with session.post(url, headers={"Upload-Length": "400005"}) as response:
            location = response.headers["Location"]
        fields = {**OCTETS, "Upload-Offset": "0", "Upload-Checksum": sha1(b"hello")}
        async with session.patch(location, headers=fields, data=b"hello") as response:
            assert response.status == 204
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = Connection(reader, writer)
        data = b"x" * 400_000
        fields = {**TUS, **OCTETS, "Upload-Offset": "5", "Transfer-Encoding": "chunked"}
        fields["Trailer"] = "Upload-Checksum"
        trailer = {"Upload-Checksum": sha1(data)}
        path = location.removeprefix(f"http://127.0.0.1:{port}")
        await connection.send(head("PATCH", path, fields) + chunked(data, trailers=trailer))
        reply = await connection.reply()
        assert (reply.status, reply.offset) == (204, 400_005)
        await connection.close()
        async with session.get(location) as response:
            assert await response.read() == b"hello" + data


# Connections that are aiohttp's own


@pytest.fixture
async def foreign(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> Site:
    """A server in which aiohttp has been left as it was."""
    monkeypatch.setattr(web_server, "RequestHandler", web_protocol.RequestHandler)
    return await serve(adapt_aiohttp=False)


async def test_without_our_connections_all_but_trailers_works(foreign: Site) -> None:
    reply = await foreign.request("OPTIONS", tus=False)
    extensions = set(reply.headers["Tus-Extension"].split(","))
    assert "checksum-trailer" not in extensions
    assert {"creation", "creation-with-upload", "checksum", "concatenation"} <= extensions
    await check_uploading(foreign, "/files")
    data = b"x" * 3_000_000
    path = await foreign.create(len(data))
    assert (await foreign.patch(path, 0, data, Upload_Checksum=sha1(data))).offset == len(data)
    path = await foreign.create(5)
    body = chunked(b"hello", b"!")
    reply = await foreign.patch(path, 0, body, Transfer_Encoding="chunked")
    assert_refused(reply, 413)
    assert (await foreign.get(path)).body == b"hello"


async def test_without_our_connections_a_trailer_is_refused_before_its_body(
    foreign: Site,
) -> None:
    path = await foreign.create(5)
    connection = await foreign.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    await connection.send(head("PATCH", path, {**fields, "Trailer": "Upload-Checksum"}))
    assert_refused(await connection.reply(), 400)
    assert (await foreign.head(path)).offset == 0


async def test_without_our_connections_a_refusal_comes_instead_of_the_100(
    foreign: Site,
) -> None:
    path = await foreign.create(500)
    connection = await foreign.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "7", "Content-Length": "300"}
    await connection.send(head("PATCH", path, {**fields, "Expect": "100-continue"}))
    reply = await connection.reply()
    assert reply.interim == ()
    assert_refused(reply, 409)
    with suppress(ConnectionError):
        await connection.send(head("DELETE", path, TUS))
    await connection.close()
    assert (await foreign.head(path)).offset == 0
