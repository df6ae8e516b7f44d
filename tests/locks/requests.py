"""Somebody who wants a lock, for tests of any locker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiotus_server.locks import Lock, Locker, Purpose

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 0.02  # seconds
LONG = 10.0  # seconds: a test that waits so long has failed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Request:
    """Somebody who wants a lock, and holds it until told."""

    def __init__(
        self,
        locker: Locker,
        purpose: Purpose = Purpose.APPEND,
        *,
        upload_id: str = "a",
        wait: float = LONG,
        gives_way: Callable[[Purpose], bool] | None = None,
    ) -> None:
        self.asked: list[Purpose] = []
        self.held = asyncio.Event()
        self.over = asyncio.Event()
        self.lock: Lock | None = None
        self._gives_way = gives_way
        self.task = asyncio.create_task(self._run(locker, upload_id, purpose, wait))

    async def _run(self, locker: Locker, upload_id: str, purpose: Purpose, wait: float) -> None:
        async with locker.lock(upload_id, purpose, wait=wait) as self.lock:
            self.held.set()
            self.lock.on_release_requested(self._hear)
            await self.over.wait()

    def _hear(self, purpose: Purpose) -> bool:
        self.asked.append(purpose)
        if self._gives_way is None:
            return True
        return self._gives_way(purpose)

    async def until_asked(self, count: int = 1) -> list[Purpose]:
        """What it was asked for, once that has happened so often."""
        async with asyncio.timeout(LONG):
            while len(self.asked) < count:
                await asyncio.sleep(0.001)
        return self.asked

    async def finish(self) -> None:
        self.over.set()
        await self.task
