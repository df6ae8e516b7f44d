"""The core protocol, black box: what PROTOCOL.md's rows on HEAD and PATCH demand."""

from __future__ import annotations

import asyncio
import errno
import gzip
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from multidict import MultiDict

from aiotus_server import Hooks, MemoryStore, Refuse

from .client import OCTETS, TUS, DataPath, Site, assert_refused, chunked, head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiotus_server import Upload
    from aiotus_server.body import Body

    from .conftest import Serve

# What Python's int() takes half of; all of it is 400 wherever an integer is wanted.
NOT_INTEGERS = [
    "",
    "+5",
    "-1",
    "-0",
    "1_0",
    "5.0",
    "1e1",
    "0x1",
    "0b1",
    "1 0",
    "1,0",
    "five",
    "NaN",
    "\u0663",  # ARABIC-INDIC DIGIT THREE
    "\uff15",  # FULLWIDTH DIGIT FIVE
    "\u00b2",  # SUPERSCRIPT TWO
    "\u00a05",  # a blank that is none in HTTP
]


def recorded(hooks: Hooks) -> list[str]:
    """The ids of uploads in the order in which they were finished."""
    finished: list[str] = []
    hooks.post_finish.append(lambda event: finished.append(event.upload.upload_id))
    return finished


async def test_upload_in_two_patches(site: Site) -> None:
    path = await site.create(11)
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.offset) == (204, 5)
    reply = await site.head(path)
    assert (reply.status, reply.offset, reply.headers["Upload-Length"]) == (200, 5, "11")
    reply = await site.patch(path, 5, b" world")
    assert (reply.status, reply.offset) == (204, 11)
    assert (await site.get(path)).body == b"hello world"


# HEAD


@pytest.mark.parametrize("stored", [b"", b"hello", b"hello world"])
async def test_head_tells_the_offset_and_is_never_cached(site: Site, stored: bytes) -> None:
    path = await site.create(11)
    await site.patch(path, 0, stored)
    reply = await site.head(path)
    assert reply.status == 200
    assert reply.headers["Upload-Offset"] == str(len(stored))
    assert reply.headers["Upload-Length"] == "11"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert "Upload-Defer-Length" not in reply.headers
    assert "Upload-Metadata" not in reply.headers
    assert "Upload-Concat" not in reply.headers
    assert reply.headers.get("Content-Length", "0") == "0"


async def test_head_has_no_body_so_the_next_answer_follows_it(site: Site) -> None:
    path = await site.create(3)
    connection = await site.connect()
    for _ in range(2):
        await connection.send(head("HEAD", path, TUS) + head("HEAD", f"{path}x", TUS))
        assert (await connection.reply(method="HEAD")).status == 200
        assert (await connection.reply(method="HEAD")).status == 404


async def test_every_refused_head_is_marked_as_not_to_be_cached(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    def judge(event: object) -> None:
        match getattr(event, "upload_id", None):
            case "refused":
                raise Refuse(403, "no")
            case "forbidden":
                raise web.HTTPForbidden

    site = await serve(hooks=hooks)
    terminated = await site.create(1)
    await site.delete(terminated)
    assert_refused(await site.head("/files/unknown"), 404, method="HEAD")
    assert_refused(await site.head("/files/%2e%2e%2f"), 404, method="HEAD")
    assert_refused(await site.head("/files"), 405, method="HEAD")
    reply = await site.head(terminated)
    assert reply.status in (404, 410)
    assert_refused(reply, reply.status, method="HEAD")
    reply = await site.request("HEAD", terminated, tus=False)
    assert_refused(reply, 412, method="HEAD")
    assert_refused(await site.head("/files/refused"), 403, method="HEAD")
    assert_refused(await site.head("/files/forbidden"), 403, method="HEAD")


# Which upload

STRANGE_IDS = [
    "unknown",
    "0" * 32,
    "a" * 65,
    "a" * 5000,
    "expiry",
    "a/b",
    "a%2Fb",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2fsecret",
    "..%5c..%5csecret",
    "%00",
    "%0d%0aX-Evil:%20yes",
    "%ff",
    "%c3%bc",
    "%25",
    "%",
    "-",
    ".",
    ".info",
    ".lock",
    "*",
]


@pytest.mark.parametrize("upload_id", STRANGE_IDS)
async def test_an_id_that_is_unknown_or_malformed_is_not_found(site: Site, upload_id: str) -> None:
    path = f"/files/{upload_id}"
    connection = await site.connect()
    for method in ("HEAD", "PATCH", "DELETE", "GET"):
        fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "0"}
        await connection.send(head(method, path, fields))
        reply = await connection.reply(method=method)
        if upload_id == ".":
            assert reply.status in (404, 405)  # a dot segment: the collection
        else:
            assert_refused(reply, 404, method=method)


