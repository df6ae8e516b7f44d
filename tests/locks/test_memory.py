"""What only the locker of one process promises."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from aiotus_server.locks import MemoryLocker
from aiotus_server.protocol.errors import UploadLocked

from .requests import SOON, Request, turns

if TYPE_CHECKING:
    import asyncio


async def test_nothing_is_kept_for_an_upload_that_nobody_uses() -> None:
    locker = MemoryLocker()

    async def use() -> weakref.ref[asyncio.Task[None] | None]:
        request = Request(locker)
        await request.held.wait()
        with suppress(UploadLocked):
            await Request(locker, wait=SOON).task
        await request.finish()
        return weakref.ref(request.task)

    used = [await use() for _ in range(3)]
    await turns()
    gc.collect()
    assert [ref() for ref in used] == [None, None, None]
    assert locker.__dict__ == MemoryLocker().__dict__


def test_it_is_for_one_process() -> None:
    assert not MemoryLocker.spans_processes
