"""Termination, black box: DELETE frees everything, at once, whoever is at work."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import Hooks, MemoryStore, Options
from aiotus_server.options import EXTENSIONS

from .client import OCTETS, TUS, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Serve


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


def files_of(site: Site, path: str) -> list[Path]:
    """Everything in the disk store that has to do with this upload."""
    upload_id = path.rpartition("/")[2]
    return [file for file in site.store.root.rglob("*") if upload_id in str(file)]


async def assert_gone(site: Site, path: str) -> None:
    for method in ("HEAD", "PATCH", "DELETE"):
        fields = {**OCTETS, "Upload-Offset": "0"} if method == "PATCH" else {}
        reply = await site.request(method, path, fields)
        assert reply.status in (404, 410)
        assert_refused(reply, reply.status, method=method)
    assert (await site.get(path)).status in (404, 410)


async def test_unfinished_upload(any_site: Site) -> None:
    path = await any_site.create(10)
    await any_site.patch(path, 0, b"hello")
    reply = await any_site.delete(path)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert "Upload-Offset" not in reply.headers
    await assert_gone(any_site, path)


async def test_complete_upload(any_site: Site) -> None:
    path = await any_site.upload(b"hello")
    assert (await any_site.delete(path)).status == 204
    await assert_gone(any_site, path)


async def test_upload_without_a_byte(any_site: Site) -> None:
    for length in (0, 5):
        path = await any_site.create(length)
        assert (await any_site.delete(path)).status == 204
        await assert_gone(any_site, path)


async def test_other_uploads_stay(any_site: Site) -> None:
    paths = [await any_site.upload(b"hello") for _ in range(3)]
    assert (await any_site.delete(paths[1])).status == 204
    assert (await any_site.get(paths[0])).body == (await any_site.get(paths[2])).body == b"hello"


async def test_nothing_of_it_is_left_on_disk(site: Site) -> None:
    part = await site.create(5, Upload_Concat="partial")
    paths = [
        await site.create(10, Upload_Metadata="a YQ=="),
        await site.upload(b"hello"),
        await site.create(Upload_Concat=f"final;{part}"),
        await site.create(10),
    ]
    await site.patch(paths[3], 0, b"wrong", Upload_Checksum=sha1(b"hello"))
    for path in paths:
        assert files_of(site, path)
        assert (await site.delete(path)).status == 204
        assert files_of(site, path) == []
    assert (await site.delete(part)).status == 204
    assert files_of(site, part) == []


@pytest.mark.parametrize("name", ["unknown", "a" * 65, "a.info", "..%2fx", "%00", "a/b"])
async def test_what_is_no_upload_is_not_found(site: Site, name: str) -> None:
    assert_refused(await site.delete(f"/files/{name}"), 404)


async def test_sidecar_cannot_be_deleted(site: Site) -> None:
    path = await site.upload(b"hello")
    assert_refused(await site.delete(f"{path}.info"), 404)
    assert (await site.get(path)).body == b"hello"


async def test_version_is_checked_first(site: Site) -> None:
    path = await site.upload(b"hello")
    assert_refused(await site.request("DELETE", path, tus=False), 412)
    assert_refused(await site.request("DELETE", path, {"Tus-Resumable": "0.2.2"}), 412)
    assert (await site.get(path)).body == b"hello"


async def test_collection_cannot_be_deleted(site: Site) -> None:
    reply = await site.request("DELETE", "/files")
    assert_refused(reply, 405)
    assert "DELETE" not in reply.headers["Allow"]


async def test_method_override(site: Site) -> None:
    path = await site.upload(b"hello")
    reply = await site.request("POST", path, {"X-HTTP-Method-Override": "DELETE"})
    assert reply.status == 204
    await assert_gone(site, path)


async def test_body_of_a_delete_is_no_request(site: Site) -> None:
    path, other = await site.upload(b"hello"), await site.upload(b"hello")
    inner = head("DELETE", other, TUS)
    connection = await site.connect()
    fields = {**TUS, "Content-Length": str(len(inner))}
    await connection.send(head("DELETE", path, fields) + inner)
    assert (await connection.reply()).status == 204
    assert (await site.get(other)).body == b"hello"


async def test_switched_off_is_not_offered_and_not_allowed(serve: Serve) -> None:
    site = await serve(options=Options(extensions=EXTENSIONS - {"termination"}))
    assert "termination" not in (await site.request("OPTIONS")).headers["Tus-Extension"]
    path = await site.upload(b"hello")
    reply = await site.delete(path)
    assert_refused(reply, 405)
    assert "DELETE" not in reply.headers["Allow"]
    assert (await site.get(path)).body == b"hello"


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_complete_uploads_are_kept_when_the_option_says_so(serve: Serve, kind: str) -> None:
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, options=Options(terminate_complete=False))
    complete, unfinished = await site.upload(b"hello"), await site.create(5)
    part = await site.upload(b"hello", Upload_Concat="partial")
    final = await site.create(Upload_Concat=f"final;{part}")
    for path in (complete, final):
        assert_refused(await site.delete(path), 403)
        assert (await site.get(path)).body == b"hello"
    assert (await site.delete(unfinished)).status == 204
    await assert_gone(site, unfinished)


# While others are at work


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_running_patch_is_ended(any_site: Site, coding: str, size: int) -> None:
    site = any_site
    path = await site.create(size)
    part = b"x" * (size - 1)
    if coding == "counted":
        connection = await site.begin(path, 0, part, length=size)
    else:
        connection = await site.begin(path, 0, chunked(part)[:-5], length=None)
    for _ in range(3):  # the patch may be anywhere by now
        await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        assert (await site.delete(path)).status == 204
    assert_refused(await connection.reply(), 410)
    await assert_gone(site, path)


async def test_patch_is_ended_at_any_moment(any_site: Site) -> None:
    """Also before its first byte, and when its last has come."""
    site = any_site
    for delay in (0, 0, 0.001, 0.003, 0.01, 0.1, 0.12):
        for sent in (b"", b"hell", b"hello"):
            path = await site.create(5)
            connection = await site.begin(path, 0, sent, length=5)
            await asyncio.sleep(delay)
            async with asyncio.timeout(1):
                assert (await site.delete(path)).status == 204
                reply = await connection.reply()
            # It came in time, or it did not, or it found nothing.
            assert reply.status in ((204, 404, 410) if sent == b"hello" else (404, 410))
            await assert_gone(site, path)


async def test_nothing_is_left_on_disk_of_a_patch_that_was_ended(site: Site) -> None:
    path = await site.create(1_000_000)
    connection = await site.begin(path, 0, b"x" * 500_000, length=1_000_000)
    await site.until_stored(path, 500_000)
    assert (await site.delete(path)).status == 204
    await connection.reply()
    assert files_of(site, path) == []


async def test_many_deletes_at_a_time(any_site: Site) -> None:
    path = await any_site.upload(b"hello")
    replies = await asyncio.gather(*(any_site.delete(path) for _ in range(8)))
    statuses = sorted(reply.status for reply in replies)
    assert statuses[0] == 204
    assert all(status in (404, 410) for status in statuses[1:])


async def test_delete_of_a_creation_under_way(serve: Serve) -> None:
    site = await serve(options=Options(new_id=lambda: "known"))
    fields = {**TUS, **OCTETS, "Upload-Length": "200000", "Content-Length": "200000"}
    connection = await site.connect()
    await connection.send(head("POST", "/files", fields) + b"x" * 100_000)
    await site.until_stored("/files/known", 100_000)
    async with asyncio.timeout(1):
        assert (await site.delete("/files/known")).status == 204
    assert_refused(await connection.reply(), 410)
    await assert_gone(site, "/files/known")


async def test_locked_upload_is_423_in_time(serve: Serve) -> None:
    """Its holder does not let go, since a hook of the application is at work."""
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def wait(event: Any) -> None:
        reached.set()
        await go_on.wait()

    site = await serve(hooks=hooks, options=Options(lock_timeout=timedelta(seconds=0.2)))
    path = await site.create(5)
    patch = asyncio.create_task(site.patch(path, 0, b"hello"))
    await reached.wait()
    reply = await site.delete(path)
    assert_refused(reply, 423)
    assert int(reply.headers["Retry-After"]) >= 0
    go_on.set()
    assert (await patch).status in (204, 410)  # what had come when it was asked to let go stays
    assert (await site.delete(path)).status == 204
