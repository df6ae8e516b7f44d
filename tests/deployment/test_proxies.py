"""The README's configurations for nginx and Caddy: right by their own check, and in use."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Options

from ..http.client import OCTETS, TUS, chunked, serving, sha1
from .proxies import Caddy, Nginx, ProxySite, behind, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Behind = Callable[..., Awaitable[ProxySite]]

MIB = 1024 * 1024

Kind = type[Nginx | Caddy]


@pytest.fixture(params=[Nginx, Caddy], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
async def serve_behind(kind: Kind, tmp_path: Path) -> AsyncIterator[Behind]:
    """Start a server and a proxy in front of it."""
    async with AsyncExitStack() as stack:

        async def start(**kwargs: Any) -> ProxySite:
            store = DiskStore(tmp_path / "uploads", durability="none")
            site = await stack.enter_async_context(serving(store, **kwargs))
            return await stack.enter_async_context(behind(kind, tmp_path, site))

        yield start


def test_configuration_passes_the_proxys_own_check(kind: Kind, tmp_path: Path) -> None:
    proxy = kind(tmp_path, port=0 if kind is Caddy else 8443, upstream=1080)
    done = subprocess.run(
        proxy.check,
        check=False,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


async def test_upload_and_download(serve_behind: Behind) -> None:
    site = await serve_behind()
    data = os.urandom(5 * MIB)  # more than nginx takes by default
    path = await site.create(len(data), Upload_Metadata="filename YQ==")
    assert (await site.patch(path, 0, data[:MIB])).offset == MIB
    assert (await site.head(path)).offset == MIB
    assert (await site.patch(path, MIB, data[MIB:])).status == 204
    assert (await site.get(path)).body == data
    assert (await site.get(path, Range="bytes=10-19")).body == data[10:20]
    assert (await site.delete(path)).status == 204


@pytest.mark.parametrize("path", ["/files", "/files/"])
async def test_creation_is_not_redirected(serve_behind: Behind, path: str) -> None:
    site = await serve_behind()
    assert (await site.request("POST", path, {"Upload-Length": "1"})).status == 201


async def test_other_headers_and_methods_pass(serve_behind: Behind) -> None:
    site = await serve_behind()
    reply = await site.request("OPTIONS", headers={"Origin": "https://app.example"})
    assert "creation" in reply.headers["Tus-Extension"]
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    path = await site.create(5)
    fields = {**OCTETS, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert (await site.request("POST", path, fields, b"he")).offset == 2
    wrong = await site.patch(path, 2, b"xxx", Upload_Checksum=sha1(b"llo"))
    assert (wrong.status, wrong.code) == (460, "CHECKSUM_MISMATCH")
    assert (await site.patch(path, 2, chunked(b"llo"), Transfer_Encoding="chunked")).offset == 5


async def _begin(site: ProxySite, path: str) -> Any:
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(2 * MIB)}
    await connection.send_head("PATCH", path, fields)
    await connection.send(bytes(MIB))
    return connection


async def test_bytes_arrive_while_the_client_still_sends(
    serve_behind: Behind, tmp_path: Path
) -> None:
    site = await serve_behind()
    path = await site.create(2 * MIB)
    connection = await _begin(site, path)
    (data,) = (tmp_path / "uploads").glob(f"*/{path.rpartition('/')[2]}")
    async with asyncio.timeout(10):
        while data.stat().st_size < MIB:
            await asyncio.sleep(0.02)
    assert (await site.head(path)).offset == MIB
    with suppress(ConnectionError):  # nginx has answered and closed by now
        await connection.send(bytes(1000))  # Caddy answers when it has read something
    assert (await connection.reply()).status == 423
    assert (await site.patch(path, MIB, bytes(MIB))).status == 204


async def test_bytes_of_a_client_that_vanished_are_kept(
    serve_behind: Behind, tmp_path: Path
) -> None:
    site = await serve_behind()
    path = await site.create(2 * MIB)
    connection = await _begin(site, path)
    (data,) = (tmp_path / "uploads").glob(f"*/{path.rpartition('/')[2]}")
    async with asyncio.timeout(10):
        while data.stat().st_size < MIB:
            await asyncio.sleep(0.02)
    connection.reset()
    offset = (await site.head(path)).offset
    assert offset == MIB
    assert (await site.patch(path, offset, bytes(2 * MIB - offset))).status == 204


async def test_refusal_comes_through(serve_behind: Behind) -> None:
    site = await serve_behind(options=Options(max_size=1000))
    reply = await site.request("POST", headers={"Upload-Length": "1001"})
    assert (reply.status, reply.code) == (413, "MAX_SIZE_EXCEEDED")
    path = await site.create(1000)
    reply = await site.patch(path, 0, bytes(MIB))
    assert (reply.status, reply.code) == (413, "BODY_TOO_LONG")


async def test_location_is_a_path(serve_behind: Behind) -> None:
    site = await serve_behind()
    reply = await site.request("POST", headers={"Upload-Length": "1"})
    assert reply.headers["Location"].startswith("/files/")


async def test_absolute_location_cannot_be_forged(kind: Kind, serve_behind: Behind) -> None:
    site = await serve_behind(options=Options(trust_forwarded=True))
    for forged in (
        {},
        {"Forwarded": "for=1.2.3.4;host=evil.example;proto=gopher"},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"},
    ):
        reply = await site.request("POST", headers={"Upload-Length": "1", **forged})
        assert reply.headers["Location"].startswith(f"{kind.scheme}://localhost")


async def test_checksum_trailer_is_lost(serve_behind: Behind) -> None:
    """Proxies drop trailers, and the README says so. Nothing is stored then."""
    site = await serve_behind()
    path = await site.create(5)
    body = chunked(b"hello", trailers={"Upload-Checksum": sha1(b"hello")})
    fields = {"Transfer_Encoding": "chunked", "Trailer": "Upload-Checksum"}
    reply = await site.patch(path, 0, body, **fields)
    assert (reply.status, reply.code) == (400, "CHECKSUM_TRAILER_MISSING")
    assert (await site.head(path)).offset == 0
