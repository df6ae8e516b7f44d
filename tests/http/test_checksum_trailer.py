"""Checksums in a trailer, black box: under plain ``app.add_routes``, on both event loops.

aiohttp throws request trailers away, so the server reads tus bodies in chunks by itself. What
must hold besides the checksum: requests before and after, in any split of the bytes, are
understood as if nobody had interfered, and no bytes make the server hang or answer 5xx.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web, web_protocol, web_server

from aiotus_server import DiskStore, MemoryStore, tus_routes

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
    running,
    sha1,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from .conftest import Serve

pytestmark = [
    pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]),
    pytest.mark.data_paths(DataPath.AS_SET),  # bodies in chunks take but one
]

CHUNKED = {"Transfer-Encoding": "chunked"}
ANNOUNCED = {**CHUNKED, "Trailer": "Upload-Checksum"}
LARGE = random.Random(1).randbytes(2_600_000)


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


def patch_head(path: str, offset: int = 0, headers: Mapping[str, str] = ANNOUNCED) -> bytes:
    return head("PATCH", path, {**TUS, **OCTETS, "Upload-Offset": str(offset), **headers})


def trailed(data: bytes, checksum: str, *, chunk: int = 1 << 20) -> bytes:
    """``data`` in chunks of ``chunk`` bytes, and the trailer."""
    pieces = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    return chunked(*pieces, trailers={"Upload-Checksum": checksum})


async def patch(
    site: Site, path: str, body: bytes, headers: Mapping[str, str] = ANNOUNCED, *, offset: int = 0
) -> Reply:
    async with asyncio.timeout(10):
        return await site.raw(patch_head(path, offset, headers) + body)


async def test_it_is_on_offer_and_the_loop_is_the_one_asked_for(
    site: Site, request: pytest.FixtureRequest
) -> None:
    extensions = (await site.request("OPTIONS")).headers["Tus-Extension"].split(",")
    assert "checksum-trailer" in extensions
    module = type(asyncio.get_running_loop()).__module__
    assert ("uvloop" in module) == ("uvloop" in request.node.name)


# Whatever the segments


async def test_whole_request_in_one_segment(any_site: Site) -> None:
    path = await any_site.create(11)
    body = chunked(b"hello", b" world", trailers={"Upload-Checksum": sha1(b"hello world")})
    reply = await patch(any_site, path, body)
    assert (reply.status, reply.offset) == (204, 11)
    assert (await any_site.get(path)).body == b"hello world"


async def test_whole_request_in_one_segment_with_a_wrong_checksum(any_site: Site) -> None:
    path = await any_site.create(5)
    reply = await patch(any_site, path, trailed(b"hello", sha1(b"hallo")))
    assert_refused(reply, 460, "CHECKSUM_MISMATCH")
    assert (await any_site.head(path)).offset == 0
    assert (await patch(any_site, path, trailed(b"hello", sha1(b"hello")))).status == 204
    assert (await any_site.get(path)).body == b"hello"


async def send_split(connection: Connection, data: bytes, sizes: itertools.cycle[int]) -> None:
    """Each part in a segment of its own, as far as anybody can tell."""
    while data:
        size = next(sizes)
        await connection.send(data[:size])
        data = data[size:]
        await asyncio.sleep(0)


@pytest.mark.parametrize("sizes", [[1], [2], [3, 1], [7], [1, 100], [64]], ids=str)
async def test_any_split_of_the_bytes(site: Site, sizes: list[int]) -> None:
    path, other = await site.create(11), await site.create(5)
    body = chunked(b"hello", b" world", trailers={"Upload-Checksum": sha1(b"hello world")})
    wrong = patch_head(other) + trailed(b"hello", sha1(b"hallo"))
    stream = patch_head(path) + body + wrong + head("HEAD", path, TUS)
    connection = await site.connect()
    async with asyncio.timeout(10):
        await send_split(connection, stream, itertools.cycle(sizes))
        assert (await connection.reply()).status == 204
        assert (await connection.reply()).status == 460
        assert (await connection.reply(method="HEAD")).offset == 11
    assert (await site.get(path)).body == b"hello world"


@pytest.mark.parametrize("size", [0, 1, 17, 1_000_000], ids=lambda size: f"segments{size}")
async def test_pipelined_between_other_requests(site: Site, size: int) -> None:
    first, second, third = [await site.create(5) for _ in range(3)]
    counted = {"Content-Length": "5", "Upload-Checksum": sha1(b"hello")}
    stream = [
        ("HEAD", head("HEAD", first, TUS)),
        ("PATCH", patch_head(first) + trailed(b"hello", sha1(b"hello"), chunk=2)),
        ("GET", head("GET", first)),
        ("PATCH", patch_head(second, 0, counted) + b"hello"),
        ("PATCH", patch_head(third) + trailed(b"hello", sha1(b"hallo"))),
        ("PATCH", patch_head(third) + trailed(b"hello", sha1(b"hello"), chunk=1)),
        ("OPTIONS", head("OPTIONS", "/files")),
        ("GET", head("GET", third)),
    ]
    data = b"".join(part for _, part in stream)
    connection = await site.connect()
    async with asyncio.timeout(10):
        sending = asyncio.create_task(
            send_split(connection, data, itertools.cycle([size or len(data)]))
        )
        replies = [await connection.reply(method=method) for method, _ in stream]
        await sending
    assert [reply.status for reply in replies] == [200, 204, 200, 204, 460, 204, 204, 200]
    assert replies[2].body == replies[7].body == b"hello"
    assert (await site.get(second)).body == b"hello"


async def test_many_pipelined_in_one_segment(site: Site) -> None:
    paths = [await site.create(5) for _ in range(40)]
    data = [patch_head(path) + trailed(b"hello", sha1(b"hello")) for path in paths]
    connection = await site.connect()
    async with asyncio.timeout(20):
        sending = asyncio.create_task(connection.send(b"".join(data)))
        for _ in paths:
            assert (await connection.reply()).status == 204
        await sending
    for path in paths:
        assert (await site.get(path)).body == b"hello"


async def test_connection_goes_on_afterwards(site: Site) -> None:
    connection = await site.connect()
    for checksum, status in ((sha1(b"hallo"), 460), (sha1(b"hello"), 204)) * 3:
        path = await site.create(5)
        await connection.send(patch_head(path) + trailed(b"hello", checksum))
        assert (await connection.reply()).status == status
        await connection.send(head("HEAD", path, TUS))
        assert (await connection.reply(method="HEAD")).offset == (5 if status == 204 else 0)


# Large bodies


@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED], ids=["announced", "unannounced"])
@pytest.mark.parametrize("chunk", [61, 1000, 4096, 65_535, 262_144, 1 << 20, 1 << 22])
async def test_large_bodies(site: Site, chunk: int, headers: dict[str, str]) -> None:
    data = LARGE[: chunk * 5000]
    path = await site.create(len(data))
    reply = await patch(site, path, trailed(data, sha1(b"other"), chunk=chunk), headers)
    assert_refused(reply, 460)
    assert (await site.head(path)).offset == 0
    assert (await site.get(path)).status == 404
    assert site.stored(path) == b""
    reply = await patch(site, path, trailed(data, sha1(data), chunk=chunk), headers)
    assert (reply.status, reply.offset) == (204, len(data))
    assert (await site.get(path)).body == data


async def test_large_body_between_two_requests(site: Site) -> None:
    path = await site.create(len(LARGE))
    before, after = head("HEAD", path, TUS), head("HEAD", path, TUS)
    connection = await site.connect()
    data = before + patch_head(path) + trailed(LARGE, sha1(LARGE), chunk=50_000) + after
    async with asyncio.timeout(20):
        sending = asyncio.create_task(connection.send(data))
        assert (await connection.reply(method="HEAD")).offset == 0
        assert (await connection.reply()).offset == len(LARGE)
        assert (await connection.reply(method="HEAD")).offset == len(LARGE)
        await sending
    assert (await site.get(path)).body == LARGE


async def test_random_chunks_in_random_segments(site: Site) -> None:
    chance = random.Random(2)
    for _ in range(3):
        data, pieces = LARGE[: chance.randrange(300_000, 900_000)], []
        at = 0
        while at < len(data):
            pieces.append(data[at : at + chance.choice([1, 10, 1000, 30_000, 200_000])])
            at += len(pieces[-1])
        body = chunked(*pieces, trailers={"Upload-Checksum": sha1(data)})
        path = await site.create(len(data))
        connection = await site.connect()
        sizes = [chance.randrange(1, 50_000) for _ in range(50)]
        async with asyncio.timeout(10):
            await send_split(connection, patch_head(path) + body, itertools.cycle(sizes))
            assert (await connection.reply()).status == 204
        assert (await site.get(path)).body == data


# Announced or not


@pytest.mark.parametrize("size", [5, 100_000, 1_500_000])
async def test_unannounced_trailer_counts(any_site: Site, size: int) -> None:
    site, data = any_site, LARGE[:size]
    path = await site.create(5 + size)
    await site.patch(path, 0, b"first")
    reply = await patch(site, path, trailed(data, sha1(b"other")), CHUNKED, offset=5)
    assert_refused(reply, 460, "CHECKSUM_MISMATCH")
    assert (await site.head(path)).offset == 5
    reply = await patch(site, path, trailed(data, sha1(data)), CHUNKED, offset=5)
    assert reply.status == 204
    assert (await site.get(path)).body == b"first" + data


@pytest.mark.parametrize("size", [5, 1_500_000])
async def test_unannounced_trailer_that_is_malformed_is_refused(any_site: Site, size: int) -> None:
    path = await any_site.create(size)
    reply = await patch(any_site, path, trailed(LARGE[:size], "sha1 ?"), CHUNKED)
    assert_refused(reply, 400)
    assert (await any_site.head(path)).offset == 0


@pytest.mark.parametrize("size", [5, 1_500_000])
@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED], ids=["announced", "unannounced"])
async def test_length_is_not_recorded_when_the_trailer_is_wrong(
    any_site: Site, headers: dict[str, str], size: int
) -> None:
    site, data = any_site, LARGE[:size]
    path = await site.create(None, Upload_Defer_Length="1")
    fields = {**headers, "Upload-Length": str(size)}
    assert_refused(await patch(site, path, trailed(data, sha1(b"")), fields), 460)
    reply = await site.head(path)
    assert (reply.offset, reply.headers.get("Upload-Defer-Length")) == (0, "1")
    assert "Upload-Length" not in reply.headers
    fields = {**headers, "Upload-Length": str(size + 1)}
    right = trailed(data + b"!", sha1(data + b"!"))
    assert (await patch(site, path, right, fields)).status == 204
    assert (await site.get(path)).body == data + b"!"


@pytest.mark.parametrize(
    "names",
    ["upload-checksum", "X-Other, Upload-Checksum", "UPLOAD-CHECKSUM ,X-Other", "X-Other"],
)
async def test_trailer_header_may_list_other_names(site: Site, names: str) -> None:
    headers = {**CHUNKED, "Trailer": names}
    path = await site.create(5)
    assert_refused(await patch(site, path, trailed(b"hello", sha1(b"")), headers), 460)
    assert (await patch(site, path, trailed(b"hello", sha1(b"hello")), headers)).status == 204


@pytest.mark.parametrize("size", [5, 1_500_000])
async def test_announced_trailer_that_does_not_come_is_refused(any_site: Site, size: int) -> None:
    path = await any_site.create(size)
    for trailers in ({}, {"X-Checksum": sha1(LARGE[:size])}):
        reply = await patch(any_site, path, chunked(LARGE[:size], trailers=trailers))
        assert_refused(reply, 400)
        assert (await any_site.head(path)).offset == 0


@pytest.mark.parametrize(
    "value",
    ["", "sha1", "sha1 ?", "sha1 AAAA", "nope AAAA", sha1(b"hello")[:-1], "sha1  " + sha1(b"")[5:]],
)
async def test_announced_trailer_that_is_malformed_is_refused(site: Site, value: str) -> None:
    path = await site.create(5)
    assert_refused(await patch(site, path, trailed(b"hello", value)), 400)
    assert (await site.head(path)).offset == 0
    assert site.stored(path) == b""


@pytest.mark.parametrize("size", [5, 1_500_000])
@pytest.mark.parametrize("second", ["right", "wrong"])
async def test_two_trailers_are_refused(site: Site, second: str, size: int) -> None:
    data = LARGE[:size]
    path = await site.create(size)
    lines = [f"Upload-Checksum: {sha1(data)}", f"upload-checksum: {sha1(data)}"]
    if second == "wrong":
        lines[1] = f"upload-checksum: {sha1(b'')}"
    body = chunked(data)[:-2] + "\r\n".join([*lines, "", ""]).encode()
    for headers in (ANNOUNCED, CHUNKED):
        assert_refused(await patch(site, path, body, headers), 400)
        assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("size", [5, 1_500_000])
async def test_header_and_trailer_are_refused(any_site: Site, size: int) -> None:
    data = LARGE[:size]
    path = await any_site.create(size)
    for headers in (ANNOUNCED, CHUNKED):
        fields = {**headers, "Upload-Checksum": sha1(data)}
        assert_refused(await patch(any_site, path, trailed(data, sha1(data)), fields), 400)
        assert (await any_site.head(path)).offset == 0


async def test_header_and_announced_trailer_are_refused_before_the_body(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(patch_head(path, 0, {**ANNOUNCED, "Upload-Checksum": sha1(b"")}))
    async with asyncio.timeout(5):
        assert_refused(await connection.reply(), 400)


async def test_other_trailers_are_ignored(site: Site) -> None:
    path = await site.create(5)
    trailers = {
        "X-Other": "1",
        "Upload-Offset": "999",
        "Upload-Length": "999",
        "Content-Length": "999",
        "Transfer-Encoding": "chunked",
        "Content-Encoding": "gzip",
        "Tus-Resumable": "0.1",
        "X-HTTP-Method-Override": "DELETE",
        "Host": "elsewhere",
        "Connection": "close",
    }
    reply = await patch(site, path, chunked(b"he", trailers=trailers), CHUNKED)
    assert (reply.status, reply.offset) == (204, 2)
    trailers["Upload-Checksum"] = sha1(b"llo")
    reply = await patch(site, path, chunked(b"llo", trailers=trailers), offset=2)
    assert (reply.status, reply.offset) == (204, 5)
    assert (await site.head(path)).headers["Upload-Length"] == "5"


async def test_chunks_without_any_trailer(site: Site) -> None:
    path = await site.create(len(LARGE))
    pieces = [LARGE[start : start + 70_000] for start in range(0, len(LARGE), 70_000)]
    assert (await patch(site, path, chunked(*pieces), CHUNKED)).status == 204
    assert (await site.get(path)).body == LARGE


async def test_empty_body_with_a_trailer(site: Site) -> None:
    path = await site.create(5)
    assert_refused(await patch(site, path, trailed(b"", sha1(b"x"))), 460)
    assert (await patch(site, path, trailed(b"", sha1(b"")))).status == 204


async def test_continue_is_sent_before_a_body_with_a_trailer(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    async with asyncio.timeout(5):
        await connection.send(patch_head(path, 0, {**ANNOUNCED, "Expect": "100-continue"}))
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(trailed(b"hello", sha1(b"hello")))
        assert (await connection.reply()).status == 204
        await connection.send(head("GET", path))
        assert (await connection.reply()).body == b"hello"


@pytest.mark.parametrize("size", [5, 1_500_000])
@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED], ids=["announced", "unannounced"])
async def test_creation_with_upload(any_site: Site, headers: dict[str, str], size: int) -> None:
    site, data = any_site, LARGE[:size]
    fields = {**OCTETS, **headers, "Upload-Length": str(size)}
    right, wrong = trailed(data, sha1(data)), trailed(data, sha1(b""))
    reply = await site.request("POST", headers=fields, body=right)
    assert (reply.status, reply.offset) == (201, size)
    assert (await site.get(reply.path)).body == data
    reply = await site.request("POST", headers=fields, body=wrong)
    assert_refused(reply, 460)
    assert (await site.head(reply.path)).offset == 0
    path = reply.path
    assert (await patch(site, path, right, headers)).status == 204
    assert (await site.get(path)).body == data


@pytest.mark.parametrize("cut", [1, 2, 10, 60, 70, 1000])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_body_cut_short_is_discarded(site: Site, leave: str, cut: int) -> None:
    """In the trailer, or in the chunks before it."""
    data = LARGE[:100_000]
    path = await site.create(len(data))
    connection = await site.connect()
    await connection.send(patch_head(path) + trailed(data, sha1(data), chunk=40_000)[:-cut])
    if leave == "close":
        await connection.close()
    else:
        connection.reset()
    assert (await site.head(path)).offset == 0
    assert (await patch(site, path, trailed(data, sha1(data)))).status == 204
    assert (await site.get(path)).body == data


async def test_head_during_a_body_with_a_trailer_leaves_it_alone(site: Site) -> None:
    path = await site.create(5)
    body = trailed(b"hello", sha1(b"hello"))
    connection = await site.connect()
    await connection.send(patch_head(path) + body[:8])
    for _ in range(20):
        async with asyncio.timeout(1):
            assert (await site.head(path)).offset == 0
        await asyncio.sleep(0.01)
    await connection.send(body[8:])
    assert (await connection.reply()).status == 204


# Chunked bodies that are not for us


FOREIGN = head("POST", "/files", {"Transfer-Encoding": "chunked"}) + chunked(b"x" * 100)


async def test_behind_a_foreign_chunked_message_in_one_segment(site: Site) -> None:
    """aiohttp has read the trailer by then: refused, or verified, but never believed."""
    path = await site.create(5)
    connection = await site.connect()
    async with asyncio.timeout(5):
        wrong = trailed(b"hello", sha1(b"hallo"))
        await connection.send(FOREIGN + patch_head(path) + wrong + head("HEAD", path, TUS))
        assert (await connection.reply()).status == 412
        assert_refused(reply := await connection.reply(), reply.status)
        assert reply.status in (400, 460)
        if reply.headers.get("Connection") != "close":
            assert (await connection.reply(method="HEAD")).offset == 0
    assert (await site.head(path)).offset == 0
    assert (await patch(site, path, trailed(b"hello", sha1(b"hello")))).status == 204


async def test_unannounced_behind_a_foreign_chunked_message(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    async with asyncio.timeout(5):
        await connection.send(
            FOREIGN + patch_head(path, 0, CHUNKED) + trailed(b"hello", sha1(b"hallo"))
        )
        assert (await connection.reply()).status == 412
        assert (await connection.reply()).status in (400, 460)
    assert (await site.head(path)).offset == 0


async def test_behind_a_foreign_chunked_message_in_a_later_segment(site: Site) -> None:
    path = await site.create(5)
    connection = await site.connect()
    async with asyncio.timeout(5):
        await connection.send(FOREIGN)
        assert (await connection.reply()).status == 412
        await connection.send(patch_head(path) + trailed(b"hello", sha1(b"hello")))
        assert (await connection.reply()).status == 204
    assert (await site.get(path)).body == b"hello"


@pytest.mark.parametrize("sizes", [[1], [3, 50], [100_000]], ids=str)
async def test_foreign_messages_and_ours_in_any_split(site: Site, sizes: list[int]) -> None:
    """A trailer behind a foreign one is verified or refused, and nothing gets out of step."""
    paths = [await site.create(5) for _ in range(3)]
    ours = [patch_head(path) + trailed(b"hello", sha1(b"hello")) for path in paths]
    stream = b"".join(FOREIGN + one + head("GET", "/files/none") for one in ours)
    connection = await site.connect()
    statuses = []
    async with asyncio.timeout(10):
        sending = asyncio.create_task(send_split(connection, stream, itertools.cycle(sizes)))
        for _ in range(9):
            try:
                statuses.append((await connection.reply()).status)
            except (asyncio.IncompleteReadError, ConnectionError):
                break  # a refusal may close the connection
        await asyncio.gather(sending, return_exceptions=True)
    expected = [(412,), (204, 400), (404,)] * 3
    assert statuses
    for status, right in zip(statuses, expected, strict=False):
        assert status in right
    for path, status in zip(paths, statuses[1::3], strict=False):
        assert (await site.head(path)).offset == (5 if status == 204 else 0)


@asynccontextmanager
async def echoing(root: Path) -> AsyncIterator[int]:
    """The port of an application with uploads and with a handler that sends bodies back."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.post("/echo", echo), *tus_routes(DiskStore(root))])
    async with running(app) as (_, port):
        yield port


