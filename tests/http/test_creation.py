"""Creation, creation-with-upload, metadata and Location, black box."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from multidict import MultiDict

from aiotus_server import (
    CreatedEvent,
    DiskStore,
    Hooks,
    InterruptedEvent,
    MemoryStore,
    Options,
)

from .client import OCTETS, TUS, DataPath, Site, assert_refused, chunked, head, sha1
from .test_core import NOT_INTEGERS, recorded

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Reply
    from .conftest import Serve


def stored(root: Path) -> int:
    """How many uploads lie in the disk store at ``root``."""
    return len([path for path in root.rglob("*") if path.is_file() and len(path.name) >= 32])


async def upload_with(site: Site, body: bytes, **headers: str) -> Reply:
    """Creation with upload; ``_`` in header names stands for ``-``."""
    fields = dict(OCTETS)
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return await site.request("POST", headers=fields, body=body)


async def test_a_new_upload_is_empty_and_has_an_url(site: Site) -> None:
    reply = await site.request("POST", headers={"Upload-Length": "100"})
    assert (reply.status, reply.body) == (201, b"")
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert re.fullmatch(r"/files/[A-Za-z0-9_-]{22,32}", reply.path)
    inspected = await site.head(reply.path)
    assert (inspected.offset, inspected.headers["Upload-Length"]) == (0, "100")


async def test_every_upload_has_an_url_of_its_own(site: Site) -> None:
    paths = [await site.create(1) for _ in range(50)]
    assert len(set(paths)) == 50


# The length


async def test_a_length_is_needed(serve: Serve, tmp_path: Path) -> None:
    site = await serve(DiskStore(tmp_path / "uploads"))
    assert_refused(await site.request("POST"), 400, "LENGTH_NOT_CLEAR")
    both = {"Upload-Length": "5", "Upload-Defer-Length": "1"}
    assert_refused(await site.request("POST", headers=both), 400, "LENGTH_NOT_CLEAR")
    assert stored(tmp_path) == 0


@pytest.mark.parametrize("length", NOT_INTEGERS)
async def test_a_length_that_is_no_integer_is_malformed(site: Site, length: str) -> None:
    reply = await site.request("POST", headers={"Upload-Length": length})
    assert_refused(reply, 400, "HEADER_MALFORMED")


@pytest.mark.parametrize("length", [" 5", "5 ", "\t5\t", "05", "0000000000000000000005"])
async def test_blanks_and_zeros_around_a_length_do_not_matter(site: Site, length: str) -> None:
    reply = await site.request("POST", headers={"Upload-Length": length})
    assert (await site.head(reply.path)).headers["Upload-Length"] == "5"


@pytest.mark.parametrize(
    ("max_size", "length", "status"),
    [
        (10, "10", 201),
        (10, "11", 413),
        (10, str(2**63 - 1), 413),
        (10, str(2**64), 413),
        (0, "0", 201),
        (0, "1", 413),
        (None, str(2**63 - 1), 201),
        (None, str(2**63), 413),
        (None, str(2**64 + 5), 413),
        (None, "1" + "0" * 5000, 413),
    ],
)
async def test_a_length_over_the_maximum_is_too_large(
    serve: Serve, tmp_path: Path, max_size: int | None, length: str, status: int
) -> None:
    site = await serve(DiskStore(tmp_path / "uploads"), options=Options(max_size=max_size))
    reply = await site.request("POST", headers={"Upload-Length": length})
    assert reply.status == status
    if status == 413:
        assert_refused(reply, 413, "MAX_SIZE_EXCEEDED")
        assert stored(tmp_path) == 0


@pytest.mark.parametrize("with_upload", [True, False])
async def test_an_empty_upload_is_complete_at_once(serve: Serve, with_upload: bool) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    headers = {"Upload-Length": "0", **(OCTETS if with_upload else {})}
    reply = await site.request("POST", headers=headers)
    assert reply.status == 201
    assert "Upload-Expires" not in reply.headers
    assert finished == [reply.path.rpartition("/")[2]]
    inspected = await site.head(reply.path)
    assert (inspected.offset, inspected.headers["Upload-Length"]) == (0, "0")
    downloaded = await site.get(reply.path)
    assert (downloaded.status, downloaded.body) == (200, b"")
    assert (await site.patch(reply.path, 0, b"")).status == 204
    assert len(finished) == 1


async def test_an_empty_partial_is_not_finished(serve: Serve) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    await site.create(0, Upload_Concat="partial")
    assert finished == []


@pytest.mark.parametrize(
    "name", ["Upload-Length", "Upload-Defer-Length", "Upload-Concat", "Upload-Checksum"]
)
async def test_a_repeated_or_empty_header_is_refused(site: Site, name: str) -> None:
    value = {"Upload-Concat": "partial", "Upload-Checksum": sha1(b"")}.get(name, "1")
    fields = MultiDict({**TUS, "Content-Length": "0"})
    if name not in ("Upload-Length", "Upload-Defer-Length"):
        fields["Upload-Length"] = "1"
    twice = MultiDict([*fields.items(), (name, value), (name, value)])
    assert_refused(await site.raw(head("POST", "/files", twice)), 400, "HEADER_REPEATED")
    empty = MultiDict([*fields.items(), (name, "")])
    assert_refused(await site.raw(head("POST", "/files", empty)), 400, "HEADER_MALFORMED")


# Upload-Metadata


@pytest.mark.parametrize(
    "metadata",
    [
        "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential",
        "key",
        "key ,other YQ==",
        "key YQ==, other Yg==",
        "key YQ==,\t other",
        "key,KEY",
        "a-b.c/d:e=f~g!h YQ==",
        "binary AP8NCgA=",
        "long " + "QUJD" * 1500,
        "+/+/ +/+/",
    ],
)
async def test_metadata_comes_back_exactly_as_received(site: Site, metadata: str) -> None:
    path = await site.create(5, Upload_Metadata=metadata)
    assert (await site.head(path)).headers["Upload-Metadata"] == metadata
    await site.patch(path, 0, b"hello")
    assert (await site.head(path)).headers["Upload-Metadata"] == metadata


@pytest.mark.parametrize("metadata", ["", " ", "\t"])
async def test_empty_metadata_means_none(site: Site, metadata: str) -> None:
    path = await site.create(5, Upload_Metadata=metadata)
    assert "Upload-Metadata" not in (await site.head(path)).headers


BAD_METADATA = [
    ",",
    "a,",
    ",a",
    "a YQ==,,b Yg==",
    "a YQ==, ,b Yg==",
    "a YQ==,a Yg==",
    "a,a",
    "a YQ",
    "a YQ=",
    "a =",
    "a ====",
    "a YQ==YQ==",
    "a Y!==",
    "a -_-_",
    "a  YQ==",
    "a YQ== Yg==",
    "a YQ== ,b",
    "a Y Q==",
    "a Y\tQ==",
    "a\tYQ==",
    "\u00fc YQ==",
    "a \u00fc",
    "a YQ==;b Yg==",
]


@pytest.mark.parametrize("metadata", BAD_METADATA)
async def test_malformed_metadata_is_refused(serve: Serve, tmp_path: Path, metadata: str) -> None:
    site = await serve(DiskStore(tmp_path / "uploads"))
    reply = await site.request("POST", headers={"Upload-Length": "5", "Upload-Metadata": metadata})
    assert_refused(reply, 400, "METADATA_MALFORMED")
    assert stored(tmp_path) == 0


@pytest.mark.parametrize("metadata", BAD_METADATA)
async def test_lenient_drops_the_bad_pair_and_keeps_the_good(serve: Serve, metadata: str) -> None:
    hooks = Hooks()
    seen: list[dict[str, bytes | None]] = []
    hooks.post_create.append(lambda event: seen.append(dict(event.metadata)))
    site = await serve(hooks=hooks, options=Options(lenient_metadata=True))
    path = await site.create(5, Upload_Metadata=f"good Z29vZA==,{metadata}")
    assert seen[0]["good"] == b"good"
    assert all(key.isascii() and key.isprintable() for key in seen[0])
    header = (await site.head(path)).headers["Upload-Metadata"]
    assert header.startswith("good Z29vZA==")
    assert header.isascii()


async def test_repeated_metadata_is_one_list(site: Site) -> None:
    pairs = [("Upload-Metadata", "a YQ=="), ("Upload-Metadata", "b")]
    fields = MultiDict([*TUS.items(), ("Upload-Length", "5"), ("Content-Length", "0"), *pairs])
    reply = await site.raw(head("POST", "/files", fields))
    header = (await site.head(reply.path)).headers["Upload-Metadata"]
    assert header.replace(", ", ",") == "a YQ==,b"
    fields.add("Upload-Metadata", "a Yg==")
    assert_refused(await site.raw(head("POST", "/files", fields)), 400, "METADATA_MALFORMED")


# Location


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.org", "http://example.org"),
        ("example.org:8080", "http://example.org:8080"),
        ("127.0.0.1:1080", "http://127.0.0.1:1080"),
        ("[::1]:1080", "http://[::1]:1080"),
    ],
)
async def test_location_is_absolute_for_a_client_that_may_need_it(
    site: Site, host: str, origin: str
) -> None:
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert reply.headers["Location"].startswith("http://localhost/files/")
    request = f"POST /files HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\n"
    reply = await site.raw(f"{request}Content-Length: 0\r\nUpload-Length: 5\r\n\r\n".encode())
    assert reply.headers["Location"].startswith(f"{origin}/files/")
    assert (await site.head(reply.path)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://app.example"},
        {"Origin": "null"},
        {"Forwarded": "proto=https;host=public.example"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Host": "public.example"},
        {"X-Forwarded-For": "192.0.2.1"},
        {"X-Forwarded-Port": "443"},
        {"X-Forwarded-Server": "proxy"},
        {"X-Forwarded-Prefix": "/public"},
        {"X-Forwarded-Ssl": "on"},
    ],
)
async def test_location_is_a_path_for_browsers_and_behind_proxies(
    site: Site, headers: dict[str, str]
) -> None:
    reply = await site.request("POST", headers={"Upload-Length": "5", **headers})
    assert re.fullmatch(r"/files/[A-Za-z0-9_-]+", reply.headers["Location"])
    assert (await site.head(reply.headers["Location"])).status == 200


@pytest.mark.parametrize(
    "host", ['"><script>', "a b", "a/b", "a?b", "a#b", "user@evil", "h\u00f6st", "%0d%0a", ""]
)
async def test_a_host_that_cannot_stand_in_an_url_is_not_used(site: Site, host: str) -> None:
    request = f"POST /files HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\n"
    reply = await site.raw(f"{request}Content-Length: 0\r\nUpload-Length: 5\r\n\r\n".encode())
    if reply.status == 201:
        assert re.fullmatch(
            r"(http://[A-Za-z0-9.:\[\]-]+)?/files/[A-Za-z0-9_-]+", reply.headers["Location"]
        )
    else:
        assert reply.status == 400


async def test_an_old_client_without_host_gets_an_upload_too(site: Site) -> None:
    reply = await site.raw(
        b"POST /files HTTP/1.0\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    assert reply.status == 201
    assert (await site.head(reply.path)).status == 200


@pytest.mark.parametrize("path", ["/files/", "/files?token=secret", "/files/?token=secret"])
async def test_location_has_one_slash_and_no_query(site: Site, path: str) -> None:
    reply = await site.request("POST", path, {"Upload-Length": "5"})
    assert re.fullmatch(r"http://localhost/files/[A-Za-z0-9_-]+", reply.headers["Location"])


async def test_a_request_target_in_absolute_form(site: Site) -> None:
    reply = await site.request("POST", "http://localhost/files", {"Upload-Length": "5"})
    assert reply.status == 201
    assert re.fullmatch(r"/files/[A-Za-z0-9_-]+", reply.path)
    assert (await site.head(f"http://localhost{reply.path}")).status == 200


# Creation with upload


@pytest.mark.data_paths(*DataPath)
@pytest.mark.parametrize("size", [0, 1, 5, 70_000, 3_000_000])
@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("chunks", [True, False])
async def test_the_body_of_a_creation_is_the_beginning_of_the_upload(
    serve: Serve, size: int, missing: int, chunks: bool
) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    data = b"0123456789" * (size // 10 + 1)
    data = data[:size]
    coding = {"Transfer_Encoding": "chunked"} if chunks else {}
    body = chunked(*([data] if data else [])) if chunks else data
    reply = await upload_with(site, body, Upload_Length=str(size + missing), **coding)
    assert (reply.status, reply.offset) == (201, size)
    assert (await site.head(reply.path)).offset == size
    assert len(finished) == (missing == 0)
    if missing:
        assert (await site.patch(reply.path, size, b"later")).offset == size + 5
        data += b"later"
    assert (await site.get(reply.path)).body == data
    assert finished == [reply.path.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Upload-Checksum": "sha1 x"}, 400),
        ({"Upload-Checksum": "sha0 " + sha1(b"hello")[5:]}, 400),
        ({"Upload-Metadata": ","}, 400),
        ({"Upload-Length": "4"}, 413),
        ({"Upload-Length": "1001"}, 413),
        ({"Upload-Concat": "final;/files/a"}, 400),
    ],
)
@pytest.mark.parametrize("chunks", [True, False])
async def test_a_refused_creation_creates_nothing_and_runs_no_hook(
    serve: Serve, tmp_path: Path, wrong: dict[str, str], status: int, chunks: bool
) -> None:
    hooks = Hooks()
    ran: list[object] = []
    for moment in (hooks.pre_create, hooks.post_create, hooks.pre_receive, hooks.pre_finish):
        moment.append(ran.append)
    site = await serve(DiskStore(tmp_path / "uploads"), hooks=hooks, options=Options(max_size=1000))
    fields = {**OCTETS, "Upload-Length": "5", **wrong}
    if chunks:
        if wrong == {"Upload-Length": "4"}:
            return  # nobody can know that the body is longer
        fields["Transfer-Encoding"] = "chunked"
    body = chunked(b"hello") if chunks else b"hello"
    reply = await site.request("POST", headers=fields, body=body)
    assert_refused(reply, status)
    assert "Location" not in reply.headers
    assert stored(tmp_path) == 0
    assert not ran


async def test_a_body_without_a_content_type_creates_nothing(serve: Serve, tmp_path: Path) -> None:
    site = await serve(DiskStore(tmp_path / "uploads"))
    reply = await site.request("POST", headers={"Upload-Length": "5"}, body=b"hello")
    assert_refused(reply, 415, "CONTENT_TYPE_UNSUPPORTED")
    assert stored(tmp_path) == 0


@pytest.mark.parametrize("size", [6, 200_000])
async def test_chunks_beyond_the_length_complete_the_new_upload(serve: Serve, size: int) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    data = b"x" * (size - 1) + b"!"
    body = chunked(data[:3], data[3:])
    reply = await upload_with(site, body, Upload_Length=str(size - 1), Transfer_Encoding="chunked")
    assert_refused(reply, 413, "BODY_TOO_LONG")
    assert (await site.head(reply.path)).offset == size - 1
    assert (await site.get(reply.path)).body == data[:-1]
    assert finished == [reply.path.rpartition("/")[2]]


async def test_a_right_checksum_of_a_creation(site: Site) -> None:
    reply = await upload_with(site, b"hello", Upload_Length="11", Upload_Checksum=sha1(b"hello"))
    assert (reply.status, reply.offset) == (201, 5)


@pytest.mark.parametrize("size", [5, 300_000])
@pytest.mark.parametrize("chunks", [True, False])
async def test_a_wrong_checksum_leaves_the_new_upload_empty(
    serve: Serve, size: int, chunks: bool
) -> None:
    hooks = Hooks()
    finished = recorded(hooks)
    site = await serve(hooks=hooks)
    data = b"x" * size
    body = chunked(data) if chunks else data
    coding = {"Transfer_Encoding": "chunked"} if chunks else {}
    reply = await upload_with(
        site, body, Upload_Length=str(size), Upload_Checksum=sha1(b"other"), **coding
    )
    assert_refused(reply, 460, "CHECKSUM_MISMATCH")
    assert (await site.head(reply.path)).offset == 0
    assert finished == []
    again = await site.patch(reply.path, 0, data, Upload_Checksum=sha1(data))
    assert (again.status, again.offset) == (204, size)
    assert len(finished) == 1


@pytest.mark.parametrize("size", [5, 400_000])
@pytest.mark.parametrize("checked", [True, False])
async def test_of_a_creation_cut_short_what_came_is_there(
    serve: Serve, size: int, checked: bool
) -> None:
    hooks = Hooks()
    created: list[str] = []
    interrupted = asyncio.Event()

    @hooks.post_create
    def remember(event: CreatedEvent) -> None:
        created.append(event.upload.upload_id)

    @hooks.on_interrupted
    def notice(event: InterruptedEvent) -> None:
        interrupted.set()

    site = await serve(hooks=hooks)
    checksum = {"Upload-Checksum": sha1(b"x")} if checked else {}
    fields = {**TUS, **OCTETS, "Upload-Length": "1000000", "Content-Length": "1000000"}
    connection = await site.connect()
    await connection.send(head("POST", "/files", {**fields, **checksum}) + b"x" * size)
    await connection.close()
    async with asyncio.timeout(5):
        await interrupted.wait()
    assert (await site.head(f"/files/{created[0]}")).offset == (0 if checked else size)


@pytest.mark.parametrize("size", [5, 400_000])
async def test_of_a_creation_with_broken_chunks_what_came_is_there(site: Site, size: int) -> None:
    body = b"%x\r\n%s\r\nnonsense\r\n" % (size, b"x" * size)
    reply = await upload_with(site, body, Upload_Length="1000000", Transfer_Encoding="chunked")
    assert_refused(reply, 400, "BODY_MALFORMED")
    assert (await site.head(reply.path)).offset == size


async def test_the_same_id_twice_leaves_the_first_alone(serve: Serve) -> None:
    for store in (None, MemoryStore()):
        site = await serve(store, options=Options(new_id=lambda: "always-the-same"))
        path = await site.upload(b"hello", Upload_Metadata="first")
        for body in (b"", b"other"):
            reply = await upload_with(site, body, Upload_Length="5")
            assert_refused(reply, 409, "UPLOAD_EXISTS")
        assert (await site.head(path)).headers["Upload-Metadata"] == "first"
        assert (await site.get(path)).body == b"hello"
