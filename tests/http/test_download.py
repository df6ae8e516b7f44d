"""GET, black box: complete uploads come back, and harm no browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from multidict import MultiDict

from aiotus_server import Expiry, HookEvent, Hooks, MemoryStore, Options

from .client import OCTETS, TUS, DataPath, Site, assert_refused, head

if TYPE_CHECKING:
    from .client import Reply
    from .conftest import Serve

DATA = b"0123456789"

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)


def b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


async def test_a_complete_upload_comes_back(site: Site) -> None:
    path = await site.upload(DATA)
    reply = await site.get(path)
    assert (reply.status, reply.body) == (200, DATA)
    assert reply.headers["Content-Length"] == "10"
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["ETag"][0] == reply.headers["ETag"][-1] == '"'
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert reply.headers["Content-Disposition"] == "attachment"
    modified = parsedate_to_datetime(reply.headers["Last-Modified"])
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=5)
    assert reply.headers["Last-Modified"].endswith(" GMT")


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_head_that_is_overridden_to_get_has_no_body(site: Site, size: int) -> None:
    """Its bytes would be taken for the next answer, by whoever shares the connection."""
    path = await site.upload(b"x " * (size // 2))
    override = {"X-HTTP-Method-Override": "GET"}
    connection = await site.connect()
    await connection.send(head("HEAD", path, override) + head("HEAD", path, TUS))
    reply = await connection.reply(method="HEAD")
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(size))
    assert (await connection.reply(method="HEAD")).offset == size


async def test_what_is_not_complete_is_not_given_out(site: Site) -> None:
    unfinished = await site.create(11)
    await site.patch(unfinished, 0, b"hello")
    deferred = await site.create(Upload_Defer_Length="1")
    partial = await site.create(5, Upload_Concat="partial")
    waiting = await site.create(Upload_Concat=f"final;{partial}")
    for path in (unfinished, deferred, partial, waiting, "/files/unknown"):
        assert_refused(await site.get(path), 404, "UPLOAD_NOT_FOUND")
    await site.patch(partial, 0, b"hello")
    assert (await site.get(partial)).body == b"hello"


async def test_a_complete_upload_does_not_expire(serve: Serve) -> None:
    site = await serve(options=Options(expiry=Expiry(timedelta(microseconds=1))))
    reply = await site.request("POST", headers={**OCTETS, "Upload-Length": "10"}, body=DATA)
    assert reply.status == 201
    await asyncio.sleep(0.001)
    assert (await site.get(reply.path)).body == DATA
    assert (await site.head(reply.path)).status == 200
    unfinished = await site.create(5)
    await asyncio.sleep(0.001)
    assert_refused(await site.patch(unfinished, 0, b"hello"), 410, "UPLOAD_EXPIRED")
    assert (await site.get(unfinished)).status in (404, 410)


async def test_get_does_not_wait_for_a_lock(serve: Serve) -> None:
    hooks = Hooks()
    terminating, downloaded = asyncio.Event(), asyncio.Event()

    @hooks.pre_terminate
    async def wait(event: HookEvent) -> None:
        terminating.set()
        await downloaded.wait()

    site = await serve(hooks=hooks)
    path = await site.upload(DATA)
    delete = asyncio.create_task(site.delete(path))
    await terminating.wait()
    assert (await site.get(path)).body == DATA
    downloaded.set()
    assert (await delete).status == 204


@pytest.mark.parametrize("store", [None, MemoryStore])
async def test_a_big_upload_comes_back_whole_and_in_parts(
    serve: Serve, store: type[MemoryStore] | None
) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(800_000))
    site = await serve(store() if store else None)
    path = await site.upload(data)
    assert (await site.get(path)).body == data
    for first, last in ((0, 0), (262_143, 262_144), (1, 3_199_998), (3_199_999, 3_199_999)):
        reply = await site.get(path, Range=f"bytes={first}-{last}")
        assert (reply.status, reply.body) == (206, data[first : last + 1])


async def test_a_client_that_leaves_in_the_middle_harms_nobody(site: Site) -> None:
    path = await site.upload(bytes(8_000_000))
    for _ in range(3):
        connection = await site.connect()
        await connection.send(head("GET", path))
        await connection.reader.readexactly(1000)
        connection.reset()
    assert (await site.get(path, Range="bytes=-1")).body == b"\0"


async def test_downloads_follow_one_another_on_one_connection(site: Site) -> None:
    path = await site.upload(DATA)
    connection = await site.connect()
    await connection.send(
        head("GET", path)
        + head("GET", path, {"Range": "bytes=2-3"})
        + head("GET", path, {"Range": "bytes=99-"})
        + head("GET", path, {"If-None-Match": "*"})
        + head("HEAD", path, TUS)
    )
    assert (await connection.reply()).body == DATA
    assert (await connection.reply()).body == b"23"
    assert (await connection.reply()).status == 416
    assert (await connection.reply()).status == 304
    assert (await connection.reply(method="HEAD")).offset == 10


async def test_an_old_client_can_download(site: Site) -> None:
    path = await site.upload(DATA)
    reply = await site.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert (reply.status, reply.body) == (200, DATA)
    assert "Transfer-Encoding" not in reply.headers


# Ranges


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=0-", 0, 9),
        ("bytes=5-", 5, 9),
        ("bytes=9-9", 9, 9),
        ("bytes=3-100", 3, 9),
        ("bytes=3-9999999999999999999", 3, 9),
        ("bytes=-1", 9, 9),
        ("bytes=-5", 5, 9),
        ("bytes=-10", 0, 9),
        ("bytes=-100", 0, 9),
        (" bytes=03-04\t", 3, 4),
    ],
)
async def test_a_range_that_can_be_given(site: Site, asked: str, first: int, last: int) -> None:
    path = await site.upload(DATA)
    reply = await site.get(path, Range=asked)
    assert (reply.status, reply.body) == (206, DATA[first : last + 1])
    assert reply.headers["Content-Range"] == f"bytes {first}-{last}/10"
    assert reply.headers["Content-Length"] == str(last - first + 1)
    assert reply.headers["ETag"] == (await site.get(path)).headers["ETag"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "asked", ["bytes=10-", "bytes=10-20", "bytes=100-", "bytes=-0", "bytes=9223372036854775807-"]
)
async def test_a_range_behind_the_end(site: Site, asked: str) -> None:
    path = await site.upload(DATA)
    reply = await site.get(path, Range=asked)
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */10")
    assert DATA not in reply.body
    assert reply.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=+1-",
        "bytes=1_0-",
        "bytes=1.0-",
        "bytes=--5",
        "bytes=0-1-2",
        "bytes=\u0663-",
        "bytes=-\u0663",
        "bytes=\uff11-2",
        "items=0-1",
        "0-1",
        "bytes=0-1,3-4",
    ],
)
async def test_a_range_that_means_nothing_here_is_ignored(site: Site, asked: str) -> None:
    path = await site.upload(DATA)
    reply = await site.get(path, Range=asked)
    assert (reply.status, reply.body) == (200, DATA)
    assert "Content-Range" not in reply.headers


async def test_two_range_headers_are_ignored(site: Site) -> None:
    path = await site.upload(DATA)
    fields = MultiDict([("Range", "bytes=0-1"), ("Range", "bytes=0-1")])
    assert (await site.raw(head("GET", path, fields))).body == DATA


async def test_a_range_of_an_empty_upload(site: Site) -> None:
    path = await site.create(0)
    for asked in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        reply = await site.get(path, Range=asked)
        assert reply.status in (200, 416)
        assert reply.headers.get("Content-Range", "bytes */0") == "bytes */0"


# Conditions


async def validators(site: Site, path: str) -> tuple[str, str]:
    """ETag and Last-Modified."""
    headers = (await site.get(path)).headers
    return headers["ETag"], headers["Last-Modified"]


def shifted(date: str, **delta: int) -> str:
    moved = parsedate_to_datetime(date) + timedelta(**delta)
    return moved.strftime("%a, %d %b %Y %H:%M:%S GMT")


def assert_known(reply: Reply) -> None:
    """304, which has what a cache may have to update and no length of something else."""
    assert (reply.status, reply.body) == (304, b"")
    assert "ETag" in reply.headers
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert reply.headers.get("Content-Length", "10") == "10"


async def test_etags_name_the_bytes(site: Site) -> None:
    one, two = await site.upload(DATA), await site.upload(DATA[::-1])
    assert (await validators(site, one))[0] != (await validators(site, two))[0]
    assert await validators(site, one) == await validators(site, one)


async def test_what_the_client_knows_is_not_sent_again(site: Site) -> None:
    path = await site.upload(DATA)
    etag, modified = await validators(site, path)
    for known in (etag, f"W/{etag}", f'"x", {etag}', f'"x",W/{etag} , "y"', "*"):
        assert_known(await site.get(path, If_None_Match=known))
        assert_known(await site.get(path, If_None_Match=known, Range="bytes=0-1"))
    for other in ('"x"', f"{etag[:-1]}x{etag[-1]}", etag.strip('"'), "x"):
        assert (await site.get(path, If_None_Match=other)).body == DATA
        # "A recipient MUST ignore If-Modified-Since if the request contains If-None-Match."
        assert (await site.get(path, If_None_Match=other, If_Modified_Since=modified)).body == DATA
    assert_known(await site.get(path, If_Modified_Since=modified))
    assert_known(await site.get(path, If_Modified_Since=shifted(modified, days=1)))
    earlier = shifted(modified, seconds=-1)
    assert (await site.get(path, If_Modified_Since=earlier)).body == DATA


async def test_what_must_match_and_does_not_is_refused(site: Site) -> None:
    path = await site.upload(DATA)
    etag, modified = await validators(site, path)
    for match in (etag, f'"x", {etag}', "*"):
        assert (await site.get(path, If_Match=match)).body == DATA
    for other in ('"x"', f"W/{etag}"):
        assert (await site.get(path, If_Match=other)).status == 412
    assert (await site.get(path, If_Unmodified_Since=modified)).body == DATA
    reply = await site.get(path, If_Unmodified_Since=shifted(modified, seconds=-1))
    assert (reply.status, reply.headers["Tus-Resumable"]) == (412, "1.0.0")
    assert DATA not in reply.body


async def test_a_range_of_what_the_client_has_begun(site: Site) -> None:
    path = await site.upload(DATA)
    etag, modified = await validators(site, path)
    for same in (etag, modified):
        reply = await site.get(path, Range="bytes=5-", If_Range=same)
        assert (reply.status, reply.body) == (206, DATA[5:])
    for other in ('"x"', f"W/{etag}", shifted(modified, seconds=-1), "nonsense", ""):
        reply = await site.get(path, Range="bytes=5-", If_Range=other)
        assert (reply.status, reply.body) == (200, DATA)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "yesterday",
        "Mon, 01 Jan",
        "Mon, 32 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2024 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2024 00:00:00 +9999",
    ],
)
@pytest.mark.parametrize("name", ["If_Modified_Since", "If_Unmodified_Since", "If_Range"])
async def test_a_date_that_cannot_be_read_is_ignored(site: Site, name: str, date: str) -> None:
    path = await site.upload(DATA)
    reply = await site.get(path, **{name: date, "Range": "bytes=0-"})
    assert reply.status in (200, 206)
    assert reply.body == DATA


# Type and name


async def described(site: Site, **metadata: str | bytes) -> tuple[str, str, str | None]:
    """Content-Type, inline or attachment, and the name that a browser would save to."""
    header = ",".join(f"{key} {b64(value)}" for key, value in metadata.items())
    path = await site.upload(DATA, Upload_Metadata=header)
    reply = await site.get(path)
    assert (reply.status, reply.body) == (200, DATA)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert not {"X-Evil", "Set-Cookie"} & set(reply.headers)
    assert len(reply.headers.getall("Content-Disposition")) == 1
    assert len(reply.headers.getall("Content-Type")) == 1
    disposition = reply.headers["Content-Disposition"]
    return reply.headers["Content-Type"], disposition.partition(";")[0], saved_name(disposition)


def saved_name(disposition: str) -> str | None:
    """RFC 6266: "Recipients SHOULD pick the 'filename*' parameter and ignore 'filename'." """
    message = Message()
    message["Content-Disposition"] = disposition
    encoded = re.search(r"; filename\*=UTF-8''([!-~]+)$", disposition)
    return unquote(encoded[1], errors="strict") if encoded else message.get_filename()


@pytest.mark.parametrize(
    "media_type",
    ["image/png", "image/jpeg", "video/mp4", "audio/mpeg", "application/pdf", "text/plain"],
)
async def test_harmless_types_are_shown(site: Site, media_type: str) -> None:
    kind, way, name = await described(site, filetype=media_type, filename="a.bin")
    assert (kind.partition(";")[0], way, name) == (media_type, "inline", "a.bin")
    kind, way, name = await described(site, type=media_type.upper(), name="a.bin")
    assert (kind.partition(";")[0], way, name) == (media_type, "inline", "a.bin")


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "TEXT/HTML",
        "text/html; charset=utf-8",
        " text/html",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/javascript",
        "text/javascript",
        "application/x-shockwave-flash",
        "multipart/x-mixed-replace",
        "application/zip",
    ],
)
async def test_types_that_may_run_something_are_saved(site: Site, media_type: str) -> None:
    _, way, _ = await described(site, filetype=media_type)
    assert way == "attachment"


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "nonsense",
        "text/",
        "/plain",
        "a/b/c",
        "text/plain\r\nX-Evil: 1",
        "text/plain\nX-Evil: 1",
        "text/pl\u00e4in",
        "text/plain, text/html",
        "text/plain text/html",
        b"\xff/\xfe",
        "x" * 3000 + "/y",
    ],
)
async def test_what_is_no_type_becomes_bytes_to_save(site: Site, media_type: str | bytes) -> None:
    kind, way, _ = await described(site, filetype=media_type)
    assert (kind, way) == ("application/octet-stream", "attachment")


@pytest.mark.parametrize(
    ("filename", "saved"),
    [
        ("plan.pdf", "plan.pdf"),
        ("with blanks.txt", "with blanks.txt"),
        ("na\u00efve.txt", "na\u00efve.txt"),
        ("\u65e5\u672c\u8a9e.txt", "\u65e5\u672c\u8a9e.txt"),
        ("\U0001f600.png", "\U0001f600.png"),
        ('quo"te.txt', 'quo"te.txt'),
        ("per%41cent.txt", "per%41cent.txt"),
        ("semi;colon=.txt", "semi;colon=.txt"),
        ("it's.txt", "it's.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\system.ini", "system.ini"),
        ("a\r\nX-Evil: 1", "aX-Evil: 1"),
        ("a\nSet-Cookie: a=b", "aSet-Cookie: a=b"),
        ("nul\0.txt", "nul.txt"),
        ("right\u202eleft.txt", "rightleft.txt"),
        ("", None),
        ("/", None),
        ("\r\n", None),
    ],
)
async def test_names_are_given_back_as_far_as_they_are_harmless(
    site: Site, filename: str, saved: str | None
) -> None:
    _, _, name = await described(site, filename=filename)
    assert name == saved


@pytest.mark.parametrize("filename", [b"\xff\xfe.txt", b"\xed\xa0\x80.txt", "x" * 4000])
async def test_strange_names_do_no_harm(site: Site, filename: str | bytes) -> None:
    _, way, _ = await described(site, filename=filename)
    assert way == "attachment"


async def test_a_name_beyond_ascii_is_told_in_both_ways(site: Site) -> None:
    name = b64("na\u00efve.txt")
    path = await site.upload(DATA, Upload_Metadata=f"filename {name}")
    disposition = (await site.get(path)).headers["Content-Disposition"]
    assert "filename*=UTF-8''na%C3%AFve.txt" in disposition
    assert 'filename="na' in disposition
    assert disposition.isascii()


# Switched off


async def test_download_switched_off_is_off(serve: Serve) -> None:
    site = await serve(options=Options(read=False))
    path = await site.upload(DATA)
    reply = await site.get(path)
    assert_refused(reply, 405, "METHOD_NOT_ALLOWED")
    assert "GET" not in reply.headers["Allow"]
    reply = await site.request("POST", path, {"X-HTTP-Method-Override": "GET"})
    assert_refused(reply, 405)
    assert (await site.head(path)).offset == 10


# A client that leaves


async def test_client_that_leaves_in_mid_download_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve()
    path = await site.upload(os.urandom(8 * 1024 * 1024))
    before = files_open()
    for _ in range(5):
        connection = await site.connect()
        await connection.send_head("GET", path)
        await connection.reader.readexactly(1000)
        connection.reset()
    async with asyncio.timeout(5):
        while files_open() > before:
            await asyncio.sleep(0.01)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def files_open() -> int:
    """Regular files that this process has open."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            count += stat.S_ISREG(os.fstat(int(name)).st_mode)
    return count
