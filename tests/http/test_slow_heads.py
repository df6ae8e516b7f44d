"""A connection that does not finish the head of a request is closed; others are not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import MemoryStore, tus_routes

from ..processes import server_process
from .client import OCTETS, TUS, Connection, head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Connect = Callable[[int], Awaitable[Connection]]

TIMEOUT = 0.6  # seconds
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """An application of somebody's, with the timeout."""
    app = web.Application()
    app.add_routes(tus_routes(MemoryStore()))
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, header_timeout=TIMEOUT)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(3 * TIMEOUT)
    return web.Response(text="at last")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open a connection to a port: ``await connect(port)``. It is closed at the end."""
    connections: list[Connection] = []

    async def open_connection(port: int) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        connections.append(connection)
        return connection

    yield open_connection
    for connection in connections:
        await connection.close()


async def closed_after(connection: Connection) -> float:
    """Seconds until the server closes, which it does without a word."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(5 * TIMEOUT):
        assert await connection.closed()
    return loop.time() - begun


async def keep_sending(connection: Connection, data: bytes, *, pause: float) -> None:
    for byte in data:
        try:
            await connection.send(bytes([byte]))
        except ConnectionError:
            return
        await asyncio.sleep(pause)


async def test_a_head_that_trickles_is_not_waited_for(port: int, connect: Connect) -> None:
    connection = await connect(port)
    sending = asyncio.ensure_future(
        keep_sending(connection, b"POST /files HTTP/1.1\r\nX: " + b"x" * 500, pause=0.02)
    )
    assert TIMEOUT * 0.8 < await closed_after(connection) < TIMEOUT * 2
    await sending


async def test_a_connection_that_says_nothing_is_closed(port: int, connect: Connect) -> None:
    connection = await connect(port)
    assert TIMEOUT * 0.8 < await closed_after(connection) < TIMEOUT * 2


async def test_blank_lines_are_no_head(port: int, connect: Connect) -> None:
    """A server should ignore some before a request, and need not wait for it any longer."""
    connection = await connect(port)
    sending = asyncio.ensure_future(keep_sending(connection, b"\r\n" * 200, pause=0.01))
    assert TIMEOUT * 0.8 < await closed_after(connection) < TIMEOUT * 2
    await sending
    connection = await connect(port)
    await connection.send(b"\r\n\r\n" + head("OPTIONS", "/files"))
    assert (await connection.reply()).status == 204


async def test_the_second_head_is_not_waited_for_either(port: int, connect: Connect) -> None:
    connection = await connect(port)
    await connection.send(head("OPTIONS", "/files"))
    assert (await connection.reply()).status == 204
    await asyncio.sleep(1.5 * TIMEOUT)  # idle connections are aiohttp's keepalive_timeout's
    await connection.send(head("OPTIONS", "/files")[:-2])
    assert TIMEOUT * 0.8 < await closed_after(connection) < TIMEOUT * 2


async def test_a_head_that_comes_slowly_but_in_time_is_served(port: int, connect: Connect) -> None:
    connection = await connect(port)
    data = head("OPTIONS", "/files")
    await keep_sending(connection, data, pause=TIMEOUT / 2 / len(data))
    assert (await connection.reply()).status == 204


async def test_a_body_may_take_longer(port: int, connect: Connect) -> None:
    connection = await connect(port)
    fields = {**TUS, **OCTETS, "Upload-Length": "20", "Content-Length": "20"}
    await connection.send(head("POST", "/files", fields))
    await keep_sending(connection, b"x" * 20, pause=TIMEOUT / 10)
    assert (await connection.reply()).offset == 20


async def test_half_a_head_behind_a_request_in_hand_does_not_end_it(
    port: int, connect: Connect
) -> None:
    connection = await connect(port)
    await connection.send(head("GET", "/slow") + head("GET", "/slow")[:-2])
    assert (await connection.reply()).body == b"at last"
    assert await closed_after(connection) < TIMEOUT * 2


async def test_a_head_is_awaited_behind_a_body_too(port: int, connect: Connect) -> None:
    connection = await connect(port)
    fields = {**TUS, **OCTETS, "Upload-Length": "5", "Content-Length": "5"}
    await connection.send(head("POST", "/files", fields))
    await connection.send(b"hello" + head("OPTIONS", "/files")[:10])
    assert (await connection.reply()).offset == 5
    assert TIMEOUT * 0.5 < await closed_after(connection) < TIMEOUT * 2


@pytest.mark.parametrize("loop", ["--no-uvloop", "--uvloop"])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_bundled_server_closes_slow_heads_and_idle_connections(
    tmp_path: Path, connect: Connect, loop: str
) -> None:
    flags: Any = ["--header-timeout", "0.6", "--keepalive-timeout", "1.5", loop]
    async with server_process(tmp_path / "uploads", *flags) as server:
        silent, idle = await connect(server.port), await connect(server.port)
        assert TIMEOUT * 0.8 < await closed_after(silent) < TIMEOUT * 2
        idle = await connect(server.port)
        await idle.send(head("OPTIONS", "/files/"))
        assert (await idle.reply()).status == 204
        assert 1.2 < await closed_after(idle) < 2.5


@pytest.mark.parametrize("loop", ["--no-uvloop", "--uvloop"])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_bundled_server_may_keep_idle_connections(
    tmp_path: Path, connect: Connect, loop: str
) -> None:
    flags: Any = ["--header-timeout", "none", "--keepalive-timeout", "none", loop]
    async with server_process(tmp_path / "uploads", *flags) as server:
        connection = await connect(server.port)
        for _ in range(3):
            await asyncio.sleep(0.3)
            await connection.send(head("OPTIONS", "/files/"))
            assert (await connection.reply()).status == 204