@pytest.mark.parametrize(
    "behind",
    [".info", ".lock", ".tmp", "/", "%2f", "%00", "%0a", "/..", "/info", "%20", ";v=1", "x"],
)
async def test_what_stands_behind_an_id_makes_another_id(site: Site, behind: str) -> None:
    path = await site.upload(b"hello")
    connection = await site.connect()
    for method in ("HEAD", "PATCH", "DELETE", "GET"):
        fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "0"}
        await connection.send(head(method, path + behind, fields))
        assert (await connection.reply(method=method)).status in (404, 405)
    assert (await site.get(path)).body == b"hello"


@pytest.mark.parametrize("way", ["/..", "/../..", "/../../../../etc/passwd", "/%2e%2e/%2e%2e"])
async def test_a_path_that_leads_out_of_the_prefix_is_not_found(site: Site, way: str) -> None:
    for method in ("HEAD", "GET", "DELETE"):
        reply = await site.raw(head(method, f"/files{way}", TUS), method=method)
        assert reply.status in (404, 405)


async def test_an_id_may_be_percent_encoded_and_have_a_query(site: Site) -> None:
    path = await site.upload(b"hello")
    upload_id = path.rpartition("/")[2]
    encoded = "".join(f"%{ord(letter):02x}" for letter in upload_id)
    assert (await site.head(f"/files/{encoded}")).offset == 5
    assert (await site.head(f"{path}?token=1")).offset == 5


async def test_a_terminated_upload_is_gone_for_every_method(site: Site) -> None:
    path = await site.create(5)
    assert (await site.delete(path)).status == 204
    for reply in (await site.delete(path), await site.patch(path, 0, b"hello")):
        assert reply.status in (404, 410)
        assert_refused(reply, reply.status)
    assert (await site.get(path)).status in (404, 410)


# PATCH: the header section


@pytest.mark.parametrize(
    "content_type",
    [
        "application/offset+octet-stream",
        "application/offset+octet-stream; charset=utf-8",
        "application/offset+octet-stream;x=y",
        "APPLICATION/Offset+Octet-Stream",
        "application/offset+octet-stream ;q",
        "  application/offset+octet-stream\t",
    ],
)
async def test_patch_takes_the_content_type_in_any_spelling(site: Site, content_type: str) -> None:
    path = await site.create(5)
    assert (await site.patch(path, 0, b"hello", Content_Type=content_type)).status == 204


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/octet-stream",
        "application/offset+octet-streams",
        "application/x-www-form-urlencoded",
        "text/plain; application/offset+octet-stream",
        "text/plain, application/offset+octet-stream",
        "multipart/form-data; boundary=x",
        "offset+octet-stream",
    ],
)
@pytest.mark.parametrize("body", [b"hello", b""])
async def test_patch_refuses_any_other_content_type(
    site: Site, content_type: str, body: bytes
) -> None:
    path = await site.create(5)
    assert_refused(await site.patch(path, 0, body, Content_Type=content_type), 415)
    assert (await site.head(path)).offset == 0


async def test_patch_refuses_a_missing_or_repeated_content_type(site: Site) -> None:
    path = await site.create(5)
    fields = MultiDict({**TUS, "Upload-Offset": "0", "Content-Length": "5"})
    assert_refused(await site.raw(head("PATCH", path, fields) + b"hello"), 415)
    fields.extend([*OCTETS.items(), *OCTETS.items()])
    reply = await site.raw(head("PATCH", path, fields) + b"hello")
    assert reply.status in (400, 415)  # aiohttp's parser knows that it may come once only
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "gzip, identity", "unheard"])
async def test_patch_refuses_a_body_with_a_content_coding(site: Site, coding: str) -> None:
    data = gzip.compress(b"hello")
    path = await site.create(len(data))
    assert_refused(await site.patch(path, 0, data, Content_Encoding=coding), 415)
    assert_refused(
        await site.patch(
            path, 0, chunked(data), Content_Encoding=coding, Transfer_Encoding="chunked"
        ),
        415,
    )
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("coding", ["br", "zstd"])
async def test_patch_refuses_a_coding_that_aiohttp_may_not_know(site: Site, coding: str) -> None:
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello", Content_Encoding=coding)
    assert reply.status in (400, 415)  # without the library for it the parser refuses
    assert (await site.head(path)).offset == 0


