"""Concatenation, black box: partial uploads, finals made of them at once, and finals that wait."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import (
    DiskStore,
    Expiry,
    Hooks,
    MemoryStore,
    Options,
    Refuse,
    sweep,
    tus_routes,
)
from aiotus_server.concatenation import ASKED_AT_ONCE
from aiotus_server.options import EXTENSIONS

from .client import (
    OCTETS,
    TUS,
    DataPath,
    Site,
    assert_refused,
    chunked,
    head,
    running,
    serving,
    sha1,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from aiotus_server import Upload

    from .conftest import Serve

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)
# Where it may matter how the partials were filled.
BOTH_PATHS = pytest.mark.data_paths(DataPath.FAST, DataPath.PORTABLE)


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


async def partials(site: Site, *pieces: bytes) -> list[str]:
    """Complete partial uploads."""
    return [await site.upload(piece, Upload_Concat="partial") for piece in pieces]


async def begun(site: Site, *lengths: int) -> list[str]:
    """Partial uploads without a byte."""
    return [await site.create(length, Upload_Concat="partial") for length in lengths]


def final(*urls: str) -> dict[str, str]:
    return {"Upload-Concat": f"final;{' '.join(urls)}"}


async def create_final(site: Site, *urls: str) -> str:
    reply = await site.request("POST", headers=final(*urls))
    assert reply.status == 201, reply
    return reply.path


async def assert_joined(site: Site, path: str, data: bytes) -> None:
    """The final is complete, and has ``data``."""
    reply = await site.head(path)
    assert reply.status == 200
    assert reply.headers["Upload-Offset"] == reply.headers["Upload-Length"] == str(len(data))
    reply = await site.get(path)
    assert (reply.status, reply.body) == (200, data)


async def assert_waiting(site: Site, path: str, length: int | None) -> None:
    reply = await site.head(path)
    assert reply.status == 200
    assert "Upload-Offset" not in reply.headers
    assert reply.headers.get("Upload-Length") == (None if length is None else str(length))
    assert (await site.get(path)).status == 404


def uploads_in(site: Site) -> int:
    """How many uploads the disk store has."""
    return len(list(site.store.root.glob("??/*.info")))


async def test_final_is_its_partials_in_order(any_site: Site) -> None:
    a, b, c = await partials(any_site, b"hello", b" ", b"world")
    await assert_joined(any_site, await create_final(any_site, a, b, c), b"hello world")
    await assert_joined(any_site, await create_final(any_site, c, b, a), b"world hello")


@BOTH_PATHS
async def test_large_partials(site: Site) -> None:
    pieces = [random.Random(size).randbytes(size) for size in (1, 70_001, 1_000_000, 4096, 0)]
    paths = await partials(site, *pieces)
    await assert_joined(site, await create_final(site, *paths), b"".join(pieces))


async def test_final_of_one_and_of_empty_ones(any_site: Site) -> None:
    (one,) = await partials(any_site, b"hello")
    nothing = await any_site.create(0, Upload_Concat="partial")
    await assert_joined(any_site, await create_final(any_site, one), b"hello")
    await assert_joined(any_site, await create_final(any_site, nothing), b"")
    await assert_joined(any_site, await create_final(any_site, nothing, one, nothing), b"hello")


async def test_partial_may_come_twice_and_in_several_finals(any_site: Site) -> None:
    a, b = await partials(any_site, b"ab", b"cd")
    for urls, data in (([a, a], b"abab"), ([a, b, a], b"abcdab"), ([b] * 5, b"cd" * 5)):
        await assert_joined(any_site, await create_final(any_site, *urls), data)
    assert (await any_site.head(a)).offset == 2
    assert (await any_site.get(b)).body == b"cd"


async def test_two_hundred_urls(any_site: Site) -> None:
    paths = await partials(any_site, b"0", b"1")
    names = [path.rpartition("/")[2] for path in paths]
    path = await create_final(any_site, *(names * 100))
    await assert_joined(any_site, path, b"01" * 100)


async def test_more_partials_than_are_looked_up_together(any_site: Site) -> None:
    pieces = [b"%d," % number for number in range(2 * ASKED_AT_ONCE + 7)]
    random.Random(1).shuffle(pieces)
    names = [path.rpartition("/")[2] for path in await partials(any_site, *pieces)]
    path = await create_final(any_site, *names, names[0])
    await assert_joined(any_site, path, b"".join(pieces) + pieces[0])
    gone = names[ASKED_AT_ONCE + 5]
    assert (await any_site.request("DELETE", f"{any_site.prefix}/{gone}")).status == 204
    reply = await any_site.request("POST", headers=final(*names))
    assert_refused(reply, 400, "PARTIAL_UNKNOWN")


# What HEAD tells


async def test_head_has_upload_concat_exactly_as_received(any_site: Site) -> None:
    a, b = await partials(any_site, b"hello", b" world")
    value = f"final;http://elsewhere.example:99{a} ..{b}"
    reply = await any_site.request("POST", headers={"Upload-Concat": value})
    assert reply.status == 201
    assert (await any_site.head(reply.path)).headers["Upload-Concat"] == value
    reply = await any_site.head(a)
    assert (reply.offset, reply.headers["Upload-Concat"]) == (5, "partial")


async def test_head_of_an_unfinished_partial_has_its_offset(any_site: Site) -> None:
    (path,) = await begun(any_site, 5)
    await any_site.patch(path, 0, b"he")
    reply = await any_site.head(path)
    assert (reply.offset, reply.headers["Upload-Length"]) == (2, "5")


async def test_head_of_a_plain_upload_has_no_upload_concat(any_site: Site) -> None:
    assert "Upload-Concat" not in (await any_site.head(await any_site.create(5))).headers


async def test_metadata_is_not_inherited(any_site: Site) -> None:
    part = await any_site.upload(b"hello", Upload_Concat="partial", Upload_Metadata="part YQ==")
    plain = await create_final(any_site, part)
    assert "Upload-Metadata" not in (await any_site.head(plain)).headers
    own = "filename aGVsbG8udHh0,is_final"
    reply = await any_site.request("POST", headers={**final(part), "Upload-Metadata": own})
    assert (await any_site.head(reply.path)).headers["Upload-Metadata"] == own
    assert "hello.txt" in (await any_site.get(reply.path)).headers["Content-Disposition"]


# The value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Partial",
        "PARTIAL",
        "partial;",
        "partial; ",
        "partial {a}",
        "partials",
        "final",
        "final;",
        "FINAL;{a}",
        "final ;{a}",
        "final; {a}",
        "final;{a}  {b}",
        "final;{a}\t{b}",
        "final,{a}",
        "final:{a}",
        "final{a}",
        "{a}",
        "true",
    ],
)
async def test_any_other_value_is_refused(site: Site, value: str) -> None:
    a, b = await partials(site, b"hello", b" world")
    value = value.format(a=a, b=b)
    before = uploads_in(site)
    for more in ({}, {"Upload-Length": "5"}):
        reply = await site.request("POST", headers={"Upload-Concat": value, **more})
        assert_refused(reply, 400)
    assert uploads_in(site) == before


async def test_repeated_header_is_refused(site: Site) -> None:
    fields = {**TUS, "Upload-Length": "5", "Content-Length": "0", "Upload-Concat": "partial"}
    twice = head("POST", "/files", fields)[:-2] + b"Upload-Concat: partial\r\n\r\n"
    assert_refused(await site.raw(twice), 400)
    assert uploads_in(site) == 0


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "/files/{id}",
        "{id}",
        "./{id}",
        "../files/{id}",
        "/files/./{id}",
        "/other/../files/{id}",
        "http://localhost/files/{id}",
        "https://tus.example.org:8443/files/{id}",
        "http://user@[::1]:80/files/{id}",
        "//elsewhere.example/files/{id}",
    ],
)
async def test_scheme_and_host_do_not_matter(site: Site, url: str) -> None:
    (part,) = await partials(site, b"hello")
    name = part.rpartition("/")[2]
    for collection in ("/files", "/files/"):
        reply = await site.request("POST", collection, final(url.format(id=name)))
        assert reply.status == 201
        await assert_joined(site, reply.path, b"hello")


async def test_locations_are_accepted_as_given(site: Site) -> None:
    reply = await site.request("POST", headers={"Upload-Length": "0", "Upload-Concat": "partial"})
    await assert_joined(site, await create_final(site, reply.headers["Location"]), b"")


@pytest.mark.parametrize(
    "url",
    [
        "/files/unknown",
        "/files/",
        "/files",
        "/",
        "/elsewhere/{id}",
        "/filesx/{id}",
        "/{id}",
        "/files/x/{id}",
        "/files/{id}/",
        "/files/{id}/x",
        "/files/{id}.info",
        "{id}.info",
        "/files/../{id}",
        "/files/../../etc/passwd",
        "/files/..%2f..%2fetc%2fpasswd",
        "/files/%2e%2e/%2e%2e/etc/passwd",
        "..%2f{shard}%2f{id}",
        "/files/..%2ffiles%2f..%2f..",
        "/files/{id}%00",
        "/files/{id}%0a",
        "/files/%7Bid%7D",
        "file:///etc/passwd",
        "http://[/files/{id}",
        "http://elsewhere.example/",
        "/files/" + "a" * 65,
        "/files/.",
        "/files/..",
    ],
)
async def test_what_is_no_partial_of_ours_is_refused(site: Site, url: str) -> None:
    (part,) = await partials(site, b"hello")
    name = part.rpartition("/")[2]
    shard = next(site.store.root.glob(f"??/{name}")).parent.name
    url = url.format(id=name, shard=shard)
    before = uploads_in(site)
    for urls in ([url], [part, url], [url, part]):
        assert_refused(await site.request("POST", headers=final(*urls)), 400)
    assert uploads_in(site) == before


async def test_only_partials_can_be_concatenated(any_site: Site) -> None:
    (part,) = await partials(any_site, b"hello")
    plain = await any_site.upload(b"hello")
    made = await create_final(any_site, part)
    gone = (await partials(any_site, b"gone"))[0]
    await any_site.delete(gone)
    for other in (plain, made, gone):
        assert_refused(await any_site.request("POST", headers=final(part, other)), 400)


async def test_partials_of_another_mount_are_not_ours(tmp_path: Path) -> None:
    app = web.Application()
    one, two = DiskStore(tmp_path / "one"), DiskStore(tmp_path / "two")
    app.add_routes(tus_routes(one, prefix="/one"))
    app.add_routes(tus_routes(two, prefix="/two"))
    async with running(app) as (runner, port):
        first, second = Site(port, one, "/one", runner), Site(port, two, "/two", runner)
        (part,) = await partials(first, b"hello")
        assert_refused(await second.request("POST", headers=final(part)), 400)
        await assert_joined(first, await create_final(first, part), b"hello")


async def test_prefix_of_a_sub_application_belongs_to_the_urls(tmp_path: Path) -> None:
    store, outer, inner = DiskStore(tmp_path), web.Application(), web.Application()
    inner.add_routes(tus_routes(store, prefix="/files"))
    outer.add_subapp("/api", inner)
    async with running(outer) as (runner, port):
        site = Site(port, store, "/api/files", runner)
        (part,) = await partials(site, b"hello")
        assert part.startswith("/api/files/")
        await assert_joined(site, await create_final(site, part), b"hello")
        name = part.rpartition("/")[2]
        assert_refused(await site.request("POST", headers=final(f"/files/{name}")), 400)


async def test_public_prefixes_are_an_option(serve: Serve) -> None:
    site = await serve(options=Options(public_prefixes=["/public/uploads/"]))
    (part,) = await partials(site, b"hello")
    name = part.rpartition("/")[2]
    url = f"https://example.org/public/uploads/{name}"
    await assert_joined(site, await create_final(site, url), b"hello")
    assert_refused(await site.request("POST", headers=final(f"/public/{name}")), 400)


# Creation and PATCH of finals


@pytest.mark.parametrize("field", [{"Upload-Length": "5"}, {"Upload-Defer-Length": "1"}])
async def test_final_takes_no_length(site: Site, field: dict[str, str]) -> None:
    (part,) = await partials(site, b"hello")
    assert_refused(await site.request("POST", headers={**final(part), **field}), 400)
    assert uploads_in(site) == 1


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_final_takes_no_body(site: Site, coding: str) -> None:
    (part,) = await partials(site, b"hello")
    fields, body = {**final(part), **OCTETS}, b"x"
    if coding == "chunked":
        fields["Transfer-Encoding"], body = "chunked", chunked(body)
    assert_refused(await site.request("POST", headers=fields, body=body), 403)
    assert uploads_in(site) == 1


PATCHES: list[tuple[dict[str, str], bytes]] = [
    ({}, b""),
    ({}, b"x"),
    ({"Upload-Offset": "0"}, b"x"),
    ({"Upload-Offset": "99"}, b"x"),
    ({"Upload-Offset": "-1"}, b"x"),
    ({"Upload-Offset": ""}, b""),
    ({"Upload-Length": "99"}, b"x"),
    ({"Upload-Length": "x"}, b""),
    ({"Content-Type": "text/plain"}, b"x"),
    ({"Content-Type": ""}, b""),
    ({"Content-Encoding": "gzip"}, b"x"),
    ({"Upload-Checksum": sha1(b"y")}, b"x"),
    ({"Upload-Checksum": sha1(b"")}, b""),
    ({"Upload-Checksum": "sha1 ?"}, b"x"),
    ({"Upload-Checksum": "none AAAA"}, b"x"),
    ({"Transfer-Encoding": "chunked"}, chunked(b"x")),
    ({"Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"}, chunked(b"x")),
    (
        {"Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum", "Upload-Checksum": "x"},
        chunked(b"x"),
    ),
]


@pytest.mark.parametrize(("headers", "body"), PATCHES)
async def test_patch_on_a_final_is_forbidden_whatever_it_is(
    any_site: Site, headers: dict[str, str], body: bytes
) -> None:
    a, b = await partials(any_site, b"hello", b" world")
    joined = await create_final(any_site, a, b)
    (unfinished,) = await begun(any_site, 5)
    waiting = await create_final(any_site, a, unfinished)
    for path in (joined, waiting):
        fields = {**OCTETS, "Upload-Offset": "11", **headers}
        reply = await any_site.request("PATCH", path, fields, body)
        assert_refused(reply, 403, "FINAL_NOT_APPENDABLE")
    await assert_joined(any_site, joined, b"hello world")
    await assert_waiting(any_site, waiting, 10)
    assert (await any_site.get(a)).body == b"hello"
    assert (await any_site.head(unfinished)).offset == 0


async def test_patch_on_a_final_without_its_headers_is_forbidden(any_site: Site) -> None:
    path = await create_final(any_site, *await partials(any_site, b"hello"))
    assert_refused(await any_site.request("PATCH", path), 403)
    assert (await any_site.request("PATCH", path, tus=False)).status == 412


async def test_patch_on_a_final_is_refused_before_its_body(any_site: Site) -> None:
    path = await create_final(any_site, *await partials(any_site, b"hello"))
    connection = await any_site.begin(path, 5, b"", length=100, Expect="100-continue")
    async with asyncio.timeout(5):
        reply = await connection.reply()
    assert_refused(reply, 403)
    assert reply.interim == ()


# Size


async def test_maximum_counts_for_the_sum(serve: Serve) -> None:
    site = await serve(options=Options(max_size=10))
    a, b = await partials(site, b"x" * 6, b"y" * 5)
    before = uploads_in(site)
    for urls in ([a, b], [b, a], [b, b, b], [a, a]):
        assert_refused(await site.request("POST", headers=final(*urls)), 413)
    assert uploads_in(site) == before
    await assert_joined(site, await create_final(site, b, b), b"y" * 10)


async def test_maximum_counts_for_the_sum_of_unfinished_ones(serve: Serve) -> None:
    site = await serve(options=Options(max_size=10))
    urls = await begun(site, 6, 5)
    assert_refused(await site.request("POST", headers=final(*urls)), 413)
    assert uploads_in(site) == 2


async def test_maximum_counts_when_lengths_were_deferred(serve: Serve) -> None:
    site = await serve(options=Options(max_size=10))
    a, b = [await site.create(None, Upload_Defer_Length="1", Upload_Concat="partial") for _ in "ab"]
    path = await create_final(site, a, b)
    for part in (a, b):
        assert (await site.patch(part, 0, b"x" * 6, Upload_Length="6")).status == 204
    reply = await site.head(path)
    assert reply.status < 500
    assert "Upload-Offset" not in reply.headers
    assert (await site.get(path)).status in (404, 410)
    assert (await site.delete(path)).status in (204, 404, 410)
    assert (await site.get(a)).body == b"x" * 6


# Finals that wait


async def test_waiting_final_completes_by_itself(any_site: Site) -> None:
    site = any_site
    a, b = await begun(site, 5, 6)
    path = await create_final(site, a, b)
    await assert_waiting(site, path, 11)
    assert (await site.patch(b, 0, b" world")).status == 204
    await assert_waiting(site, path, 11)
    assert (await site.patch(a, 0, b"hel")).status == 204
    await assert_waiting(site, path, 11)
    assert (await site.patch(a, 3, b"lo")).status == 204
    await assert_joined(site, path, b"hello world")
    assert (await site.head(path)).headers["Upload-Concat"] == f"final;{a} {b}"


async def test_final_waits_for_one_partial_that_comes_twice(any_site: Site) -> None:
    (a,) = await begun(any_site, 2)
    path = await create_final(any_site, a, a)
    await assert_waiting(any_site, path, 4)
    await any_site.patch(a, 0, b"ab")
    await assert_joined(any_site, path, b"abab")


async def test_several_finals_wait_for_the_same_partials(any_site: Site) -> None:
    a, b = await begun(any_site, 2, 2)
    paths = [await create_final(any_site, *urls) for urls in ([a, b], [b, a], [a], [b, b, b])]
    await any_site.patch(a, 0, b"ab")
    await assert_joined(any_site, paths[2], b"ab")
    await assert_waiting(any_site, paths[0], 4)
    await any_site.patch(b, 0, b"cd")
    for path, data in zip(paths, (b"abcd", b"cdab", b"ab", b"cdcdcd"), strict=True):
        await assert_joined(any_site, path, data)


async def test_length_is_told_as_soon_as_it_can_be_known(any_site: Site) -> None:
    site = any_site
    a = await site.create(None, Upload_Defer_Length="1", Upload_Concat="partial")
    (b,) = await begun(site, 5)
    path = await create_final(site, a, b)
    await assert_waiting(site, path, None)
    await site.patch(a, 0, b"hel")
    await assert_waiting(site, path, None)
    await site.patch(a, 3, b"", Upload_Length="5")
    await assert_waiting(site, path, 10)
    await site.patch(a, 3, b"lo")
    await site.patch(b, 0, b"world")
    await assert_joined(site, path, b"helloworld")


async def complete_by_declaring(site: Site, path: str) -> None:
    assert (await site.patch(path, 0, b"hello")).status == 204
    assert (await site.patch(path, 5, b"", Upload_Length="5")).status == 204


async def complete_too_long(site: Site, path: str) -> None:
    fields = {"Transfer_Encoding": "chunked", "Upload_Length": "5"}
    assert (await site.patch(path, 0, chunked(b"hello world"), **fields)).status == 413


async def complete_under_a_checksum(site: Site, path: str) -> None:
    wrong, right = sha1(b""), sha1(b"hello")
    reply = await site.patch(path, 0, b"hello", Upload_Length="5", Upload_Checksum=wrong)
    assert reply.status == 460
    assert (await site.head(path)).offset == 0
    reply = await site.patch(path, 0, b"hello", Upload_Length="5", Upload_Checksum=right)
    assert reply.status == 204


async def complete_at_once(site: Site, path: str) -> None:
    assert (await site.patch(path, 0, b"hello", Upload_Length="5")).status == 204


@BOTH_PATHS
@pytest.mark.parametrize(
    "complete",
    [
        complete_by_declaring,
        complete_too_long,
        complete_under_a_checksum,
        complete_at_once,
    ],
)
async def test_final_completes_however_its_last_partial_does(
    any_site: Site, complete: Callable[[Site, str], Awaitable[None]]
) -> None:
    (a,) = await partials(any_site, b"oh ")
    b = await any_site.create(None, Upload_Defer_Length="1", Upload_Concat="partial")
    path = await create_final(any_site, a, b)
    await assert_waiting(any_site, path, None)
    await complete(any_site, b)
    await assert_joined(any_site, path, b"oh hello")


@BOTH_PATHS
async def test_final_completes_when_the_client_of_the_last_partial_is_gone(site: Site) -> None:
    (a,) = await begun(site, 5)
    path = await create_final(site, a)
    connection = await site.begin(a, 0, b"hello", length=5)
    connection.reset()
    async with asyncio.timeout(5):
        while "Upload-Offset" not in (await site.head(path)).headers:
            await asyncio.sleep(0.01)
    await assert_joined(site, path, b"hello")


@BOTH_PATHS
async def test_waiting_final_survives_a_restart(tmp_path: Path, data_path: DataPath) -> None:
    async with serving(DiskStore(tmp_path), data_path=data_path) as site:
        a, b = await begun(site, 5, 6)
        path = await create_final(site, a, b)
        await site.patch(a, 0, b"hello")
        await site.routes.server.stop()
    async with serving(DiskStore(tmp_path), data_path=data_path) as site:
        await assert_waiting(site, path, 11)
        await site.patch(b, 0, b" world")
        await assert_joined(site, path, b"hello world")
        await site.routes.server.stop()


@BOTH_PATHS
async def test_final_does_not_displace_those_who_fill_its_partials(any_site: Site) -> None:
    """Neither its creation nor the end of another partial."""
    site = any_site
    a, b, c = await begun(site, 5, 5, 5)
    running_b = await site.begin(b, 0, b"he", length=5)
    running_c = await site.begin(c, 0, b"he", length=5, Upload_Checksum=sha1(b"hello"))
    await asyncio.sleep(0.15)
    path = await create_final(site, a, b, c)
    assert (await site.patch(a, 0, b"hello")).status == 204
    await running_b.send(b"llo")
    await running_c.send(b"llo")
    assert (await running_b.reply()).status == 204
    assert (await running_c.reply()).status == 204
    await assert_joined(site, path, b"hello" * 3)


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_switched_off_unfinished_ones_are_refused(serve: Serve, kind: str) -> None:
    options = Options(extensions=EXTENSIONS - {"concatenation-unfinished"})
    site = await serve(MemoryStore() if kind == "memory" else None, options=options)
    offered = (await site.request("OPTIONS")).headers["Tus-Extension"].split(",")
    assert "concatenation" in offered
    assert "concatenation-unfinished" not in offered
    a, b = await begun(site, 5, 5)
    await site.patch(a, 0, b"hello")
    for urls in ([b], [a, b], [b, a]):
        assert_refused(await site.request("POST", headers=final(*urls)), 400)
    await site.patch(b, 0, b"world")
    await assert_joined(site, await create_final(site, a, b), b"helloworld")


async def test_switched_off_altogether(serve: Serve) -> None:
    site = await serve(options=Options(extensions=EXTENSIONS - {"concatenation"}))
    offered = (await site.request("OPTIONS")).headers["Tus-Extension"]
    assert "concatenation" not in offered
    plain = await site.upload(b"hello")
    for fields in ({"Upload-Concat": "partial", "Upload-Length": "5"}, final(plain)):
        assert_refused(await site.request("POST", headers=fields), 400)
    assert uploads_in(site) == 1


async def test_final_that_could_not_be_made_in_time_is_made_later(serve: Serve) -> None:
    """A partial was in the hands of somebody who did not let go."""
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_terminate
    async def refuse(event: Any) -> None:
        reached.set()
        await go_on.wait()
        raise Refuse(403)

    options = Options(lock_timeout=timedelta(seconds=0.1))
    site = await serve(hooks=hooks, options=options)
    a, b = await begun(site, 5, 6)
    path = await create_final(site, a, b)
    await site.patch(a, 0, b"hello")
    delete = asyncio.create_task(site.delete(a))
    await reached.wait()
    assert (await site.patch(b, 0, b" world")).status == 204
    await assert_waiting(site, path, 11)
    go_on.set()
    assert (await delete).status == 403
    async with asyncio.timeout(5):
        while "Upload-Offset" not in (await site.head(path)).headers:
            await asyncio.sleep(0.02)
    await assert_joined(site, path, b"hello world")


# While it is being made


class SlowStore(MemoryStore):
    """Concatenates without an end, until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        self.reached.set()
        while not stopped():
            await asyncio.sleep(0.01)
        raise InterruptedError