@pytest.mark.parametrize("sizes", [[1_000_000], [1], [1000, 7]], ids=str)
async def test_the_hosts_own_handlers_get_their_bodies(tmp_path: Path, sizes: list[int]) -> None:
    data = {1: LARGE[:5000], 1000: LARGE[:200_000]}.get(sizes[0], LARGE)
    pieces = [data[start : start + 60_000] for start in range(0, len(data), 60_000)]
    bodies = [
        ({"Content-Length": str(len(data))}, data),
        (CHUNKED, chunked(*pieces)),
        (CHUNKED, chunked(*pieces, trailers={"X-Other": "1"})),
        ({**CHUNKED, "Trailer": "X-Other"}, chunked(*pieces, trailers={"X-Other": "1"})),
        ({"Content-Length": "5"}, b"hello"),
        (CHUNKED, chunked(b"hello")),
        ({"Content-Length": "0"}, b""),
    ]
    async with echoing(tmp_path) as port:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        stream = b"".join(head("POST", "/echo", fields) + body for fields, body in bodies)
        async with asyncio.timeout(20):
            sending = asyncio.create_task(send_split(connection, stream, itertools.cycle(sizes)))
            for _ in range(4):
                assert (await connection.reply()).body == data
            for expected in (b"hello", b"hello", b""):
                assert (await connection.reply()).body == expected
            await sending
        await connection.close()