async def test_identity_is_no_coding_and_nothing_has_none(site: Site) -> None:
    path = await site.create(5)
    reply = await site.patch(path, 0, b"", Content_Encoding="gzip")
    assert (reply.status, reply.offset) == (204, 0)
    reply = await site.patch(path, 0, b"hello", Content_Encoding="identity")
    assert (reply.status, reply.offset) == (204, 5)


async def test_gzipped_bytes_are_stored_as_they_are(site: Site) -> None:
    data = gzip.compress(b"hello" * 1000)
    path = await site.upload(data)
    assert (await site.get(path)).body == data


async def test_patch_needs_an_offset(site: Site) -> None:
    path = await site.create(5)
    reply = await site.request("PATCH", path, OCTETS, b"hello")
    assert_refused(reply, 400, "HEADER_MISSING")
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("offset", NOT_INTEGERS)
async def test_an_offset_that_is_no_integer_is_malformed(site: Site, offset: str) -> None:
    path = await site.create(20)
    await site.patch(path, 0, b"hello")
    assert_refused(await site.patch(path, 0, b"x", Upload_Offset=offset), 400, "HEADER_MALFORMED")
    assert (await site.head(path)).offset == 5


@pytest.mark.parametrize("offset", ["5", "  5", "5  ", "\t5 \t", "005"])
async def test_blanks_around_a_value_are_not_part_of_it(site: Site, offset: str) -> None:
    path = await site.create(20)
    await site.patch(path, 0, b"hello")
    assert (await site.patch(path, 5, b"x", Upload_Offset=offset)).offset == 6


@pytest.mark.parametrize(
    "offset", ["0", "4", "6", "20", "21", str(2**63 - 1), str(2**63), str(2**64), "9" * 7000]
)
@pytest.mark.parametrize("body", [b"x", b""])
async def test_another_offset_than_the_current_one_is_a_conflict(
    site: Site, offset: str, body: bytes
) -> None:
    path = await site.create(20)
    await site.patch(path, 0, b"hello")
    reply = await site.patch(path, 0, body, Upload_Offset=offset)
    assert_refused(reply, 409, "OFFSET_MISMATCH")
    assert reply.offset == 5
    assert (await site.head(path)).offset == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("Upload-Offset", "0"), ("Upload-Length", "5"), ("Upload-Checksum", "sha1 x")],
)
async def test_a_repeated_header_is_refused(site: Site, name: str, value: str) -> None:
    path = await site.create(5)
    fields = MultiDict({**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "5"})
    fields[name] = value
    fields.add(name, value)
    reply = await site.raw(head("PATCH", path, fields) + b"hello")
    assert_refused(reply, 400, "HEADER_REPEATED")
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("name", ["Upload-Length", "Upload-Checksum"])
async def test_an_empty_header_is_refused(site: Site, name: str) -> None:
    path = await site.create(5)
    fields = {**OCTETS, "Upload-Offset": "0", name: ""}
    assert_refused(await site.request("PATCH", path, fields, b"hello"), 400, "HEADER_MALFORMED")
    assert (await site.head(path)).offset == 0


# PATCH: the body


async def test_a_body_longer_than_what_is_missing_is_refused_whole(site: Site) -> None:
    path = await site.create(11)
    assert_refused(await site.patch(path, 0, b"hello world!"), 413, "BODY_TOO_LONG")
    assert (await site.head(path)).offset == 0
    await site.patch(path, 0, b"hello")
    assert_refused(await site.patch(path, 5, b" world!"), 413, "BODY_TOO_LONG")
    assert (await site.head(path)).offset == 5


