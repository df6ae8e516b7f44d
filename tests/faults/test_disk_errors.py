"""Every call of the disk fails once, in every request, with every error that a disk may have.

The client hears of it with the right status, the offset that it is told is true, nothing is left
open or locked, and when the disk works again the client goes on to right bytes.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Expiry, Hooks, Options, sweep
from aiotus_server.protocol.errors import TusError

from ..http.client import OCTETS, DataPath, Reply, Site, chunked, serving, sha1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from .disk import Disk

    Act = Callable[["Scene"], Awaitable[Reply | None]]

SMALL = b"hello world"
LARGE = random.Random(7).randbytes(300_000)
ERRORS = {
    errno.ENOSPC: 507,
    errno.EDQUOT: 507,
    errno.EIO: 500,
    errno.EMFILE: 503,
    errno.EROFS: 500,
}


@dataclass
class Scene:
    """A server, and uploads made before the disk fails: what each has, and is to become."""

    site: Site
    folder: Path
    finished: list[str] = field(default_factory=list)
    paths: dict[str, bytes] = field(default_factory=dict)
    number: int = 0
    may_go: str = ""

    async def create(self, data: bytes, **headers: str) -> str:
        path = await self.site.create(len(data), **headers)
        self.paths[path] = data
        return path

    async def begun(self, data: bytes, size: int, **headers: str) -> str:
        path = await self.create(data, **headers)
        assert (await self.site.patch(path, 0, data[:size])).status == 204
        return path


SCENARIOS: dict[str, Callable[[Scene], Awaitable[Act]]] = {}


def scenario(prepare: Callable[[Scene], Awaitable[Act]]) -> Callable[[Scene], Awaitable[Act]]:
    """It makes what is needed, and returns the request in which the disk fails."""
    SCENARIOS[prepare.__name__] = prepare
    return prepare


@scenario
async def create(scene: Scene) -> Act:
    return lambda scene: scene.site.request("POST", headers={"Upload-Length": "11"})


@scenario
async def create_with_upload(scene: Scene) -> Act:
    headers = {"Upload-Length": "11", **OCTETS}
    return lambda scene: scene.site.request("POST", headers=headers, body=SMALL)


@scenario
async def create_with_half(scene: Scene) -> Act:
    headers = {"Upload-Length": "11", **OCTETS}
    return lambda scene: scene.site.request("POST", headers=headers, body=SMALL[:5])


@scenario
async def create_to_be_published(scene: Scene) -> Act:
    scene.number += 1
    name = base64.b64encode(f"published-{scene.number}".encode()).decode()
    headers = {"Upload-Length": "11", "Upload-Metadata": f"name {name}", **OCTETS}
    return lambda scene: scene.site.request("POST", headers=headers, body=SMALL)


@scenario
async def append_all(scene: Scene) -> Act:
    path = await scene.create(SMALL)
    return lambda scene: scene.site.patch(path, 0, SMALL)


@scenario
async def append_the_rest(scene: Scene) -> Act:
    path = await scene.begun(SMALL, 5)
    return lambda scene: scene.site.patch(path, 5, SMALL[5:])


@scenario
async def append_much(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 5)
    return lambda scene: scene.site.patch(path, 5, LARGE[5:])


@scenario
async def append_in_chunks(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 70_000)

    async def act(scene: Scene) -> Reply:
        body = chunked(LARGE[70_000:200_000], LARGE[200_000:])
        connection = await scene.site.begin(path, 70_000, body, length=None)
        reply = await connection.reply()
        await connection.close()
        return reply

    return act


@scenario
async def append_under_a_checksum(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 5)
    checksum = sha1(LARGE[5:])
    return lambda scene: scene.site.patch(path, 5, LARGE[5:], Upload_Checksum=checksum)


@scenario
async def append_under_a_wrong_checksum(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 5)
    wrong = bytes(len(LARGE) - 5)
    return lambda scene: scene.site.patch(path, 5, wrong, Upload_Checksum=sha1(b"other"))


@scenario
async def declare_the_length(scene: Scene) -> Act:
    path = await scene.site.create(Upload_Defer_Length="1")
    scene.paths[path] = SMALL
    assert (await scene.site.patch(path, 0, SMALL[:5])).status == 204
    return lambda scene: scene.site.patch(path, 5, SMALL[5:], Upload_Length="11")


@scenario
async def concatenate(scene: Scene) -> Act:
    parts = [await scene.begun(data, len(data), Upload_Concat="partial") for data in (SMALL, LARGE)]
    headers = {"Upload-Concat": f"final;{' '.join(parts)}"}
    return lambda scene: scene.site.request("POST", headers=headers)


@scenario
async def complete_the_last_partial(scene: Scene) -> Act:
    parts = [await scene.create(data, Upload_Concat="partial") for data in (SMALL, LARGE)]
    headers = {"Upload-Concat": f"final;{' '.join(parts)}"}
    final = (await scene.site.request("POST", headers=headers)).path
    assert (await scene.site.patch(parts[0], 0, SMALL)).status == 204
    scene.paths[final] = SMALL + LARGE
    return lambda scene: scene.site.patch(parts[1], 0, LARGE)


@scenario
async def inspect(scene: Scene) -> Act:
    path = await scene.begun(SMALL, 5)

    async def act(scene: Scene) -> Reply | None:
        with suppress(asyncio.IncompleteReadError):
            return await scene.site.head(path)
        return None  # rather than an answer without an offset

    return act


@scenario
async def download(scene: Scene) -> Act:
    path = await scene.begun(SMALL, len(SMALL))

    async def act(scene: Scene) -> Reply | None:
        with suppress(asyncio.IncompleteReadError):
            return await scene.site.get(path)
        return None  # the head had gone

    return act


@scenario
async def terminate(scene: Scene) -> Act:
    path = await scene.begun(SMALL, 5)

    async def act(scene: Scene) -> Reply:
        scene.may_go = path
        return await scene.site.delete(path)

    return act


@scenario
async def sweep_the_expired(scene: Scene) -> Act:
    path = await scene.begun(SMALL, 5)
    server = scene.site.routes.server

    async def act(scene: Scene) -> None:
        server.clock = lambda: datetime.now(UTC) + timedelta(days=2)
        with suppress(TusError):
            await sweep(server)
        server.clock = lambda: datetime.now(UTC)
        scene.may_go = path

    return act


MOST = 50  # calls; the sweep has more and more to look at
# Errors that are all answered alike need not come at every call.
STEPS = {errno.ENOSPC: 1, errno.EIO: 1, errno.EDQUOT: 5, errno.EMFILE: 3, errno.EROFS: 5}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """With the durability that has the most calls."""
    hooks, finished = Hooks(), []

    @hooks.pre_create
    def place(event: Any) -> None:
        if name := event.metadata.get("name"):
            event.path = tmp_path / name.decode()

    hooks.post_finish(lambda event: finished.append(event.upload.upload_id))
    options = Options(expiry=Expiry(timedelta(days=1)), direct_from=100_000)
    store = DiskStore(tmp_path / "uploads", durability="always")
    async with serving(store, data_path=DataPath.AS_SET, options=options, hooks=hooks) as site:
        await site.upload(b"the store is open")
        yield Scene(site, tmp_path, finished)


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
        await check(scene, context)
        assert await no_more_than(before), context
        scene.paths.clear()
        if len(calls) <= call:
            break
    assert calls
    assert failures or name == "sweep_the_expired"


async def check(scene: Scene, context: str) -> None:
    """Each upload has bytes of its own up to its offset, and takes the rest."""
    for path, data in scene.paths.items():
        async with asyncio.timeout(5):
            head = await scene.site.head(path)
        if path == scene.may_go and head.status == 404:
            continue
        assert head.status == 200, context
        if head.headers.get("Upload-Concat", "").startswith("final"):
            await until_whole(scene.site, path, data)
            continue
        assert scene.site.stored(path)[: head.offset] == data[: head.offset], context
        rest = {} if "Upload-Length" in head.headers else {"Upload_Length": str(len(data))}
        if head.offset < len(data) or rest:
            reply = await scene.site.patch(path, head.offset, data[head.offset :], **rest)
            assert reply.status == 204, context
        assert (await scene.site.get(path)).body == data, context


async def until_whole(site: Site, path: str, data: bytes) -> None:
    async with asyncio.timeout(5):
        while (reply := await site.get(path)).status != 200:
            await site.head(path)  # which has it made again
            await asyncio.sleep(0.01)
    assert reply.body == data


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
