"""Expect: 100-continue, refused bodies, and what becomes of a connection after one.

A refusal comes instead of the 100; the bytes of a refused body are never taken for a request.
"""

from __future__ import annotations

import asyncio
import http.client
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from aiotus_server import AuthorizeEvent, CreateEvent, HookEvent, Hooks, Options, Refuse

from .client import (
    OCTETS,
    TUS,
    Connection,
    DataPath,
    Reply,
    Site,
    assert_refused,
    chunked,
    head,
    sha1,
)

if TYPE_CHECKING:
    from .conftest import Serve

EXPECT = {"Expect": "100-continue"}

# What is wrong with a PATCH at offset 0 of an upload of 10 MB, and how it is refused.
REFUSALS = [
    ({"Tus-Resumable": "0.2.2"}, 412),
    ({"X-HTTP-Method-Override": "PUT"}, 400),
    ({"X-HTTP-Method-Override": "POST"}, 405),
    ({"X-Refuse": "authorize"}, 401),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Encoding": "gzip"}, 415),
    ({"Upload-Offset": "x"}, 400),
    ({"Upload-Offset": "7"}, 409),
    ({"Upload-Length": "7"}, 400),
    ({"Upload-Checksum": "sha1"}, 400),
    ({"X-Refuse": "pre_receive"}, 403),
]
LENGTH = 10_000_000


@pytest.fixture
def hooks() -> Hooks:
    """They refuse whom X-Refuse tells them to."""
    hooks = Hooks()

    @hooks.authorize
    def authorize(event: AuthorizeEvent) -> None:
        if event.request.headers.get("X-Refuse") == "authorize":
            raise Refuse(401, "WHO: Who are you?\n")

    @hooks.pre_create
    def pre_create(event: CreateEvent) -> None:
        if event.request.headers.get("X-Refuse") == "pre_create":
            raise Refuse(403, "NO: Not here.\n")

    @hooks.pre_receive
    async def pre_receive(event: HookEvent) -> None:
        if event.request.headers.get("X-Refuse") == "pre_receive":
            raise Refuse(403, "NO: Not now.\n")

    return hooks


@pytest.fixture
async def judging(serve: Serve, hooks: Hooks) -> Site:
    return await serve(hooks=hooks, options=Options(max_size=LENGTH))


def patch_head(path: str, size: int | None, **headers: str) -> bytes:
    """The head of a PATCH at offset 0 with ``size`` bytes to come, None for chunks."""
    coding = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", **coding}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return head("PATCH", path, fields)


async def interim(connection: Connection) -> None:
    """Wait for the 100."""
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


async def left_alone(connection: Connection) -> bool:
    """Whether the server closes without having said anything more."""
    async with asyncio.timeout(8):
        return await connection.closed()


# All is well


@pytest.mark.data_paths(*DataPath)
@pytest.mark.parametrize("size", [5, 300_000, 3_000_000])
@pytest.mark.parametrize("chunks", [True, False])
@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_a_patch_is_told_to_go_on(site: Site, size: int, chunks: bool, expect: str) -> None:
    data = b"x" * size
    path = await site.create(size)
    connection = await site.connect()
    await connection.send(patch_head(path, None if chunks else size, Expect=expect))
    await interim(connection)
    await connection.send(chunked(data) if chunks else data)
    reply = await connection.reply()
    assert (reply.status, reply.offset, reply.interim) == (204, size, ())
    await connection.send(head("GET", path))  # and the connection goes on
    assert (await connection.reply()).body == data


@pytest.mark.parametrize("size", [5, 300_000])
async def test_a_creation_is_told_to_go_on(site: Site, size: int) -> None:
    data = b"x" * size
    fields = {**TUS, **OCTETS, **EXPECT, "Upload-Length": str(size), "Content-Length": str(size)}
    connection = await site.connect()
    await connection.send_head("POST", "/files", fields)
    await interim(connection)
    await connection.send(data)
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (201, size)
    await connection.send(head("GET", reply.path))
    assert (await connection.reply()).body == data


async def test_a_checksummed_patch_is_told_to_go_on(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(patch_head(path, 5, **EXPECT, Upload_Checksum=sha1(b"hello")))
    await interim(connection)
    await connection.send(b"hello")
    assert (await connection.reply()).offset == 5


async def test_a_client_need_not_wait(site: Site) -> None:
    path = await site.create(10)
    connection = await site.connect()
    second = {**TUS, **OCTETS, "Upload-Offset": "5", "Content-Length": "5"}
    await connection.send(
        patch_head(path, 5, **EXPECT) + b"hello" + head("PATCH", path, second) + b"world"
    )
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (204, 5)
    assert set(reply.interim) <= {100}
    assert (await connection.reply()).offset == 10


async def test_without_the_expectation_nobody_is_told(site: Site) -> None:
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.interim) == (204, ())