async def test_a_body_that_is_too_long_is_refused_before_it_comes(site: Site) -> None:
    path = await site.create(11)
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "12"}
    await connection.send_head("PATCH", path, fields)
    assert_refused(await connection.reply(), 413)


@pytest.mark.parametrize("length", [5, 300_000])
@pytest.mark.parametrize("split", [1, 4, 5, 100_000])
async def test_chunks_beyond_the_length_complete_the_upload_and_are_refused(
    serve: Serve, length: int, split: int
) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    data = b"0123456789" * (length // 10 + 1)
    if len(data) / split > 1000:
        split = 100_000
    pieces = [data[at : at + split] for at in range(0, len(data), split)]
    path = await site.create(length)
    reply = await site.patch(path, 0, chunked(*pieces), Transfer_Encoding="chunked")
    assert_refused(reply, 413, "BODY_TOO_LONG")
    assert (await site.head(path)).offset == length
    assert (await site.get(path)).body == data[:length]
    assert finished == [path.rpartition("/")[2]]


async def test_a_chunked_body_of_any_split_is_stored(site: Site) -> None:
    data = b"hello world"
    path = await site.create(len(data))
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    connection = await site.connect()
    await connection.send_head("PATCH", path, fields)
    for byte in chunked(data[:5], data[5:6], data[6:]):
        await connection.send(bytes([byte]))
        await asyncio.sleep(0)
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (204, 11)
    await connection.send(head("HEAD", path, TUS))
    assert (await connection.reply(method="HEAD")).offset == 11
    assert (await site.get(path)).body == data


@pytest.mark.parametrize(
    "ending",
    [b"zz\r\n", b"5 hello\r\n", b"-5\r\nhello\r\n", b"5\r\nhellooo\r\n", b"\r\n", b"5\nhello\n"],
)
async def test_of_a_badly_chunked_body_what_came_is_kept(site: Site, ending: bytes) -> None:
    path = await site.create(100)
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    await connection.send(head("PATCH", path, fields) + b"5\r\nhello\r\n" + ending)
    try:
        reply = await connection.reply()
    except asyncio.IncompleteReadError:
        pass
    else:
        assert reply.status == 400
        assert await connection.closed()
    offset = (await site.head(path)).offset
    assert offset == (10 if ending.startswith(b"5\r\nhello") else 5)


@pytest.mark.parametrize("hooked", [True, False])
async def test_a_patch_without_a_body_changes_nothing(serve: Serve, hooked: bool) -> None:
    hooks = Hooks()
    finished = recorded(hooks) if hooked else []
    site = await serve(hooks=hooks)
    path = await site.create(5)
    for fields in ({"Content-Length": "0"}, {"Transfer-Encoding": "chunked"}, {}):
        body = chunked() if "Transfer-Encoding" in fields else b""
        everything = {**TUS, **OCTETS, "Upload-Offset": "0", **fields}
        reply = await site.raw(head("PATCH", path, everything) + body)
        assert (reply.status, reply.offset) == (204, 0)
    await site.patch(path, 0, b"hello")
    for fields in ({"Content-Length": "0"}, {"Transfer-Encoding": "chunked"}, {}):
        body = chunked() if "Transfer-Encoding" in fields else b""
        everything = {**TUS, **OCTETS, "Upload-Offset": "5", **fields}
        reply = await site.raw(head("PATCH", path, everything) + body)
        assert (reply.status, reply.offset) == (204, 5)
    assert len(finished) == hooked


async def test_a_content_length_may_have_any_number_of_zeros_before_it(site: Site) -> None:
    """int() reads no more than 4300 digits."""
    zeros = {"Content-Length": "0" * 5000}
    reply = await site.request("POST", headers={"Upload-Length": "5", **zeros})
    assert reply.status == 201
    begin = {**OCTETS, "Upload-Offset": "0", "Content-Length": "0" * 5000 + "5"}
    assert (await site.request("PATCH", reply.path, begin, b"hello")).status == 204
    connection = await site.begin(
        await site.create(5), 0, b"", length=None, Content_Length="0" * 5000 + "5"
    )
    assert (await connection.reply()).status == 400
    assert (await site.get(reply.path)).body == b"hello"


async def test_nothing_may_follow_the_end(site: Site) -> None:
    path = await site.upload(b"hello")
    assert_refused(await site.patch(path, 5, b"!"), 413)
    reply = await site.patch(path, 5, chunked(b"!"), Transfer_Encoding="chunked")
    assert_refused(reply, 413)
    assert (await site.get(path)).body == b"hello"


@pytest.mark.data_paths(*DataPath)
async def test_a_big_body_arrives_byte_for_byte(site: Site) -> None:
    data = bytes(range(256)) * 4 * 1024 * 5 + b"odd"
    path = await site.upload(data)
    assert (await site.get(path)).body == data


async def test_a_body_in_drops_counts_when_it_has_come(site: Site) -> None:
    path = await site.create(6)
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "6"}
    whole = head("PATCH", path, fields) + b"hello!"
    for byte in whole:
        await connection.send(bytes([byte]))
        await asyncio.sleep(0)
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (204, 6)