async def test_connection_of_another_class_offers_and_takes_no_trailers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "RequestHandler", web_protocol.RequestHandler)
    store = DiskStore(tmp_path / "uploads")
    app = web.Application()
    app.add_routes(tus_routes(store, adapt_aiohttp=False))
    async with running(app) as (runner, port):
        site = Site(port, store, "/files", runner)
        extensions = (await site.request("OPTIONS")).headers["Tus-Extension"].split(",")
        assert "checksum" in extensions
        assert "checksum-trailer" not in extensions
        path = await site.create(5)
        connection = await site.connect()
        async with asyncio.timeout(5):
            await connection.send(patch_head(path))
            assert_refused(await connection.reply(), 400)
        assert_refused(await patch(site, path, trailed(b"hello", sha1(b"hello"))), 400)
        assert (await site.head(path)).offset == 0
        assert (await patch(site, path, chunked(b"hello"), CHUNKED)).status == 204
        await connection.close()


# Chunk extensions, and what is no chunked body


@pytest.mark.parametrize(
    "extension",
    [b";a", b";a=b", b"; a=b", b" ;a=b", b';a="b c"', b";a;b=c;d", b";" + b"x" * 500],
)
async def test_chunk_extensions_are_ignored(site: Site, extension: bytes) -> None:
    path = await site.create(11)
    trailer = f"Upload-Checksum: {sha1(b'hello world')}\r\n\r\n".encode()
    body = b"5%b\r\nhello\r\n6\r\n world\r\n0%b\r\n" % (extension, extension) + trailer
    for fields in (ANNOUNCED, CHUNKED):
        assert (await patch(site, path, body, fields)).status == 204
        path = await site.create(11)