async def test_an_old_client_is_not_told_what_it_cannot_know(site: Site) -> None:
    """ "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore
    that expectation." """
    path = await site.create(5)
    request = patch_head(path, 5, **EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello"
    reply = await site.raw(request)
    assert (reply.status, reply.offset, reply.interim) == (204, 5, ())


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "OPTIONS", "POST", "PATCH"])
async def test_an_expectation_without_a_body_does_no_harm(site: Site, method: str) -> None:
    path = await site.upload(b"hello")
    fields = {**TUS, **EXPECT}
    if method == "POST":
        fields.update({"Upload-Length": "5", "Content-Length": "0"})
    if method == "PATCH":
        fields.update({**OCTETS, "Upload-Offset": "5", "Content-Length": "0"})
    target = "/files" if method == "POST" else path
    connection = await site.connect()
    await connection.send(head(method, target, fields) + head("OPTIONS", "/files"))
    reply = await connection.reply(method=method)
    assert reply.status == {"HEAD": 200, "GET": 200, "POST": 201}.get(method, 204)
    assert (await connection.reply()).headers["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize("sent", [0, 3])
async def test_a_client_that_is_told_and_goes_leaves_what_it_sent(serve: Serve, sent: int) -> None:
    hooks = Hooks()
    interrupted = asyncio.Event()
    hooks.on_interrupted.append(lambda event: interrupted.set())
    site = await serve(hooks=hooks)
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(patch_head(path, 5, **EXPECT))
    await interim(connection)
    await connection.send(b"hello"[:sent])
    await connection.close()
    async with asyncio.timeout(5):
        await interrupted.wait()
    assert (await site.head(path)).offset == sent


# A refusal comes instead


@pytest.mark.parametrize(("wrong", "status"), REFUSALS)
@pytest.mark.parametrize("chunks", [True, False])
async def test_a_refusal_comes_instead_of_the_100(
    judging: Site, wrong: dict[str, str], status: int, chunks: bool
) -> None:
    path = await judging.create(LENGTH)
    connection = await judging.connect()
    await connection.send(patch_head(path, None if chunks else 5, **{**EXPECT, **wrong}))
    reply = await connection.reply()
    assert (reply.status, reply.interim) == (status, ())
    assert_refused(reply, status)
    # The client may send the body or not, so nobody can tell what comes next.
    smuggled = head("DELETE", path, TUS)
    with suppress(ConnectionError):
        await connection.send(smuggled)
    assert await left_alone(connection)
    assert (await judging.head(path)).offset == 0


@pytest.mark.parametrize(
    ("path", "status"), [("/files/unknown", 404), ("/files/%2e", 404), ("/files", 405)]
)
async def test_a_body_for_nothing_is_refused_before_it_comes(
    site: Site, path: str, status: int
) -> None:
    connection = await site.connect()
    await connection.send(patch_head(path, 5, **EXPECT))
    reply = await connection.reply()
    assert reply.interim == ()
    assert_refused(reply, status)
    assert await left_alone(connection)


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Upload-Length": "x"}, 400),
        ({"Upload-Length": "4"}, 413),
        ({"Upload-Length": str(LENGTH + 1)}, 413),
        ({"Upload-Metadata": ","}, 400),
        ({"Content-Type": "text/plain"}, 415),
        ({"X-Refuse": "authorize"}, 401),
        ({"X-Refuse": "pre_create"}, 403),
        ({"X-Refuse": "pre_receive"}, 403),
    ],
)
async def test_a_creation_is_refused_before_its_body_comes(
    judging: Site, wrong: dict[str, str], status: int
) -> None:
    fields = {**TUS, **OCTETS, **EXPECT, "Upload-Length": "5", "Content-Length": "5", **wrong}
    connection = await judging.connect()
    await connection.send_head("POST", "/files", fields)
    reply = await connection.reply()
    assert reply.interim == ()
    assert_refused(reply, status)
    assert "Location" not in reply.headers
    assert await left_alone(connection)