async def test_requests_follow_one_another_on_one_connection(site: Site) -> None:
    path = await site.create(10)
    connection = await site.connect()
    stream = b"".join(
        head("PATCH", path, {**TUS, **OCTETS, "Upload-Offset": str(at), "Content-Length": "2"})
        + b"%d!" % (at // 2)
        for at in range(0, 10, 2)
    )
    await connection.send(stream + head("GET", path))
    offsets = [(await connection.reply()).offset for _ in range(5)]
    assert offsets == [2, 4, 6, 8, 10]
    assert (await connection.reply()).body == b"0!1!2!3!4!"


async def test_uploads_do_not_disturb_one_another(site: Site) -> None:
    async def upload(letter: int) -> bytes:
        data = bytes([letter]) * 20_000
        path = await site.create(len(data))
        for at in range(0, len(data), 5000):
            assert (await site.patch(path, at, data[at : at + 5000])).offset == at + 5000
        return (await site.get(path)).body

    bodies = await asyncio.gather(*map(upload, range(20)))
    assert bodies == [bytes([letter]) * 20_000 for letter in range(20)]


# A disk that refuses


class Failing(MemoryStore):
    """Keeps 5 bytes of an append, then refuses as a disk does."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.broken = False

    async def get(self, upload_id: str) -> Upload:
        if self.broken:
            raise OSError(self.code, "the disk refuses")
        return await super().get(upload_id)

    async def append(self, upload: Upload, body: Body) -> Upload:
        room = 5 - upload.offset

        class Some:
            atomic = body.atomic
            error = None

            def __aiter__(self) -> AsyncIterator[bytes]:
                return self.pieces()

            async def pieces(self) -> AsyncIterator[bytes]:
                async for piece in body:
                    yield piece[:room]
                    return

        await super().append(upload, Some())  # type: ignore[arg-type]
        raise OSError(self.code, "the disk refuses")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_keeps_what_it_took(serve: Serve, code: int) -> None:
    site = await serve(Failing(code))
    path = await site.create(500_000)
    assert_refused(await site.patch(path, 0, bytes(500_000)), 507, "STORE_FULL")
    assert (await site.head(path)).offset == 5


async def test_an_error_of_the_disk_keeps_what_it_took(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve(Failing(errno.EIO))
    path = await site.create(500_000)
    assert_refused(await site.patch(path, 0, bytes(500_000)), 500, "STORE_FAILED")
    assert (await site.head(path)).offset == 5
    assert "the disk refuses" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
async def test_head_closes_the_connection_rather_than_tell_of_a_failure(
    serve: Serve, code: int
) -> None:
    store = Failing(code)
    site = await serve(store)
    path = await site.create(5)
    store.broken = True
    connection = await site.connect()
    await connection.send(head("HEAD", path, TUS))
    assert await connection.closed()
    reply = await site.patch(path, 0, b"hello")
    assert reply.status in (500, 503, 507)
    store.broken = False
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, chunked"])
async def test_patch_refuses_a_transfer_coding_beside_chunks(site: Site, coding: str) -> None:
    path = await site.create(5)
    body = b"5\r\nhello\r\n0\r\n\r\n"
    reply = await site.patch(path, 0, body, Transfer_Encoding=coding)
    assert reply.status in (400, 415)  # 400: aiohttp's parser did not take it
    assert (await site.head(path)).offset == 0
