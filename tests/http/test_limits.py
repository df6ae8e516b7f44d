"""Limits, and clients that try them."""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import Hooks, MemoryStore, Options, random_id

from ..processes import server_process
from .client import (
    OCTETS,
    TUS,
    Connection,
    Reply,
    Site,
    assert_refused,
    chunked,
    head,
    sha1,
)

if TYPE_CHECKING:
    from .conftest import Serve

DATA = random.Random(4).randbytes(3_000_000)
BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


async def held(site: Site, path: str, sent: int = 70_000) -> Connection:
    """A PATCH whose body does not end."""
    connection = await site.begin(path, 0, DATA[:sent], length=len(DATA))
    await site.until_stored(path, sent)
    return connection


# Bodies at once


@BOTH_LOOPS
@pytest.mark.parametrize("verb", ["append", "create"])
async def test_one_body_too_many_is_refused_unread(serve: Serve, verb: str) -> None:
    site = await serve(options=Options(max_bodies=2))
    paths = [await site.create(len(DATA)) for _ in range(3)]
    connections = [await held(site, path) for path in paths[:2]]
    fields = {**TUS, **OCTETS, "Content-Length": str(len(DATA)), "Expect": "100-continue"}
    extra = connection = await site.connect()
    if verb == "append":
        await extra.send(head("PATCH", paths[2], {**fields, "Upload-Offset": "0"}))
    else:
        await extra.send(head("POST", "/files", {**fields, "Upload-Length": str(len(DATA))}))
    reply = await connection.reply()
    assert_refused(reply, 503, "TOO_MANY_BODIES")
    assert int(reply.headers["Retry-After"]) > 0
    assert reply.interim == ()
    # What has no body is not limited, and nobody was disturbed.
    assert (await site.head(paths[2])).offset == 0
    await site.create(5)
    for connection in connections:
        await connection.send(DATA[70_000:])
        assert (await connection.reply()).status == 204
    assert (await site.patch(paths[2], 0, DATA)).status == 204


async def test_a_client_that_comes_back_takes_the_place_of_its_dead_connection(
    serve: Serve,
) -> None:
    site = await serve(options=Options(max_bodies=1))
    path, other = await site.create(len(DATA)), await site.create(5)
    await held(site, path)
    assert_refused(await site.patch(other, 0, b"hello"), 503)
    offset = (await site.head(path)).offset
    assert (await site.patch(path, offset, DATA[offset:])).status == 204
    assert (await site.patch(other, 0, b"hello")).status == 204


async def test_places_are_free_again_however_bodies_end(serve: Serve) -> None:
    site = await serve(options=Options(max_bodies=1, read_timeout=timedelta(seconds=0.2)))
    for leave in ("reset", "close", "silence", "checksum"):
        path = await site.create(len(DATA))
        if leave == "checksum":
            await site.patch(path, 0, DATA, Upload_Checksum=sha1(b"other"))
        else:
            connection = await held(site, path)
            if leave == "silence":
                assert await connection.closed()
            elif leave == "reset":
                connection.reset()
            else:
                await connection.close()
        async with asyncio.timeout(5):
            while (await site.patch(await site.create(5), 0, b"hello")).status != 204:
                await asyncio.sleep(0.01)


# Slow bodies


@BOTH_LOOPS
@pytest.mark.parametrize("coding", ["counted", "chunked"])
@pytest.mark.parametrize("checksum", [False, True])
async def test_a_body_that_trickles_is_ended(serve: Serve, coding: str, checksum: bool) -> None:
    window = timedelta(seconds=0.5)
    site = await serve(options=Options(min_rate=1000, min_rate_window=window))
    path = await site.create(len(DATA))
    fields = {"Upload_Checksum": sha1(DATA)} if checksum else {}
    length = len(DATA) if coding == "counted" else None
    begun = time.monotonic()
    connection = await site.begin(path, 0, b"", length=length, **fields)
    closed = asyncio.ensure_future(connection.closed())
    sent = 0
    while not closed.done():
        piece = DATA[sent : sent + 1]
        with suppress(ConnectionError):
            await connection.send(piece if length else b"1\r\n" + piece + b"\r\n")
            sent += 1
        await asyncio.sleep(0.02)
    assert 0.4 < time.monotonic() - begun < 5
    assert closed.result()
    offset = (await site.head(path)).offset
    assert offset == 0 if checksum else 0 < offset <= sent
    assert (await site.patch(path, offset, DATA[offset:])).status == 204
    assert (await site.get(path)).body == DATA


