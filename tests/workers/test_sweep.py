"""Several processes sweep one directory as one does."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from .servers import PATIENCE, REPOSITORY, Program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Program]]

UPLOADS = 30


async def test_what_has_expired_is_removed_and_told_once(start: Start, tmp_path: Path) -> None:
    server = await start("--workers=2", "--expires=1ms")
    due = {(await server.create(5)).rpartition("/")[2] for _ in range(UPLOADS)}
    sweepers = [await sweeper(tmp_path / "uploads") for _ in range(3)]
    told: list[str] = []
    async with asyncio.timeout(PATIENCE):
        outputs = await asyncio.gather(*(each.communicate(b"\n") for each in sweepers))
    for each, (out, err) in zip(sweepers, outputs, strict=True):
        assert (each.returncode, err) == (0, b"")
        told += out.decode().split()
    assert sorted(told) == sorted(due)
    assert not list(tmp_path.glob("uploads/??/*"))
    assert await server.stop() == 0


async def sweeper(directory: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.workers.sweeping", str(directory)),
        cwd=REPOSITORY,
        env=dict(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"ready\n"
    return process