async def test_stop_ends_a_concatenation_and_leaves_nothing(serve: Serve) -> None:
    store = SlowStore()
    site = await serve(store, options=Options(new_id=iter(["part", "final"]).__next__))
    (part,) = await partials(site, b"hello")
    post = asyncio.create_task(site.request("POST", headers=final(part)))
    await store.reached.wait()
    async with asyncio.timeout(2):
        await asyncio.gather(site.runner.cleanup(), post)
    assert_refused(await post, 503)
    assert "Retry-After" in (await post).headers
    async with serving(store) as again:
        assert (await again.head("/files/final")).status == 404
        assert (await again.get(part)).body == b"hello"


async def test_delete_ends_the_concatenation_of_a_final_that_waited(serve: Serve) -> None:
    store = SlowStore()
    site = await serve(store)
    (part,) = await begun(site, 5)
    path = await create_final(site, part)
    patch = asyncio.create_task(site.patch(part, 0, b"hello"))
    await store.reached.wait()
    async with asyncio.timeout(2):
        assert (await site.head(path)).status == 200  # which does not end it
        assert (await site.delete(path)).status == 204
        assert (await patch).status == 204
    assert (await site.head(path)).status in (404, 410)
    assert (await site.get(part)).body == b"hello"


# Races


async def test_final_completes_once_when_partials_complete_together(any_site: Site) -> None:
    site = any_site
    for _ in range(10):
        paths = await begun(site, 2, 2, 2, 2)
        path = await create_final(site, *paths)
        replies = await asyncio.gather(*(site.patch(part, 0, b"ab") for part in paths))
        assert [reply.status for reply in replies] == [204] * 4
        await assert_joined(site, path, b"ab" * 4)


