"""How many bodies are received at once, and how long one may be; black box."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aiotus_server import HookEvent, Hooks, Options

from .client import OCTETS, TUS, Connection, Reply, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from .conftest import Serve

MIB = 1024 * 1024
LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


# max_bodies


async def begun(site: Site, path: str, *, length: int = MIB) -> Connection:
    """A PATCH of which some bytes have been received."""
    connection = await site.begin(path, 0, b"x" * 8192, length=length)
    await site.until_stored(path, 8192)
    return connection


async def expecting(site: Site, path: str, length: int = 8) -> Reply:
    """A PATCH that waits to be asked for its content."""
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(length)}
    connection = await site.connect()
    await connection.send_head("PATCH", path, {**fields, "Expect": "100-continue"})
    return await connection.reply()


async def test_one_body_too_many_is_refused_unread(serve: Serve) -> None:
    site = await serve(options=Options(max_bodies=2))
    paths = [await site.create(MIB) for _ in range(3)]
    running = [await begun(site, path) for path in paths[:2]]
    reply = await expecting(site, paths[2])
    assert_refused(reply, 503, "TOO_MANY_BODIES")
    assert int(reply.headers["Retry-After"]) > 0
    assert not reply.interim
    created = await site.request("POST", headers={**OCTETS, "Upload-Length": "9"}, body=b"x")
    assert_refused(created, 503, "TOO_MANY_BODIES")
    # Nobody was disturbed, and what ends makes room.
    await running[0].send(b"y" * (MIB - 8192))
    assert (await running[0].reply()).offset == MIB
    assert (await site.patch(paths[2], 0, b"z" * 8)).status == 204
    assert (await site.head(paths[1])).status == 200


async def test_requests_without_a_body_are_not_counted(serve: Serve) -> None:
    site = await serve(options=Options(max_bodies=1))
    path, other = await site.create(MIB), await site.create(9)
    running = await begun(site, path)
    assert (await site.patch(other, 0, b"")).status == 204
    assert (await site.head(other)).offset == 0
    assert (await site.delete(other)).status == 204
    assert (await site.create(0)).startswith("/files/")
    await running.send(b"y" * (MIB - 8192))
    assert (await running.reply()).status == 204


@LOOPS
async def test_a_client_that_returns_needs_no_slot_but_its_own(serve: Serve) -> None:
    """The connection that it had holds the last one, and is not known to be dead."""
    site = await serve(options=Options(max_bodies=1))
    path = await site.create(MIB)
    dead = await begun(site, path)
    fields = {**TUS, **OCTETS, "Upload-Offset": "8192", "Content-Length": str(MIB - 8192)}
    connection = await site.connect()
    await connection.send(head("PATCH", path, fields) + b"y" * (MIB - 8192))
    assert (await connection.reply()).offset == MIB
    assert_refused(await dead.reply(), 423, "UPLOAD_DISPLACED")


@LOOPS
async def test_whatever_becomes_of_a_body_its_slot_is_free_again(serve: Serve) -> None:
    hooks = Hooks()
    site = await serve(options=Options(max_bodies=1), hooks=hooks)

    @hooks.pre_create
    def break_down(event: object) -> None:
        raise RuntimeError("an error of the application")

    with_body = {**OCTETS, "Upload-Length": "9"}
    assert (await site.request("POST", headers=with_body, body=b"x")).status == 500
    hooks.pre_create.clear()
    path = await site.create(MIB)
    assert (await site.patch(path, 7, b"x")).status == 409
    assert (await site.patch("/files/unknown", 0, b"x")).status == 404
    assert (await site.patch(path, 0, b"x", Upload_Checksum=sha1(b"y"))).status == 460
    (await begun(site, path)).reset()
    async with asyncio.timeout(5):
        while (await site.head(path)).offset != 8192:
            await asyncio.sleep(0.01)
    assert (await site.patch(path, 8192, b"x" * 8)).status == 204
    assert (await site.request("POST", headers=with_body, body=b"x")).status == 201
    assert not site.routes.server.sources


async def test_many_small_bodies_pass_one_after_the_other(serve: Serve) -> None:
    site = await serve(options=Options(max_bodies=3))
    with_body = {**OCTETS, "Upload-Length": "8"}
    statuses = {(await site.request("POST", headers=with_body, body=b"x" * 8)).status}
    replies = await asyncio.gather(
        *(site.request("POST", headers=with_body, body=b"x" * 8) for _ in range(40))
    )
    statuses |= {reply.status for reply in replies}
    assert statuses <= {201, 503}
    assert (await site.request("POST", headers=with_body, body=b"x" * 8)).status == 201


async def test_those_who_wait_for_one_upload_take_one_slot(serve: Serve) -> None:
    """Of an upload one body is received, however many clients want to send one."""
    hooks, busy, go_on = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def hold(event: HookEvent) -> None:
        if event.upload.length == MIB and not busy.is_set():
            busy.set()
            await go_on.wait()

    site = await serve(options=Options(max_bodies=2), hooks=hooks)
    path, other, third = await site.create(MIB), await site.create(8), await site.create(8)
    asked = [asyncio.ensure_future(site.patch(path, 0, b"x" * 8)) for _ in range(4)]
    await busy.wait()
    await asyncio.sleep(0.1)
    assert (await site.patch(other, 0, b"x" * 8)).status == 204
    go_on.set()
    assert 204 in {(await reply).status for reply in asked}
    assert (await site.patch(third, 0, b"x" * 8)).status == 204


async def test_hooks_do_not_hear_of_a_body_that_is_refused(serve: Serve) -> None:
    hooks, heard = Hooks(), list[int | None]()
    hooks.pre_create.append(lambda event: heard.append(event.upload.length))
    hooks.pre_receive.append(lambda event: heard.append(event.upload.length))
    site = await serve(options=Options(max_bodies=1), hooks=hooks)
    running = await begun(site, await site.create(MIB))
    other = await site.create(9)
    heard.clear()
    with_body = {**OCTETS, "Upload-Length": "9"}
    assert_refused(await site.request("POST", headers=with_body, body=b"x"), 503)
    assert_refused(await site.patch(other, 0, b"x"), 503)
    assert heard == []
    await running.close()


# max_request_size


@pytest.fixture
async def small_requests(serve: Serve) -> Site:
    return await serve(options=Options(max_request_size=1000))


@pytest.mark.parametrize("length", [5000, None])
async def test_a_request_in_chunks_ends_at_the_limit_and_is_kept(
    small_requests: Site, length: int | None
) -> None:
    deferred = {} if length else {"Upload_Defer_Length": "1"}
    path = await small_requests.create(length, **deferred)
    connection = await small_requests.begin(
        path, 0, chunked(b"a" * 900, b"b" * 900)[:-5], length=None
    )
    assert_refused(await connection.reply(), 413, "REQUEST_TOO_LONG")
    assert (await small_requests.head(path)).offset == 1000
    assert small_requests.stored(path) == b"a" * 900 + b"b" * 100


async def test_a_request_in_chunks_may_have_just_as_much(small_requests: Site) -> None:
    path = await small_requests.create(5000)
    connection = await small_requests.begin(path, 0, chunked(b"a" * 900, b"b" * 100), length=None)
    assert (await connection.reply()).offset == 1000


async def test_behind_the_end_of_the_upload_it_is_that_which_is_wrong(small_requests: Site) -> None:
    path = await small_requests.create(500)
    connection = await small_requests.begin(path, 0, chunked(b"a" * 1800), length=None)
    assert_refused(await connection.reply(), 413, "BODY_TOO_LONG")
    assert (await small_requests.get(path)).body == b"a" * 500


async def test_an_upload_may_be_larger_than_a_request(small_requests: Site) -> None:
    path = await small_requests.create(2500)
    for offset, size in ((0, 1000), (1000, 1000), (2000, 500)):
        assert (await small_requests.patch(path, offset, b"x" * size)).status == 204
    assert (await small_requests.get(path)).body == b"x" * 2500
    discovered = await small_requests.request("OPTIONS")
    assert "Tus-Max-Size" not in discovered.headers
