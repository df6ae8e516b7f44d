"""creation-defer-length, black box: uploads that get their length later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from multidict import MultiDict

from aiotus_server import Hooks, InterruptedEvent, Options

from .client import OCTETS, TUS, Site, assert_refused, chunked, head, sha1
from .test_core import NOT_INTEGERS, recorded

if TYPE_CHECKING:
    from .client import Reply
    from .conftest import Serve


async def defer(site: Site, body: bytes = b"") -> str:
    """The path of a new upload without a length that has ``body`` already."""
    path = await site.create(Upload_Defer_Length="1")
    if body:
        assert (await site.patch(path, 0, body)).status == 204
    return path


def assert_deferred(reply: Reply, offset: int) -> None:
    assert (reply.status, reply.offset) == (200, offset)
    assert reply.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in reply.headers


def assert_declared(reply: Reply, offset: int, length: int) -> None:
    assert (reply.status, reply.offset) == (200, offset)
    assert reply.headers["Upload-Length"] == str(length)
    assert "Upload-Defer-Length" not in reply.headers


async def test_a_length_may_come_with_the_last_bytes(serve: Serve) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    path = await defer(site)
    assert_deferred(await site.head(path), 0)
    assert (await site.patch(path, 0, b"hello")).offset == 5
    assert_deferred(await site.head(path), 5)
    assert (await site.get(path)).status == 404
    assert finished == []
    reply = await site.patch(path, 5, b" world", Upload_Length="11")
    assert (reply.status, reply.offset) == (204, 11)
    assert_declared(await site.head(path), 11, 11)
    assert (await site.get(path)).body == b"hello world"
    assert len(finished) == 1


@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_a_length_may_come_with_an_empty_body_and_complete_the_upload(
    serve: Serve, body: bytes
) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    path = await defer(site, body)
    reply = await site.patch(path, len(body), b"", Upload_Length=str(len(body)))
    assert (reply.status, reply.offset) == (204, len(body))
    assert_declared(await site.head(path), len(body), len(body))
    assert (await site.get(path)).body == body
    assert len(finished) == 1


async def test_a_length_is_recorded_once(site: Site) -> None:
    path = await defer(site)
    assert (await site.patch(path, 0, b"", Upload_Length="11")).status == 204
    assert_declared(await site.head(path), 0, 11)
    for other in ("10", "12", "0"):
        reply = await site.patch(path, 0, b"hello", Upload_Length=other)
        assert_refused(reply, 400, "LENGTH_CHANGED")
    assert_declared(await site.head(path), 0, 11)
    assert (await site.patch(path, 0, b"hello", Upload_Length="11")).offset == 5
    assert (await site.patch(path, 5, b" world")).offset == 11
    reply = await site.patch(path, 11, b"", Upload_Length="12")
    assert_refused(reply, 400, "LENGTH_CHANGED")


async def test_a_length_given_at_creation_is_not_changed_either(site: Site) -> None:
    path = await site.create(11)
    reply = await site.patch(path, 0, b"hello", Upload_Length="5")
    assert_refused(reply, 400, "LENGTH_CHANGED")
    assert (await site.patch(path, 0, b"hello", Upload_Length="11")).offset == 5


@pytest.mark.parametrize(
    "value", ["0", "2", "01", "-1", "+1", "1.0", "true", "yes", "1,1", "1 1", "", "\u0661"]
)
@pytest.mark.parametrize("length", [True, False])
async def test_defer_takes_no_value_but_one(site: Site, value: str, length: bool) -> None:
    headers = {"Upload-Defer-Length": value, **({"Upload-Length": "5"} if length else {})}
    assert_refused(await site.request("POST", headers=headers), 400, "HEADER_MALFORMED")


async def test_a_repeated_defer_is_refused(site: Site) -> None:
    defer = "Upload-Defer-Length"
    fields = MultiDict([*TUS.items(), ("Content-Length", "0"), (defer, "1"), (defer, "1")])
    assert_refused(await site.raw(head("POST", "/files", fields)), 400, "HEADER_REPEATED")


async def test_blanks_around_the_one_do_not_matter(site: Site) -> None:
    assert_deferred(await site.head(await site.create(Upload_Defer_Length=" 1\t")), 0)


# A length that is refused is not recorded


@pytest.mark.parametrize("length", NOT_INTEGERS)
async def test_a_declared_length_that_is_no_integer_is_malformed(site: Site, length: str) -> None:
    path = await defer(site, b"hello")
    reply = await site.patch(path, 5, b"!", Upload_Length=length)
    assert_refused(reply, 400, "HEADER_MALFORMED")
    assert_deferred(await site.head(path), 5)


@pytest.mark.parametrize("body", [b"", b"!"])
@pytest.mark.parametrize(
    ("length", "status", "code"),
    [
        ("4", 400, "LENGTH_BELOW_OFFSET"),
        ("0", 400, "LENGTH_BELOW_OFFSET"),
        ("1001", 413, "MAX_SIZE_EXCEEDED"),
        (str(2**63 - 1), 413, "MAX_SIZE_EXCEEDED"),
        (str(2**63), 413, "MAX_SIZE_EXCEEDED"),
        ("9" * 100, 413, "MAX_SIZE_EXCEEDED"),
    ],
)
async def test_a_declared_length_that_cannot_be_is_refused(
    serve: Serve, length: str, status: int, code: str, body: bytes
) -> None:
    site = await serve(options=Options(max_size=1000))
    path = await defer(site, b"hello")
    assert_refused(await site.patch(path, 5, body, Upload_Length=length), status, code)
    assert_deferred(await site.head(path), 5)


async def test_a_length_beyond_63_bits_is_too_large_without_a_maximum_too(site: Site) -> None:
    path = await defer(site, b"hello")
    assert_refused(await site.patch(path, 5, b"!", Upload_Length=str(2**63)), 413)
    assert_deferred(await site.head(path), 5)
    reply = await site.patch(path, 5, b"!", Upload_Length=str(2**63 - 1))
    assert (reply.status, reply.offset) == (204, 6)


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Upload-Offset": "4"}, 409),
        ({"Upload-Offset": "x"}, 400),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Upload-Checksum": "sha1"}, 400),
        ({"Upload-Checksum": sha1(b"other")}, 460),
        ({"Upload-Length": "7"}, 413),
        ({"Tus-Resumable": "0.2.2"}, 412),
    ],
)
async def test_a_length_in_a_refused_request_is_not_recorded(
    site: Site, wrong: dict[str, str], status: int
) -> None:
    path = await defer(site, b"hello")
    fields = {**OCTETS, "Upload-Offset": "5", "Upload-Length": "11", **wrong}
    assert_refused(await site.request("PATCH", path, fields, b" world"), status)
    assert_deferred(await site.head(path), 5)
    assert (await site.patch(path, 5, b" you", Upload_Length="9")).offset == 9


@pytest.mark.parametrize("size", [3, 300_000])
async def test_a_length_is_not_recorded_if_a_checksummed_body_is_cut_short(
    serve: Serve, size: int
) -> None:
    hooks = Hooks()
    interrupted = asyncio.Event()

    @hooks.on_interrupted
    def notice(event: InterruptedEvent) -> None:
        interrupted.set()

    site = await serve(hooks=hooks)
    path = await defer(site, b"hello")
    fields = {**TUS, **OCTETS, "Upload-Offset": "5", "Upload-Length": "1000005"}
    fields.update({"Content-Length": "1000000", "Upload-Checksum": sha1(b"x")})
    connection = await site.connect()
    await connection.send(head("PATCH", path, fields) + b"x" * size)
    await connection.close()
    async with asyncio.timeout(5):
        await interrupted.wait()
    assert_deferred(await site.head(path), 5)


@pytest.mark.parametrize("data", [b" world", b" world" * 50_000])
async def test_a_length_with_a_right_checksum_is_recorded(site: Site, data: bytes) -> None:
    path = await defer(site, b"hello")
    length = 5 + len(data)
    reply = await site.patch(path, 5, data, Upload_Length=str(length), Upload_Checksum=sha1(data))
    assert (reply.status, reply.offset) == (204, length)
    assert_declared(await site.head(path), length, length)


# Bodies that go on too long


async def test_chunks_beyond_a_length_just_declared(serve: Serve) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    path = await defer(site, b"hello")
    body = chunked(b" world", b"!!!")
    reply = await site.patch(path, 5, body, Upload_Length="11", Transfer_Encoding="chunked")
    assert_refused(reply, 413, "BODY_TOO_LONG")
    assert (await site.get(path)).body == b"hello world"
    assert len(finished) == 1


async def test_announced_data_beyond_the_maximum_is_refused_whole(serve: Serve) -> None:
    site = await serve(options=Options(max_size=8))
    path = await defer(site, b"hello")
    assert_refused(await site.patch(path, 5, b" wor"), 413, "MAX_SIZE_EXCEEDED")
    assert_deferred(await site.head(path), 5)
    assert (await site.patch(path, 5, b" wo")).offset == 8
    assert_refused(await site.patch(path, 8, b"!"), 413, "MAX_SIZE_EXCEEDED")
    assert (await site.patch(path, 8, b"", Upload_Length="8")).status == 204
    assert (await site.get(path)).body == b"hello wo"


@pytest.mark.parametrize("size", [9, 200_000])
async def test_chunks_beyond_the_maximum_are_refused(serve: Serve, size: int) -> None:
    site = await serve(options=Options(max_size=size - 1))
    path = await defer(site)
    body = chunked(*[b"x" * (size // 3 + 1)] * 3)
    reply = await site.patch(path, 0, body, Transfer_Encoding="chunked")
    assert_refused(reply, 413, "MAX_SIZE_EXCEEDED")
    inspected = await site.head(path)
    assert_deferred(inspected, inspected.offset)
    assert inspected.offset <= size - 1


@pytest.mark.parametrize("chunks", [True, False])
async def test_a_creation_with_too_much_data_is_refused(serve: Serve, chunks: bool) -> None:
    site = await serve(options=Options(max_size=8))
    fields = {**OCTETS, "Upload-Defer-Length": "1"}
    if chunks:
        fields["Transfer-Encoding"] = "chunked"
    body = chunked(b"hello", b" world") if chunks else b"hello world"
    reply = await site.request("POST", headers=fields, body=body)
    assert_refused(reply, 413, "MAX_SIZE_EXCEEDED")
    if chunks:
        assert (await site.head(reply.path)).offset <= 8
    else:
        assert "Location" not in reply.headers


async def test_creation_with_upload_of_a_deferred_length(site: Site) -> None:
    fields = {**OCTETS, "Upload-Defer-Length": "1"}
    reply = await site.request("POST", headers=fields, body=b"hello")
    assert (reply.status, reply.offset) == (201, 5)
    assert_deferred(await site.head(reply.path), 5)
    assert (await site.patch(reply.path, 5, b"!", Upload_Length="6")).offset == 6
    assert (await site.get(reply.path)).body == b"hello!"
