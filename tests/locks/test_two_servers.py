"""Two servers on one directory, black box: what one has begun, the other goes on with."""

from __future__ import annotations

import asyncio
import random
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server.stores.writing import PAGE
from tests.http.client import Site, assert_refused, sha1

from .neighbour import PATIENCE, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DATA = random.Random(4).randbytes(2_500_000)
AT_ONCE = 1.0  # seconds

Two = tuple[Site, Site]


@pytest.fixture
async def processes() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    started: list[asyncio.subprocess.Process] = []
    yield started
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def two(tmp_path: Path, processes: list[asyncio.subprocess.Process]) -> AsyncIterator[Two]:
    root = tmp_path / "uploads"

    async def start(loop: str) -> Site:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.locks.serve", str(root), loop),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            port = int(await process.stdout.readline())
        store: Any = SimpleNamespace(root=root)
        return Site(port, store, "/files", runner=None)  # type: ignore[arg-type]

    sites = await start("asyncio"), await start("uvloop")
    yield sites
    for site in sites:
        for connection in site.connections:
            await connection.close()


@pytest.mark.parametrize("sent", [0, 2 * PAGE, 2_000_000])
async def test_a_client_that_comes_back_through_the_other(two: Two, sent: int) -> None:
    first, second = two
    path = await first.create(len(DATA))
    old = await first.begin(path, 0, DATA[:sent], length=len(DATA))
    await asyncio.sleep(0.3)  # it hangs
    async with asyncio.timeout(AT_ONCE):
        assert (await second.head(path)).offset == sent
        assert (await second.patch(path, sent, DATA[sent:])).status == 204
    assert_refused(await old.reply(), 423)
    assert (await first.get(path)).body == DATA


async def test_one_that_does_not_ask_first(two: Two) -> None:
    first, second = two
    path = await second.create(len(DATA))
    old = await first.begin(path, 0, DATA[: 2 * PAGE], length=len(DATA))
    await first.until_stored(path, 2 * PAGE)
    async with asyncio.timeout(AT_ONCE):
        assert (await second.patch(path, 2 * PAGE, DATA[2 * PAGE :])).offset == len(DATA)
    assert_refused(await old.reply(), 423)
    assert (await second.get(path)).body == DATA


async def test_there_and_back_many_times(two: Two) -> None:
    path = await two[0].create(len(DATA))
    sent, piece = 0, len(DATA) // 20 // PAGE * PAGE
    while sent < len(DATA):
        for site in two:
            await site.begin(path, sent, DATA[sent : sent + piece], length=len(DATA) - sent)
            await site.until_stored(path, min(sent + piece, len(DATA)))
            sent = min(sent + piece, len(DATA))
            if sent == len(DATA):
                break
            other = two[1] if site is two[0] else two[0]
            assert (await other.head(path)).offset == sent
    assert (await two[0].get(path)).body == DATA


async def test_head_does_not_interrupt_bytes_under_a_checksum(two: Two) -> None:
    first, second = two
    path = await first.create(len(DATA))
    old = await first.begin(path, 0, DATA[:100_000], length=len(DATA), Upload_Checksum=sha1(DATA))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(AT_ONCE):
        assert (await second.head(path)).offset == 0
    await old.send(DATA[100_000:])
    assert (await old.reply()).status == 204
    assert (await second.head(path)).offset == len(DATA)


async def test_delete_through_the_other(two: Two) -> None:
    first, second = two
    path = await first.create(2 * PAGE)
    old = await first.begin(path, 0, DATA[:PAGE], length=2 * PAGE)
    await first.until_stored(path, PAGE)
    async with asyncio.timeout(AT_ONCE):
        assert (await second.delete(path)).status == 204
    assert_refused(await old.reply(), 410)
    assert (await first.head(path)).status == 404


async def test_partials_at_one_are_joined_by_the_other(two: Two) -> None:
    first, second = two
    parts = [await first.upload(DATA[:100], Upload_Concat="partial") for _ in range(3)]
    final = await second.create(Upload_Concat=f"final;{' '.join(parts)}")
    assert (await first.get(final)).body == DATA[:100] * 3


async def test_what_a_killed_server_had_begun(
    two: Two, processes: list[asyncio.subprocess.Process]
) -> None:
    first, second = two
    path = await first.create(len(DATA))
    await first.begin(path, 0, DATA[: 2 * PAGE], length=len(DATA))
    await first.until_stored(path, 2 * PAGE)
    processes[0].kill()
    async with asyncio.timeout(AT_ONCE):
        assert (await second.head(path)).offset == 2 * PAGE
        assert (await second.patch(path, 2 * PAGE, DATA[2 * PAGE :])).status == 204
    assert (await second.get(path)).body == DATA