async def test_a_body_too_long_is_refused_before_it_comes(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(patch_head(path, 6, **EXPECT))
    reply = await connection.reply()
    assert reply.interim == ()
    assert_refused(reply, 413)
    assert await left_alone(connection)


@pytest.mark.parametrize("expectation", ["200-ok", "the unexpected", "100-continue, x", "100"])
async def test_what_else_is_expected_is_refused(site: Site, expectation: str) -> None:
    path = await site.create(500)
    smuggled = head("DELETE", path, TUS)
    connection = await site.connect()
    await connection.send(patch_head(path, len(smuggled), Expect=expectation))
    reply = await connection.reply()
    assert reply.interim == ()
    assert_refused(reply, 417)
    with suppress(ConnectionError):
        await connection.send(smuggled)
        await connection.send(head("HEAD", path, TUS))
        with suppress(asyncio.IncompleteReadError):
            assert (await connection.reply(method="HEAD")).status == 200
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("path", ["/files", "/elsewhere", "http://elsewhere/"])
async def test_an_expectation_that_is_no_text_is_refused(site: Site, path: str) -> None:
    """aiohttp itself answers 500 where a path is not ours."""
    data = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: ".encode() + b"\xff\r\n\r\n"
    assert (await site.raw(data)).status == 400


@pytest.mark.parametrize("length", [5, LENGTH, None])
async def test_a_client_that_goes_before_the_100_is_no_error_of_the_store(
    serve: Serve, length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, waiting, gone = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def pre_receive(event: HookEvent) -> None:
        waiting.set()
        await gone.wait()

    site = await serve(hooks=hooks)
    path = await site.create(LENGTH)
    connection = await site.connect()
    await connection.send(patch_head(path, length, **EXPECT))
    await waiting.wait()
    connection.reset()
    await asyncio.sleep(0.05)
    gone.set()
    await asyncio.sleep(0.05)  # undisturbed: who asks for the lock ends the body in another way
    assert (await site.head(path)).offset == 0
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


# Bodies that come although they are refused


@pytest.mark.parametrize(("wrong", "status"), REFUSALS)
@pytest.mark.parametrize("chunks", [True, False])
@pytest.mark.parametrize("later", [True, False])
async def test_a_connection_goes_on_after_a_small_refused_body(
    judging: Site, wrong: dict[str, str], status: int, chunks: bool, later: bool
) -> None:
    path = await judging.create(LENGTH)
    smuggled = head("DELETE", path, TUS)
    body = chunked(smuggled) if chunks else smuggled
    begin = patch_head(path, None if chunks else len(smuggled), **wrong)
    follow = head("HEAD", path, TUS)
    connection = await judging.connect()
    if later:
        await connection.send(begin)
        assert_refused(await connection.reply(), status)
        with suppress(ConnectionError):
            await connection.send(body + follow)
    else:
        await connection.send(begin + body + follow)
        assert_refused(await connection.reply(), status)
    try:
        reply = await connection.reply(method="HEAD")
    except (asyncio.IncompleteReadError, ConnectionError):
        # How many chunks there are to come nobody knows, and the parser trips over bad gzip.
        assert chunks or "Content-Encoding" in wrong
    else:
        assert (reply.status, reply.offset) == (200, 0)
    assert (await judging.head(path)).offset == 0


@pytest.mark.parametrize("size", [1, 70_000, 600_000])
async def test_a_connection_goes_on_after_a_body_for_an_unknown_upload(
    site: Site, size: int
) -> None:
    connection = await site.connect()
    for _ in range(3):
        await connection.send(patch_head("/files/unknown", size) + b"x" * size)
        assert_refused(await connection.reply(), 404)
    await connection.send(head("OPTIONS", "/files"))
    assert (await connection.reply()).status == 204


async def test_a_connection_goes_on_after_a_checksum_mismatch(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(patch_head(path, 5, Upload_Checksum=sha1(b"other")) + b"hello")
    assert_refused(await connection.reply(), 460)
    await connection.send(patch_head(path, 5, Upload_Checksum=sha1(b"hello")) + b"hello")
    assert (await connection.reply()).offset == 5


async def test_what_is_behind_the_end_of_an_upload_is_no_request(site: Site) -> None:
    path, other = await site.create(5), await site.create(5)
    connection = await site.connect()
    body = chunked(b"hello", head("DELETE", other, TUS))
    await connection.send(patch_head(path, None) + body + head("HEAD", path, TUS))
    assert_refused(await connection.reply(), 413)
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        assert (await connection.reply(method="HEAD")).offset == 5
    assert (await site.head(other)).status == 200


BIG = 24 * 1024 * 1024


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({}, 413),
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({"Content-Type": "text/plain"}, 415),
        ({"Upload-Offset": "7"}, 409),
        ({"X-Refuse": "authorize"}, 401),
        ({"X-HTTP-Method-Override": "POST"}, 405),
    ],
)
async def test_the_sender_of_a_big_refused_body_gets_the_answer(
    judging: Site, wrong: dict[str, str], status: int
) -> None:
    path = await judging.create(LENGTH)
    connection = await judging.connect()
    piece = b"DELETE " * 20_000
    await connection.send(patch_head(path, BIG, **wrong))
    with suppress(ConnectionError):
        for _ in range(BIG // len(piece)):  # all of it before the answer is read
            await connection.send(piece)
    assert_refused(await connection.reply(), status)
    assert (await judging.head(path)).offset == 0


@pytest.mark.parametrize("chunks", [True, False])
async def test_a_blocking_client_gets_the_answer_to_a_big_refused_body(
    site: Site, chunks: bool
) -> None:
    def ask() -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
        try:
            fields = {**TUS, **OCTETS, "Upload-Offset": "0"}
            pieces = (bytes(100_000) for _ in range(BIG // 100_000))
            body = pieces if chunks else bytes(BIG)
            client.request("PATCH", "/files/unknown", body, fields, encode_chunked=chunks)
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    for _ in range(3):
        status, text = await asyncio.to_thread(ask)
        assert (status, text[:17]) == (404, b"UPLOAD_NOT_FOUND:")


async def test_a_refused_body_that_never_comes_is_not_waited_for(site: Site) -> None:
    connection = await site.connect()
    await connection.send(patch_head("/files/unknown", BIG))
    reply: Reply = await connection.reply()
    assert_refused(reply, 404)
    assert reply.headers.get("Connection", "").lower() == "close"
    assert await left_alone(connection)