async def test_a_slow_hook_is_not_the_clients_fault(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.post_receive
    async def wait(event: Any) -> None:
        await asyncio.sleep(0.3)

    options = Options(
        min_rate=10_000_000,
        min_rate_window=timedelta(seconds=0.2),
        progress_interval=timedelta(0),
        direct_from=None,
    )
    site = await serve(options=options, hooks=hooks)
    path = await site.create(len(DATA))
    assert (await site.patch(path, 0, DATA)).status == 204


async def test_a_body_that_is_fast_enough_is_not_ended(serve: Serve) -> None:
    options = Options(min_rate=1000, min_rate_window=timedelta(seconds=0.2))
    site = await serve(options=options)
    path = await site.create(50_000)
    connection = await site.begin(path, 0, b"", length=50_000)
    for start in range(0, 50_000, 1000):
        await connection.send(DATA[start : start + 1000])
        await asyncio.sleep(0.02)
    assert (await connection.reply()).status == 204


# Requests


@pytest.mark.parametrize("checksum", [False, True])
async def test_a_request_may_be_so_long(serve: Serve, checksum: bool) -> None:
    site = await serve(options=Options(max_request_size=100_000))
    fields = {"Upload_Checksum": sha1(DATA[:100_001])} if checksum else {}
    path = await site.create(len(DATA))
    reply = await site.patch(path, 0, DATA[:100_001], **fields)
    assert_refused(reply, 413, "REQUEST_TOO_LONG")
    assert (await site.head(path)).offset == 0
    assert (await site.patch(path, 0, DATA[:100_000])).status == 204
    connection = await site.begin(path, 100_000, chunked(DATA[100_000:300_000], b"0"), length=None)
    assert_refused(await connection.reply(), 413, "REQUEST_TOO_LONG")
    assert (await site.head(path)).offset == 200_000
    assert (await site.patch(path, 200_000, DATA[200_000:300_000])).status == 204
    headers = {"Upload-Length": str(len(DATA)), **OCTETS}
    reply = await site.request("POST", headers=headers, body=DATA[:100_001])
    assert_refused(reply, 413, "REQUEST_TOO_LONG")
    assert "Location" not in reply.headers


async def test_a_body_in_chunks_under_a_checksum_is_discarded_when_it_is_too_long(
    serve: Serve,
) -> None:
    site = await serve(options=Options(max_request_size=1000))
    path = await site.create(len(DATA))
    body = chunked(DATA[:2000])
    checksum = sha1(DATA[:2000])
    connection = await site.begin(path, 0, body, length=None, Upload_Checksum=checksum)
    assert_refused(await connection.reply(), 413, "REQUEST_TOO_LONG")
    assert (await site.head(path)).offset == 0


# Owners


def naming(header: str = "X-User") -> Hooks:
    hooks = Hooks()

    @hooks.authorize
    async def who(event: Any) -> str | None:
        name: str | None = event.request.headers.get(header)
        return name

    return hooks


ADA, BOB = {"X-User": "ada"}, {"X-User": "bob"}


async def everything(site: Site, path: str, who: dict[str, str]) -> list[Reply]:
    """What one can ask about an upload."""
    patch = {**OCTETS, "Upload-Offset": "0", **who}
    final = {"Upload-Concat": f"final;{path}", **who}
    return [
        await site.request("HEAD", path, who),
        await site.request("PATCH", path, patch, b"hello"),
        await site.request("GET", path, who, tus=False),
        await site.request("DELETE", path, who),
        await site.request("POST", headers=final),
    ]


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_an_upload_is_not_there_for_others(serve: Serve, kind: str) -> None:
    site = await serve(MemoryStore() if kind == "memory" else None, hooks=naming())
    headers = {"Upload-Length": "5", "Upload-Concat": "partial", **ADA}
    path = (await site.request("POST", headers=headers)).path
    unknown = f"/files/{random_id()}"
    for who in (BOB, {}, {"X-User": ""}, {"X-User": "Ada"}):
        for there, gone in zip(
            await everything(site, path, who), await everything(site, unknown, who), strict=True
        ):
            assert (there.status, there.body) == (gone.status, gone.body)
            assert dict(there.headers, Date="") == dict(gone.headers, Date="")
            assert there.status in (404, 400)
    patch = {**OCTETS, "Upload-Offset": "0", **ADA}
    assert (await site.request("PATCH", path, patch, b"hello")).status == 204
    assert (await site.request("GET", path, ADA, tus=False)).body == b"hello"
    final = await site.request("POST", headers={"Upload-Concat": f"final;{path}", **ADA})
    assert (await site.request("GET", final.path, BOB, tus=False)).status == 404
    assert (await site.request("GET", final.path, ADA, tus=False)).body == b"hello"
    assert (await site.request("DELETE", path, ADA)).status == 204


async def test_others_disturb_nobody(serve: Serve) -> None:
    site = await serve(hooks=naming())
    headers = {"Upload-Length": str(len(DATA)), **ADA}
    path = (await site.request("POST", headers=headers)).path
    connection = await site.begin(path, 0, DATA[:70_000], length=len(DATA), X_User="ada")
    await site.until_stored(path, 70_000)
    for reply in (await everything(site, path, BOB))[:4]:
        assert reply.status == 404
    await connection.send(DATA[70_000:])
    assert (await connection.reply()).status == 204


async def test_the_owner_is_kept_and_told(serve: Serve, tmp_path: Any) -> None:
    hooks, owners = naming(), []

    @hooks.pre_create
    @hooks.post_finish
    def tell(event: Any) -> None:
        owners.append(event.upload.owner)

    site = await serve(hooks=hooks)
    headers = {"Upload-Length": "5", **OCTETS, **ADA}
    path = (await site.request("POST", headers=headers, body=b"hello")).path
    assert owners == ["ada", "ada"]
    await site.routes.server.stop()
    again = await serve(site.store, hooks=naming())
    assert (await again.request("GET", path, BOB, tus=False)).status == 404
    assert (await again.request("GET", path, ADA, tus=False)).body == b"hello"


async def test_what_has_no_owner_is_everybodys(serve: Serve) -> None:
    site = await serve(hooks=naming())
    path = (await site.request("POST", headers={"Upload-Length": "5"})).path
    assert (await site.request("HEAD", path, BOB)).offset == 0


async def test_true_is_no_owner_and_other_things_are_an_error(serve: Serve) -> None:
    hooks = Hooks()
    answers: list[Any] = [True, None, 5]
    hooks.authorize(lambda event: answers.pop(0))
    site = await serve(hooks=hooks)
    assert (await site.request("POST", headers={"Upload-Length": "5"})).status == 201
    assert (await site.request("POST", headers={"Upload-Length": "5"})).status == 201
    assert (await site.request("POST", headers={"Upload-Length": "5"})).status == 500


# Ids, paths, headers and the log


def test_ids_are_128_bits_that_nobody_can_guess() -> None:
    ids = {random_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch("[0-9a-f]{32}", upload_id) for upload_id in ids)
    bits = [sum(int(i, 16) >> bit & 1 for i in ids) for bit in range(128)]
    assert all(4_500 < count < 5_500 for count in bits)


EVIL_IDS = [
    "..",
    "../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "..%5c..%5cboot.ini",
    "a%00b",
    "a%0d%0aX-Evil:%20yes",
    "a.info",
    ".lock",
    "3f%2f..%2f.lock",
    "%ff%fe",
    "a" * 65,
]


@pytest.mark.parametrize("evil", EVIL_IDS)
async def test_no_id_names_a_path(serve: Serve, evil: str) -> None:
    site = await serve()
    await site.upload(b"hello")
    before = {path: path.lstat().st_mtime_ns for path in site.store.root.rglob("*")}
    for reply in await everything(site, f"/files/{evil}", {}):
        assert reply.status in (400, 404, 405)
        assert "X-Evil" not in reply.headers
    assert before == {path: path.lstat().st_mtime_ns for path in site.store.root.rglob("*")}


@pytest.mark.parametrize(
    "headers",
    [
        {"Upload-Metadata": "filename DQpYLUV2aWw6IHllcw=="},  # CR LF X-Evil: yes
        {"Upload-Metadata": "filename ../../etc/passwd"},
        {"X-Forwarded-Host": "evil.example\\r\\nX-Evil: yes"},
        {"X-HTTP-Method-Override": "DELETE\\nX-Evil: yes"},
    ],
)
async def test_nothing_a_client_sends_becomes_a_header_or_a_log_line(
    serve: Serve, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "aiotus_server")
    site = await serve(options=Options(trust_forwarded=True, location="absolute"))
    reply = await site.request("POST", headers={"Upload-Length": "5", **headers})
    assert "X-Evil" not in reply.headers
    if reply.status == 201:
        await site.request("PATCH", reply.path, {**OCTETS, "Upload-Offset": "0"}, b"hello")
        got = await site.get(reply.path)
        assert "X-Evil" not in got.headers
    assert not any("\n" in record.getMessage() for record in caplog.records)


# Heads


async def test_the_head_of_a_request_must_come_in_time(tmp_path: Any) -> None:

    async with server_process(tmp_path / "uploads", "--header-timeout=1s") as server:
        begun = time.monotonic()
        readers = []
        for start in (b"", b"POST /files/ HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(start)
            readers.append((reader, writer))
        quick = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
        await quick.send(head("OPTIONS", "/files/", {}))
        assert (await quick.reply()).status == 204
        for reader, writer in readers:
            async with asyncio.timeout(5):
                while await reader.read(1000):
                    pass
            writer.close()
        assert 0.9 < time.monotonic() - begun < 5
        await quick.send(head("OPTIONS", "/files/", {}))  # it is kept
        assert (await quick.reply()).status == 204
        await quick.close()


async def test_owners_named_by_a_proxy(tmp_path: Any) -> None:

    arguments = ("--trust-forwarded", "--owner-header=X-User")
    async with server_process(tmp_path / "uploads", *arguments) as server:

        async def ask(method: str, path: str, *fields: tuple[str, str]) -> Reply:
            connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
            lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Tus-Resumable: 1.0.0"]
            lines += [f"{name}: {value}" for name, value in fields]
            await connection.send("\r\n".join([*lines, "", ""]).encode())
            reply = await connection.reply(method=method)
            await connection.close()
            return reply

        create = ("POST", "/files/", ("Upload-Length", "5"), ("Content-Length", "0"))
        assert (await ask(*create)).status == 401
        twice = (("X-User", "ada"), ("X-User", "bob"))
        assert (await ask(*create, *twice)).status == 401
        path = (await ask(*create, ("X-User", "ada"))).path
        assert (await ask("HEAD", path, ("X-User", "ada"))).status == 200
        assert (await ask("HEAD", path, ("X-User", "bob"))).status == 404