@BOTH_PATHS
async def test_final_completes_when_it_is_created_as_the_last_bytes_come(any_site: Site) -> None:
    site = any_site
    for _ in range(15):
        paths = await begun(site, 2, 2)
        await site.patch(paths[0], 0, b"ab")
        reply, _ = await asyncio.gather(
            site.request("POST", headers=final(*paths)), site.patch(paths[1], 0, b"cd")
        )
        assert reply.status == 201
        await assert_joined(site, reply.path, b"abcd")


@BOTH_PATHS
async def test_final_completes_while_clients_look_at_it(any_site: Site) -> None:
    site, pieces = any_site, [b"a" * 3_000_000, b"b" * 3_000_000]
    for _ in range(5):
        paths = await begun(site, *map(len, pieces))
        path = await create_final(site, *paths)
        await site.patch(paths[0], 0, pieces[0])
        last = asyncio.create_task(site.patch(paths[1], 0, pieces[1]))
        while not last.done():
            replies = await asyncio.gather(*(site.head(path) for _ in range(4)))
            assert [reply.status for reply in replies] == [200] * 4
        assert (await last).status == 204
        await assert_joined(site, path, b"".join(pieces))


async def test_finals_of_the_same_partials_never_wait_for_each_other(any_site: Site) -> None:
    site = any_site
    paths = await partials(site, b"ab", b"cd", b"ef")
    orders = [paths, paths[::-1], [paths[1], paths[0], paths[2]]] * 5
    async with asyncio.timeout(2.5):  # less than anybody waits for a lock
        made = await asyncio.gather(*(create_final(site, *urls) for urls in orders))
    for path, urls in zip(made, orders, strict=True):
        data = b"".join([b"ab", b"cd", b"ef"][paths.index(url)] for url in urls)
        await assert_joined(site, path, data)