async def test_sizes_in_either_case_and_with_leading_zeros(site: Site) -> None:
    path = await site.create(26)
    trailer = f"Upload-Checksum: {sha1(b'x' * 26)}\r\n\r\n".encode()
    body = b"a\r\n%b\r\nA\r\n%b\r\n00006\r\n%b\r\n000\r\n" % (b"x" * 10, b"x" * 10, b"x" * 6)
    assert (await patch(site, path, body + trailer)).status == 204


SMUGGLED = b"\r\n\r\n" + head("DELETE", "/files/%s", TUS)

MALFORMED = [
    b"hello\r\n",
    b"\r\n",
    b"-1\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"5_0\r\nhello\r\n",
    b"5 5\r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b";a=b\r\nhello\r\n",
    b"g\r\nhello\r\n",
    b"\xd9\xa5\r\nhello\r\n",
    b"5\nhello\n",
    b"5\rhello\r",
    b"5;" + b"x" * 100_000,
    b"1" * 17 + b"\r\nhello\r\n",
    b"0" * 100_000,
    b"f" * 100_000,
    b"\x00\x00\x00",
    b"PATCH / HTTP/1.1\r\n",
]

# After five bytes that are all right.
MALFORMED_LATER = [
    b"5\r\nhelloo\r\n",
    b"5\r\nhello\n",
    b"5\r\nhello\rx",
    b"5\r\nhellohello\r\n",
    b"5\r\nhello\r\nzz\r\n",
    b"5\r\nhello\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"5\r\nhello\r\n0\r\n: no name\r\n\r\n",
    b"5\r\nhello\r\n0\r\nbad name: x\r\n\r\n",
    b"5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX-Nul: a\x00b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX-Bare: a\n\n",
    b"5\r\nhello\r\n0\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    b"5\r\nhello\r\n0\r\n" + b"X-Many: x\r\n" * 10_000 + b"\r\n",
    b"5\r\nhello\r\n0\r\n0\r\n\r\n",
]


