"""What a lock costs when nobody else wants it: microseconds for taking it and letting it go."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiotus_server import FileLocker, MemoryLocker
from aiotus_server.locks import Purpose

if TYPE_CHECKING:
    from aiotus_server import Locker

ROUNDS = 5
TIMES = 2000
HELD = 10_000


async def _cost(locker: Locker) -> float:
    begun = time.perf_counter()
    for number in range(TIMES):
        async with locker.lock(f"measured-{number}", Purpose.APPEND, wait=1):
            pass
    return (time.perf_counter() - begun) / TIMES * 1e6


async def _measure(locker: Locker, held: int) -> float:
    async with AsyncExitStack() as stack:
        for number in range(held):
            await stack.enter_async_context(locker.lock(f"held-{number}", Purpose.APPEND, wait=1))
        return statistics.median([await _cost(locker) for _ in range(ROUNDS)])


async def _report() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, locker, held in (
            ("MemoryLocker", MemoryLocker(), 0),
            ("FileLocker", FileLocker(folder), 0),
            (f"FileLocker, {HELD:,} held", FileLocker(folder), HELD),
        ):
            print(f"{name}: {await _measure(locker, held):.1f} µs")  # noqa: T201


def main() -> None:
    asyncio.run(_report())