# Deletion of partials


async def test_partials_stay_by_default(any_site: Site) -> None:
    urls = await partials(any_site, b"hello", b" world")
    await create_final(any_site, *urls)
    assert [(await any_site.head(url)).status for url in urls] == [200, 200]


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_partials_are_deleted_when_the_option_says_so(serve: Serve, kind: str) -> None:
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, options=Options(delete_partials=True))
    a, b = await partials(site, b"hello", b" world")
    path = await create_final(site, a, b, a)
    for part in (a, b):
        assert (await site.head(part)).status in (404, 410)
    await assert_joined(site, path, b"hello worldhello")


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_partials_that_others_wait_for_are_not_deleted_yet(serve: Serve, kind: str) -> None:
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, options=Options(delete_partials=True))
    a, b = await begun(site, 2, 2)
    first, second = await create_final(site, a), await create_final(site, a, b)
    assert (await site.patch(a, 0, b"ab")).status == 204
    await assert_joined(site, first, b"ab")
    assert (await site.head(a)).offset == 2
    assert (await site.patch(b, 0, b"cd")).status == 204
    await assert_joined(site, second, b"abcd")
    for part in (a, b):
        assert (await site.head(part)).status in (404, 410)


# The end of partials and finals


async def test_final_that_waits_for_a_terminated_partial_is_given_up(any_site: Site) -> None:
    site = any_site
    a, b = await begun(site, 5, 6)
    path = await create_final(site, a, b)
    assert (await site.delete(a)).status == 204
    assert (await site.head(path)).status in (404, 410)
    assert (await site.get(path)).status in (404, 410)
    assert (await site.patch(b, 0, b" world")).status == 204
    assert (await site.get(b)).body == b" world"
    assert (await site.head(path)).status in (404, 410)