async def broken(
    site: Site, path: str, data: bytes, headers: Mapping[str, str], size: int = 0
) -> None:
    """Send it, with a DELETE behind it: refused or closed, without a wait."""
    connection = await site.connect()
    stream = patch_head(path, 0, headers) + data + SMUGGLED.replace(b"/files/%s", path.encode())
    async with asyncio.timeout(5):
        try:
            await send_split(connection, stream, itertools.cycle([size or len(stream)]))
        except ConnectionError:
            return
        try:
            reply = await connection.reply()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        assert reply.status == 400, reply
        try:
            rest = await connection.reader.read()
        except ConnectionError:
            return
        assert rest == b""  # nothing behind it was taken for a request


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:20]))
@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED], ids=["announced", "unannounced"])
async def test_malformed_chunks(site: Site, data: bytes, headers: dict[str, str]) -> None:
    path = await site.create(20)
    await broken(site, path, data, headers)
    reply = await site.head(path)
    assert (reply.status, reply.offset) == (200, 0)
    assert site.stored(path) == b""


@pytest.mark.parametrize("data", MALFORMED_LATER, ids=lambda data: repr(data[:40]))
@pytest.mark.parametrize("size", [0, 1], ids=["whole", "bytewise"])
async def test_bytes_before_what_is_malformed_are_kept(site: Site, data: bytes, size: int) -> None:
    if size == 1 and len(data) > 1000:
        data = data[:20] + data[-12_000:]
    path = await site.create(20)
    await broken(site, path, data, CHUNKED, size)
    assert (await site.head(path)).offset == 5
    assert site.stored(path) == b"hello"
    path = await site.create(20)
    await broken(site, path, data, ANNOUNCED, size)
    assert (await site.head(path)).offset == 0
    assert site.stored(path) == b""


