"""Every call of the disk fails once, in every request, with every error that a disk may have.

The client hears of it with the right status, the offset that it is told is true, nothing is left
open or locked, and when the disk works again the client goes on to right bytes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from .scenarios import LARGE, SCENARIOS, Scene, check, scene_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .disk import Disk

ERRORS = {
    errno.ENOSPC: 507,
    errno.EDQUOT: 507,
    errno.EFBIG: 507,
    errno.EIO: 500,
    errno.EMFILE: 503,
    errno.EROFS: 503,
}
MOST = 150  # calls; the sweep has more and more to look at
# Errors that are all answered alike need not come at every call.
STEPS = {
    errno.ENOSPC: 1,
    errno.EIO: 1,
    errno.EDQUOT: 5,
    errno.EFBIG: 7,
    errno.EMFILE: 3,
    errno.EROFS: 5,
}


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Where a flush that does not fail takes no time, if there is such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        async with scene_in(Path(folder)) as scene:
            yield scene


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
async def test_every_call_may_fail(scene: Scene, disk: Disk, name: str, number: int) -> None:
    failures = 0
    step = STEPS[number]
    for call in range(random.randrange(step), MOST, step):
        act = await SCENARIOS[name](scene)
        before = descriptors()
        disk.arm(number, call)
        reply = await act(scene)
        calls = disk.disarm()
        failures += reply is None or reply.status >= 500
        context = f"{name}, call {call} of {calls}: {reply}"
        assert reply is None or reply.status < 500 or reply.status == ERRORS[number], context
        assert reply is None or reply.code != "HOOK_FAILED", context
        await check(scene, context)
        assert await no_more_than(before), context
        scene.paths.clear()
        if len(calls) <= call:
            break
    assert calls
    assert len(calls) < MOST or name == "sweep_the_expired"
    assert failures or name == "sweep_the_expired"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def no_more_than(before: int) -> bool:
    for _ in range(100):
        if descriptors() <= before:
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
async def test_nothing_works_for_a_while(scene: Scene, disk: Disk, number: int) -> None:
    """Every call fails; then none."""
    path = await scene.begun(LARGE, 70_000)
    before = descriptors()
    disk.arm(number, 0, on=True)
    for _ in range(3):
        assert (await scene.site.patch(path, 70_000, LARGE[70_000:])).status == ERRORS[number]
        reply = await scene.site.request("POST", headers={"Upload-Length": "5"})
        assert reply.status == ERRORS[number]
        assert (await scene.site.delete(path)).status == ERRORS[number]
        assert (await scene.site.get(path)).status in (ERRORS[number], 404)
    disk.disarm()
    await check(scene, "afterwards")
    assert await no_more_than(before)