async def test_complete_final_outlives_its_partials(any_site: Site) -> None:
    a, b = await partials(any_site, b"hello", b" world")
    path = await create_final(any_site, a, b)
    for part in (a, b):
        assert (await any_site.delete(part)).status == 204
    await assert_joined(any_site, path, b"hello world")


async def test_partials_outlive_their_final(any_site: Site) -> None:
    site = any_site
    a, b = await begun(site, 5, 6)
    waiting = await create_final(site, a, b)
    assert (await site.delete(waiting)).status == 204
    assert (await site.head(waiting)).status in (404, 410)
    assert (await site.patch(a, 0, b"hello")).status == 204
    assert (await site.patch(b, 0, b" world")).status == 204
    assert (await site.head(waiting)).status in (404, 410)
    joined = await create_final(site, a, b)
    assert (await site.delete(joined)).status == 204
    await assert_joined(site, await create_final(site, b, a), b" worldhello")


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_final_that_waits_for_an_expired_partial_is_given_up(serve: Serve, kind: str) -> None:
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, options=Options(expiry=Expiry(after=timedelta(hours=1))))
    server = site.routes.server
    start = server.clock()
    a, b = await begun(site, 5, 5)
    await site.patch(b, 0, b"hello")
    server.clock = lambda: start + timedelta(minutes=50)
    path = await create_final(site, a, b)
    server.clock = lambda: start + timedelta(minutes=70)
    await sweep(server)
    assert (await site.head(a)).status in (404, 410)
    assert (await site.head(path)).status in (404, 410)
    assert (await site.get(b)).body == b"hello"  # complete


