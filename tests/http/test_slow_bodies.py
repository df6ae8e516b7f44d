"""Bodies that trickle are ended, those that are only slow are not; black box.

Their connections are closed without an answer: clients come back then, and not after a 4xx.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from aiotus_server import Hooks, Options

from .client import Connection, sha1

if TYPE_CHECKING:
    from .conftest import Serve

MIB = 1024 * 1024
LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


SLOW = Options(
    min_rate=10_000, min_rate_window=timedelta(seconds=0.5), read_timeout=timedelta(seconds=30)
)


async def trickle(connection: Connection, piece: bytes, *, seconds: float, pause: float) -> float:
    """Send ``piece`` again and again until the connection is closed: how long it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    closed = asyncio.ensure_future(connection.closed())
    async with asyncio.timeout(seconds):
        while not closed.done():
            with contextlib.suppress(ConnectionError):
                await connection.send(piece)
            await asyncio.sleep(pause)
    assert closed.result()
    return loop.time() - begun


@LOOPS
@pytest.mark.parametrize("length", [200, 40_000, 4 * MIB, None])
async def test_a_body_that_trickles_is_ended_and_kept(serve: Serve, length: int | None) -> None:
    """Though never silent, as long as slow-loris wants it. Small bodies, large ones in threads
    and through the loop, and those in chunks."""
    site = await serve(options=SLOW)
    path = await site.create(5 * MIB)
    piece = b"x" if length else b"1\r\nx\r\n"
    connection = await site.begin(path, 0, b"", length=length)
    took = await trickle(connection, piece, seconds=5, pause=0.02)
    assert 0.4 < took < 2
    offset = (await site.head(path)).offset
    assert 5 <= offset <= 100
    # Nothing is held: the client goes on where it was.
    assert (await site.patch(path, offset, b"y" * 10)).offset == offset + 10
    assert site.stored(path) == b"x" * offset + b"y" * 10
    assert not site.routes.server.sources


@LOOPS
@pytest.mark.parametrize("length", [200, 4 * MIB])
async def test_a_silent_body_ends_with_its_window(serve: Serve, length: int) -> None:
    site = await serve(options=SLOW)
    path = await site.create(5 * MIB)
    connection = await site.begin(path, 0, b"x" * 100, length=length)
    async with asyncio.timeout(3):
        assert await connection.closed()
    assert (await site.head(path)).offset == 100


async def test_a_slow_body_under_a_checksum_is_discarded(serve: Serve) -> None:
    site = await serve(options=SLOW)
    path = await site.create(5 * MIB)
    connection = await site.begin(path, 0, b"x", length=4 * MIB, Upload_Checksum=sha1(b"xy"))
    await trickle(connection, b"x", seconds=5, pause=0.05)
    assert (await site.head(path)).offset == 0
    assert site.stored(path) == b""


@LOOPS
@pytest.mark.parametrize("length", [40_000, 2 * MIB])
async def test_a_slow_body_that_is_fast_enough_is_let_alone(serve: Serve, length: int) -> None:
    """At more than the least rate, in small pieces and over several windows."""
    site = await serve(options=SLOW)
    path = await site.create(length)
    connection = await site.begin(path, 0, b"", length=length)
    for _ in range(40):
        await connection.send(b"x" * 1000)
        await asyncio.sleep(0.04)
    await connection.send(b"x" * (length - 40_000))
    assert (await connection.reply()).offset == length


async def test_a_body_that_rests_within_the_window_is_let_alone(serve: Serve) -> None:
    """What counts is the average: all at once, and then nothing for a while."""
    options = Options(min_rate=10_000, min_rate_window=timedelta(seconds=2))
    site = await serve(options=options)
    path = await site.create(2 * MIB)
    connection = await site.begin(path, 0, b"x" * 30_000, length=2 * MIB)
    await asyncio.sleep(1)
    await connection.send(b"x" * (2 * MIB - 30_000))
    assert (await connection.reply()).offset == 2 * MIB


async def test_a_slow_hook_is_not_the_clients_slowness(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.post_receive
    async def rest(event: object) -> None:
        await asyncio.sleep(0.7)

    site = await serve(options=replace(SLOW, progress_interval=timedelta(0)), hooks=hooks)
    path = await site.create(40_000)
    connection = await site.begin(path, 0, b"x" * 100, length=40_000)
    await asyncio.sleep(0.3)
    await connection.send(b"x" * 39_900)
    assert (await connection.reply()).offset == 40_000


async def test_without_a_least_rate_a_body_may_trickle(serve: Serve) -> None:
    site = await serve(options=replace(SLOW, min_rate=0))
    path = await site.create(2 * MIB)
    connection = await site.begin(path, 0, b"", length=2 * MIB)
    for _ in range(30):
        await connection.send(b"x")
        await asyncio.sleep(0.05)
    await connection.send(b"x" * (2 * MIB - 30))
    assert (await connection.reply()).offset == 2 * MIB
