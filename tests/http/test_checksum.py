"""Checksums in the header, black box: verified over the wire, and what is not right leaves no
trace."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
import zlib
from typing import TYPE_CHECKING, Any

import crc32c
import pytest
import xxhash

from aiotus_server import DiskStore, Hooks, MemoryStore, Options
from aiotus_server.options import EXTENSIONS

from .client import OCTETS, TUS, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Serve

DATA = bytes(range(256)) * 1400  # more than the server takes for a small body
HUNG = 1.0  # seconds; what is answered later waited for something


def shifted(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x9A6C_9329_AC4B_C9B5 if crc & 1 else 0)
    return crc


TABLE = [shifted(byte) for byte in range(256)]


def crc64nvme(data: bytes) -> bytes:
    """By the definition, byte by byte."""
    crc = 2**64 - 1
    for byte in data:
        crc = crc >> 8 ^ TABLE[crc & 255 ^ byte]
    return (crc ^ 2**64 - 1).to_bytes(8, "big")


DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: crc32c.crc32c(data).to_bytes(4, "big"),
    "xxh64": xxhash.xxh64_digest,
    "xxh3-64": xxhash.xxh3_64_digest,
    "xxh3-128": xxhash.xxh3_128_digest,
    "crc64nvme": crc64nvme,
}

# Published: what each algorithm makes of nothing, or of the digits 1 to 9.
PUBLISHED = [
    ("sha1", b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("md5", b"", "d41d8cd98f00b204e9800998ecf8427e"),
    ("sha256", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("xxh64", b"", "ef46db3751d8e999"),
    ("xxh3-64", b"", "2d06800538d394c2"),
    ("xxh3-128", b"", "99aa06d3014798d86001c324468d497f"),
    ("crc32", b"123456789", "cbf43926"),
    ("crc32c", b"123456789", "e3069283"),
    ("crc64nvme", b"123456789", "ae8b14860a799888"),
]


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(DIGESTS[algorithm](data)).decode()}"


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


async def test_the_algorithms_on_offer_are_those_tested_here(site: Site) -> None:
    offered = (await site.request("OPTIONS")).headers["Tus-Checksum-Algorithm"]
    assert sorted(offered.split(",")) == sorted(DIGESTS)


@pytest.mark.parametrize("data", [b"", b"hello", DATA], ids=["empty", "small", "large"])
@pytest.mark.parametrize("algorithm", DIGESTS)
async def test_every_algorithm(any_site: Site, algorithm: str, data: bytes) -> None:
    path = await any_site.create(len(data) + 1)
    right, wrong = checksum(algorithm, data), checksum(algorithm, data + b"!")
    reply = await any_site.patch(path, 0, data, Upload_Checksum=wrong)
    assert_refused(reply, 460, "CHECKSUM_MISMATCH")
    assert (await any_site.head(path)).offset == 0
    reply = await any_site.patch(path, 0, data, Upload_Checksum=right)
    assert (reply.status, reply.offset) == (204, len(data))
    assert (await any_site.patch(path, len(data), b"!")).status == 204
    assert (await any_site.get(path)).body == data + b"!"


@pytest.mark.parametrize(("algorithm", "data", "digest"), PUBLISHED)
async def test_digests_are_as_published(
    site: Site, algorithm: str, data: bytes, digest: str
) -> None:
    path = await site.create(len(data) + 1)
    encoded = base64.b64encode(bytes.fromhex(digest)).decode()
    reply = await site.patch(path, 0, data, Upload_Checksum=f"{algorithm} {encoded}")
    assert reply.status == 204


async def test_mismatch_has_its_own_reason_phrase(site: Site) -> None:
    path = await site.create(5)
    connection = await site.begin(path, 0, b"hello", length=5, Upload_Checksum=sha1(b"hallo"))
    assert await connection.reader.readline() == b"HTTP/1.1 460 Checksum Mismatch\r\n"


GOOD = base64.b64encode(hashlib.sha1(b"hello").digest()).decode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        GOOD,
        f"sha1{GOOD}",
        f"sha1  {GOOD}",
        f"sha1 {GOOD} {GOOD}",
        f"sha1 {GOOD},md5 {GOOD}",
        f"sha1,{GOOD}",
        f"sha1 {GOOD[:-1]}",  # without its padding
        f"sha1 {GOOD}=",
        f"sha1 {GOOD[:-2]}",
        "sha1 !!!!",
        "sha1 " + "-_" * 13 + "-=",  # the alphabet for URLs
        "sha1 " + base64.b64encode(bytes(19)).decode(),
        "sha1 " + base64.b64encode(bytes(21)).decode(),
        "sha1 " + hashlib.sha1(b"hello").hexdigest(),
        "sha1 " + GOOD[:-2] + "1=",  # bits behind the end
        f"md5 {GOOD}",
        f"SHA1 {GOOD}",
        f"sha-1 {GOOD}",
        f"sha2 {GOOD}",
        f" {GOOD}",
    ],
)
async def test_what_is_no_checksum_is_refused_before_the_body_is_read(
    site: Site, value: str
) -> None:
    path = await site.create(5)
    connection = await site.begin(path, 0, b"", length=5, Upload_Checksum=value)
    assert_refused(await connection.reply(), 400)
    fields = {**TUS, **OCTETS, "Upload-Length": "5", "Content-Length": "5"}
    connection = await site.connect()
    await connection.send(head("POST", "/files", {**fields, "Upload-Checksum": value}))
    reply = await connection.reply()
    assert_refused(reply, 400)
    assert "Location" not in reply.headers
    assert (await site.patch(path, 0, b"hello", Upload_Checksum=f"sha1 {GOOD}")).status == 204


async def test_unknown_algorithm_has_a_code_of_its_own(site: Site) -> None:
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=f"sha999 {GOOD}")
    assert_refused(reply, 400, "CHECKSUM_ALGORITHM_UNKNOWN")
    assert (await site.head(path)).offset == 0


async def test_two_checksums_are_refused(site: Site) -> None:
    path = await site.create(5)
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "5"}
    fields["Upload-Checksum"] = sha1(b"hello")
    twice = head("PATCH", path, fields)[:-2] + f"Upload-Checksum: sha1 {GOOD}\r\n\r\n".encode()
    assert_refused(await site.raw(twice + b"hello"), 400)
    assert (await site.head(path)).offset == 0


async def test_blanks_around_the_value_are_not_of_it(site: Site) -> None:
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=f"  {sha1(b'hello')} \t")
    assert reply.status == 204


async def test_algorithms_are_those_of_the_options(serve: Serve) -> None:
    site = await serve(options=Options(algorithms=("sha1", "crc32")))
    path = await site.create(5)
    assert (await site.request("OPTIONS")).headers["Tus-Checksum-Algorithm"] == "sha1,crc32"
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=checksum("md5", b"hello"))
    assert_refused(reply, 400)
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=checksum("crc32", b"hello"))
    assert reply.status == 204


async def test_switched_off_is_not_offered_and_refused(serve: Serve) -> None:
    site = await serve(options=Options(extensions=EXTENSIONS - {"checksum"}))
    headers = (await site.request("OPTIONS")).headers
    assert "checksum" not in headers["Tus-Extension"]
    assert "Tus-Checksum-Algorithm" not in headers
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=sha1(b"hallo"))
    assert_refused(reply, 400)
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("size", [5, len(DATA)])
@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_mismatch_leaves_what_was_there(any_site: Site, coding: str, size: int) -> None:
    site, data = any_site, DATA[:size]
    path = await site.create(5 + size)
    await site.patch(path, 0, b"first")
    for wrong in (sha1(b"first" + data), sha1(b"")):
        body, fields = data, {"Upload_Checksum": wrong}
        if coding == "chunked":
            body, fields["Transfer_Encoding"] = chunked(data), "chunked"
        assert_refused(await site.patch(path, 5, body, **fields), 460)
        assert (await site.head(path)).offset == 5
        assert (await site.get(path)).status == 404  # the last byte was discarded too
    assert (await site.patch(path, 5, data, Upload_Checksum=sha1(data))).status == 204
    assert (await site.get(path)).body == b"first" + data


async def test_discarded_bytes_are_not_kept_on_disk(site: Site) -> None:
    path = await site.create(len(DATA))
    await site.patch(path, 0, DATA, Upload_Checksum=sha1(b""))
    assert site.stored(path) == b""


async def test_connection_goes_on_after_a_mismatch(site: Site) -> None:
    path = await site.create(5)
    connection = await site.begin(path, 0, b"hello", length=5, Upload_Checksum=sha1(b"hallo"))
    assert (await connection.reply()).status == 460
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "5"}
    fields["Upload-Checksum"] = sha1(b"hello")
    await connection.send(head("PATCH", path, fields) + b"hello")
    assert (await connection.reply()).status == 204


async def test_empty_body_is_verified_too(any_site: Site) -> None:
    path = await any_site.create(5)
    assert_refused(await any_site.patch(path, 0, b"", Upload_Checksum=sha1(b"x")), 460)
    assert (await any_site.patch(path, 0, b"", Upload_Checksum=sha1(b""))).status == 204
    assert (await any_site.head(path)).offset == 0


async def test_empty_body_is_verified_on_a_complete_upload(any_site: Site) -> None:
    path = await any_site.upload(b"hello")
    assert_refused(await any_site.patch(path, 5, b"", Upload_Checksum=sha1(b"x")), 460)
    assert (await any_site.patch(path, 5, b"", Upload_Checksum=sha1(b""))).status == 204
    assert (await any_site.get(path)).body == b"hello"


@pytest.mark.parametrize("size", [9, len(DATA)])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_body_cut_short_is_discarded(any_site: Site, leave: str, size: int) -> None:
    site = any_site
    path = await site.create(5 + size)
    await site.patch(path, 0, b"first")
    data = DATA[:size]
    connection = await site.begin(path, 5, data[:-1], length=size, Upload_Checksum=sha1(data[:-1]))
    if leave == "close":
        await connection.close()
    else:
        connection.reset()
    assert (await site.head(path)).offset == 5
    assert (await site.patch(path, 5, data, Upload_Checksum=sha1(data))).status == 204
    assert (await site.get(path)).body == b"first" + data


async def test_body_cut_short_does_not_stay_on_disk(site: Site) -> None:
    path = await site.create(len(DATA))
    connection = await site.begin(path, 0, DATA[:-1], length=len(DATA), Upload_Checksum=sha1(DATA))
    await site.until_stored(path, len(DATA) - 1)
    await connection.close()
    await site.until_stored(path, 0)


async def test_chunked_body_that_is_too_long_is_discarded(any_site: Site) -> None:
    path = await any_site.create(5)
    body = chunked(b"hello world")
    fields = {"Transfer_Encoding": "chunked", "Upload_Checksum": sha1(b"hello world")}
    assert_refused(await any_site.patch(path, 0, body, **fields), 413)
    assert (await any_site.head(path)).offset == 0


# Creation with upload


@pytest.mark.parametrize("size", [5, len(DATA)])
@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_creation_with_a_wrong_checksum_still_creates(
    any_site: Site, coding: str, size: int
) -> None:
    site, data = any_site, DATA[:size]
    fields = {**OCTETS, "Upload-Length": str(size), "Upload-Checksum": sha1(b"other")}
    body = data
    if coding == "chunked":
        body, fields["Transfer-Encoding"] = chunked(data), "chunked"
    reply = await site.request("POST", headers=fields, body=body)
    assert_refused(reply, 460, "CHECKSUM_MISMATCH")
    assert (await site.head(reply.path)).offset == 0
    path = reply.path
    assert (await site.patch(path, 0, data, Upload_Checksum=sha1(data))).status == 204
    assert (await site.get(path)).body == data


@pytest.mark.parametrize("size", [5, len(DATA)])
async def test_creation_with_a_right_checksum(any_site: Site, size: int) -> None:
    data = DATA[:size]
    fields = {**OCTETS, "Upload-Length": str(size), "Upload-Checksum": sha1(data)}
    reply = await any_site.request("POST", headers=fields, body=data)
    assert (reply.status, reply.offset) == (201, size)
    assert (await any_site.get(reply.path)).body == data


@pytest.mark.parametrize("size", [9, len(DATA)])
async def test_creation_cut_short_under_a_checksum_keeps_nothing(serve: Serve, size: int) -> None:
    site = await serve(options=Options(new_id=lambda: "known"))
    fields = {**TUS, **OCTETS, "Upload-Length": str(size), "Content-Length": str(size)}
    fields["Upload-Checksum"] = sha1(DATA[: size - 1])
    connection = await site.connect()
    await connection.send(head("POST", "/files", fields) + DATA[: size - 1])
    await connection.close()
    async with asyncio.timeout(5):
        while (reply := await site.head("/files/known")).status == 404:
            await asyncio.sleep(0.01)
    assert reply.offset == 0
    await site.until_stored("/files/known", 0)


# Other requests meanwhile


@pytest.mark.parametrize("size", [9, len(DATA)], ids=["small", "large"])
async def test_head_during_a_checksummed_patch_leaves_it_alone(any_site: Site, size: int) -> None:
    site, data = any_site, DATA[:size]
    path = await site.create(5 + size)
    await site.patch(path, 0, b"first")
    connection = await site.begin(path, 5, data[:-2], length=size, Upload_Checksum=sha1(data))
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.4
    while loop.time() < end:  # the body is in memory at first, and later in the store
        async with asyncio.timeout(HUNG):
            reply = await site.head(path)
        assert (reply.status, reply.offset) == (200, 5)
    await connection.send(data[-2:])
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (204, 5 + size)
    assert (await site.get(path)).body == b"first" + data


async def test_head_while_a_hook_judges_a_checksummed_patch(serve: Serve) -> None:
    hooks, go_on, reached = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def wait(event: Any) -> None:
        reached.set()
        await go_on.wait()

    site = await serve(hooks=hooks)
    path = await site.create(5)
    connection = await site.begin(path, 0, b"hello", length=5, Upload_Checksum=sha1(b"hello"))
    await reached.wait()
    async with asyncio.timeout(HUNG):
        assert (await site.head(path)).offset == 0
    go_on.set()
    assert (await connection.reply()).status == 204


@pytest.mark.parametrize("size", [9, len(DATA)], ids=["small", "large"])
async def test_patch_displaces_a_checksummed_patch(any_site: Site, size: int) -> None:
    site, data = any_site, DATA[:size]
    path = await site.create(size)
    first = await site.begin(path, 0, b"x" * (size - 1), length=size, Upload_Checksum=sha1(data))
    async with asyncio.timeout(HUNG):
        await asyncio.sleep(0.15)
        reply = await site.patch(path, 0, data, Upload_Checksum=sha1(data))
    assert (reply.status, reply.offset) == (204, size)
    assert_refused(await first.reply(), 423)
    assert (await site.get(path)).body == data


async def test_delete_ends_a_checksummed_patch(any_site: Site) -> None:
    path = await any_site.create(5)
    first = await any_site.begin(path, 0, b"hell", length=5, Upload_Checksum=sha1(b"hello"))
    async with asyncio.timeout(HUNG):
        assert (await any_site.delete(path)).status == 204
    assert_refused(await first.reply(), 410)


# A length that a PATCH declares


@pytest.mark.parametrize("size", [5, len(DATA)])
async def test_length_is_not_recorded_when_the_checksum_fails(any_site: Site, size: int) -> None:
    site, data = any_site, DATA[:size]
    path = await site.create(None, Upload_Defer_Length="1")
    fields = {"Upload_Length": str(size), "Upload_Checksum": sha1(b"other")}
    assert_refused(await site.patch(path, 0, data, **fields), 460)
    reply = await site.head(path)
    assert reply.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in reply.headers
    fields = {"Upload_Length": str(size + 1), "Upload_Checksum": sha1(data + b"!")}
    assert (await site.patch(path, 0, data + b"!", **fields)).status == 204
    assert (await site.head(path)).headers["Upload-Length"] == str(size + 1)
    assert (await site.get(path)).body == data + b"!"


async def test_length_is_not_recorded_when_the_body_is_cut_short(any_site: Site) -> None:
    site = any_site
    path = await site.create(None, Upload_Defer_Length="1")
    fields = {"Upload_Length": "5", "Upload_Checksum": sha1(b"hell")}
    connection = await site.begin(path, 0, b"hell", length=5, **fields)
    await connection.close()
    reply = await site.head(path)
    assert (reply.offset, reply.headers["Upload-Defer-Length"]) == (0, "1")
    assert (await site.patch(path, 0, b"hell", Upload_Length="4")).status == 204


async def test_length_is_not_recorded_when_the_checksum_is_malformed(site: Site) -> None:
    path = await site.create(None, Upload_Defer_Length="1")
    reply = await site.patch(path, 0, b"hello", Upload_Length="5", Upload_Checksum="sha1 ?")
    assert_refused(reply, 400)
    assert (await site.head(path)).headers["Upload-Defer-Length"] == "1"


async def test_restart_discards_what_was_never_verified(serve: Serve, tmp_path: Path) -> None:
    """As after a crash: the mark of an append under a checksum is there, no verdict is."""
    site = await serve()
    path = await site.create(5 + len(DATA))
    await site.patch(path, 0, b"first")
    connection = await site.begin(path, 5, DATA[:-1], length=len(DATA), Upload_Checksum=sha1(DATA))
    await site.until_stored(path, 4 + len(DATA))
    assert len(site.stored(path)) > 5
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "uploads", crashed, symlinks=True)
    connection.reset()
    again = await serve(DiskStore(crashed))
    assert (await again.head(path)).offset == 5
    assert (await again.patch(path, 5, DATA, Upload_Checksum=sha1(DATA))).status == 204
    assert (await again.get(path)).body == b"first" + DATA