async def test_final_of_an_expired_partial_is_refused(serve: Serve) -> None:
    site = await serve(options=Options(expiry=Expiry(after=timedelta(hours=1))))
    server = site.routes.server
    start = server.clock()
    (a,) = await begun(site, 5)
    (b,) = await partials(site, b"hello")
    server.clock = lambda: start + timedelta(minutes=70)
    reply = await site.request("POST", headers=final(a, b))
    assert_refused(reply, reply.status)
    assert reply.status in (400, 410)
    await assert_joined(site, await create_final(site, b), b"hello")


async def test_complete_finals_do_not_expire(serve: Serve) -> None:
    site = await serve(options=Options(expiry=Expiry(after=timedelta(hours=1))))
    server = site.routes.server
    start = server.clock()
    path = await create_final(site, *await partials(site, b"hello"))
    assert "Upload-Expires" not in (await site.head(path)).headers
    server.clock = lambda: start + timedelta(hours=9)
    await sweep(server)
    await assert_joined(site, path, b"hello")


async def test_nothing_is_fetched(site: Site) -> None:
    """A URL of somebody else is never asked for."""
    asked = asyncio.Event()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    listener = await asyncio.start_server(note, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    (part,) = await partials(site, b"hello")
    url = f"http://127.0.0.1:{port}{part}"
    await assert_joined(site, await create_final(site, url), b"hello")
    url = f"http://127.0.0.1:{port}/files/unknown"
    assert_refused(await site.request("POST", headers=final(url)), 400)
    with suppress(TimeoutError):
        await asyncio.wait_for(asked.wait(), 0.1)
    assert not asked.is_set()
    listener.close()
    await listener.wait_closed()


async def test_final_that_grows_too_large_is_given_up(serve: Serve) -> None:
    """The sum can be known only when the length of a partial is."""
    site = await serve(options=Options(max_size=8))
    one = await site.upload(b"hello", Upload_Concat="partial")
    two = await site.create(None, Upload_Concat="partial", Upload_Defer_Length="1")
    final = await site.create(Upload_Concat=f"final;{one} {two}")
    reply = await site.patch(two, 0, b"hello", Upload_Length="5")
    assert (reply.status, reply.offset) == (204, 5)
    assert (await site.head(final)).status in (404, 410)


async def test_many_finals_wait_for_one_partial(serve: Serve) -> None:
    site = await serve()
    part = await site.create(5, Upload_Concat="partial")
    finals = [await site.create(Upload_Concat=f"final;{part}") for _ in range(40)]
    assert (await site.patch(part, 0, b"hello")).status == 204
    async with asyncio.timeout(20):
        for final in finals:
            while "Upload-Offset" not in (await site.head(final)).headers:
                await asyncio.sleep(0.01)
            assert (await site.get(final)).body == b"hello"


# Partials that go while somebody makes a final of them


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_a_final_made_while_its_partial_is_removed_is_given_up(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    store = MemoryStore() if kind == "memory" else DiskStore(tmp_path / "uploads")
    site = await serve(store)
    part = await site.create(5, Upload_Concat="partial")
    terminate, finals = store.terminate, []

    async def late(upload: Upload) -> None:
        if upload.upload_id in part:
            fields = {"Upload-Concat": f"final;{part}"}
            finals.append((await site.request("POST", headers=fields)).path)
        await terminate(upload)

    monkeypatch.setattr(store, "terminate", late)
    assert (await site.delete(part)).status == 204
    (final,) = finals
    assert (await site.request("HEAD", final)).status == 404


async def test_head_gives_up_a_final_that_has_lost_its_partial(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions have left some."""
    store = DiskStore(tmp_path / "uploads")
    site = await serve(store)
    part = await site.create(5, Upload_Concat="partial")
    final = (await site.request("POST", headers={"Upload-Concat": f"final;{part}"})).path

    async def nobody(upload_id: str) -> tuple[str, ...]:
        return ()

    with monkeypatch.context() as patching:
        patching.setattr(store, "waiting_for", nobody)
        assert (await site.delete(part)).status == 204
    async with asyncio.timeout(10):
        while (await site.request("HEAD", final)).status != 404:
            await asyncio.sleep(0.01)
