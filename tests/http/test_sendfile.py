"""Downloads that the kernel sends: the same bytes, and a connection that goes on."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import MemoryStore, _aiohttp

from .client import TUS, DataPath, head

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiotus_server.protocol.uploads import Upload

    from .client import Site
    from .conftest import Serve

MIB = 1024 * 1024
BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
DATA = random.Random(8).randbytes(8 * MIB + 11)  # more than the sockets' buffers hold

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each large download, whether the kernel sent it."""
    seen: list[bool] = []
    send_file = _aiohttp.send_file

    async def watched(*args: Any) -> bool:
        done = await send_file(*args)
        seen.append(done)
        return done

    monkeypatch.setattr(_aiohttp, "send_file", watched)
    return seen


async def until_sent(sent: list[bool], count: int) -> None:
    """A client has the last byte before the server knows that it has sent it."""
    async with asyncio.timeout(5):
        while len(sent) < count:
            await asyncio.sleep(0.01)
    assert sent == [True] * count


@pytest.fixture
async def path(site: Site) -> str:
    return await site.upload(DATA)


@BOTH_LOOPS
async def test_large_downloads_are_sent_by_the_kernel(
    site: Site, path: str, sent: list[bool]
) -> None:
    reply = await site.get(path)
    assert reply.body == DATA
    part = await site.get(path, Range=f"bytes={MIB}-{4 * MIB}")
    assert (part.status, part.body) == (206, DATA[MIB : 4 * MIB + 1])
    await until_sent(sent, 2)


async def test_small_ones_are_not(site: Site, sent: list[bool]) -> None:
    path = await site.upload(bytes(1000))
    assert (await site.get(path)).body == bytes(1000)
    assert sent == []


async def test_a_store_without_files_sends_pieces(serve: Serve, sent: list[bool]) -> None:
    site = await serve(MemoryStore())
    path = await site.upload(DATA)
    assert (await site.get(path)).body == DATA
    assert sent == []


@BOTH_LOOPS
async def test_connection_goes_on_behind_it(site: Site, path: str, sent: list[bool]) -> None:
    connection = await site.connect()
    get, ask = head("GET", path), head("HEAD", path, TUS)
    await connection.send(get + ask + get + ask)
    for _ in range(2):
        assert (await connection.reply()).body == DATA
        assert (await connection.reply(method="HEAD")).offset == len(DATA)
    await connection.send(get)
    assert (await connection.reply()).body == DATA
    await until_sent(sent, 3)


@BOTH_LOOPS
async def test_slow_readers_get_every_byte(site: Site, path: str, sent: list[bool]) -> None:
    connection = await site.connect()
    await connection.send(head("GET", path))
    await connection.reader.readuntil(b"\r\n\r\n")
    body = b""
    while len(body) < len(DATA):
        body += await connection.reader.read(500_000)
        await asyncio.sleep(0.002)
    assert body == DATA
    await until_sent(sent, 1)


@BOTH_LOOPS
async def test_a_client_that_leaves_leaves_nothing_behind(
    site: Site, path: str, sent: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    await site.get(path)
    before = len(os.listdir("/proc/self/fd"))
    for how in ("reset", "close"):
        connection = await site.connect()
        await connection.send(head("GET", path))
        await connection.reader.readexactly(MIB)
        if how == "reset":
            connection.reset()
        else:
            await connection.close()
    async with asyncio.timeout(10):
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)
    assert caplog.records == []
    assert (await site.get(path)).body == DATA
    await until_sent(sent, 2)  # those that were cut raised


@BOTH_LOOPS
async def test_stopping_does_not_wait_for_a_client_that_does_not_read(
    site: Site, path: str
) -> None:
    connection = await site.connect()
    await connection.send(head("GET", path))
    await connection.reader.readexactly(1000)
    begun = asyncio.get_running_loop().time()
    await site.runner.cleanup()
    assert asyncio.get_running_loop().time() - begun < 4  # the application's own limit is 5 s


async def test_stopping_lets_a_client_that_reads_go_on(site: Site, path: str) -> None:
    connection = await site.connect()
    await connection.send(head("GET", path))
    await connection.reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.ensure_future(site.runner.cleanup())
    assert await connection.reader.readexactly(len(DATA)) == DATA
    await stopping


async def test_many_at_once(site: Site, path: str, sent: list[bool]) -> None:
    replies = await asyncio.gather(*(site.get(path) for _ in range(12)))
    assert all(reply.body == DATA for reply in replies)
    await until_sent(sent, 12)


async def test_a_file_that_was_cut_ends_the_connection(
    site: Site, path: str, sent: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody truncates it behind the store's back while it is sent."""
    connection = await site.connect()
    await connection.send(head("GET", path))
    await connection.reader.readuntil(b"\r\n\r\n")
    for file in site.store.root.glob(f"??/{path.rpartition('/')[2]}"):
        os.truncate(file, 0)
    assert len(await connection.reader.read()) < len(DATA)
    assert sent == []
    assert "ended early" in caplog.text


async def test_an_error_in_the_middle_ends_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Another answer would be taken for bytes of the file."""

    class Torn(MemoryStore):
        async def read(self, upload: Upload, start: int, stop: int) -> AsyncGenerator[bytes]:
            yield b"first"
            raise OSError("the disk is gone")

    site = await serve(Torn())
    path = await site.upload(bytes(1000))
    connection = await site.connect()
    await connection.send(head("GET", path))
    await connection.reader.readuntil(b"\r\n\r\n")
    assert await connection.reader.read() == b"first"
    assert "the disk is gone" in caplog.text