@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED], ids=["announced", "unannounced"])
async def test_creation_with_malformed_chunks(site: Site, headers: dict[str, str]) -> None:
    fields = {**OCTETS, **headers, "Upload-Length": "20"}
    reply = await site.request("POST", headers=fields, body=b"5\r\nhello\r\nzz\r\n")
    assert_refused(reply, 400)
    assert (await site.head(reply.path)).offset == (0 if headers is ANNOUNCED else 5)


async def test_huge_chunk_that_never_comes(site: Site) -> None:
    path = await site.create(20)
    connection = await site.connect()
    await connection.send(patch_head(path, 0, CHUNKED) + b"7fffffffffffffff\r\nhello")
    await site.until_stored(path, 5)
    await connection.close()
    async with asyncio.timeout(5):
        assert (await site.head(path)).offset == 5


async def test_random_damage_never_hangs_and_never_fails(site: Site) -> None:
    chance = random.Random(3)
    for _ in range(60):
        data = LARGE[: chance.randrange(1, 300)]
        coded = bytearray(trailed(data, sha1(data), chunk=chance.randrange(1, 100)))
        for _ in range(chance.randrange(1, 4)):
            coded[chance.randrange(len(coded))] = chance.randrange(256)
        path = await site.create(len(data))
        connection = await site.connect()
        await connection.send(patch_head(path) + coded)
        connection.writer.write_eof()  # it may wait for more; there is none
        async with asyncio.timeout(5):
            try:
                reply = await connection.reply()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            else:
                assert reply.status in (204, 400, 413, 460), reply
            reply = await site.head(path)
            assert (reply.status, reply.offset) in ((200, 0), (200, len(data)))
            if reply.offset:
                assert (await site.get(path)).body == data
        await connection.close()
