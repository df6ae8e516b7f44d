"""What clients do to a server whose disk may fail meanwhile."""

from __future__ import annotations

import asyncio
import base64
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiotus_server import DiskStore, Expiry, Hooks, Options, sweep
from aiotus_server.protocol.errors import TusError

from ..http.client import OCTETS, DataPath, Reply, Site, chunked, serving, sha1
from .disk import ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Act = Callable[["Scene"], Awaitable[Reply | None]]

SMALL = b"hello world"
LARGE = random.Random(7).randbytes(300_000)


@dataclass
class Scene:
    """A server, and uploads made before the disk fails: what each has, and is to become."""

    site: Site
    folder: Path
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
    return published_as("published", scene)


@scenario
async def create_to_be_published_elsewhere(scene: Scene) -> Act:
    return published_as(ELSEWHERE, scene)


@scenario
async def append_to_be_published(scene: Scene) -> Act:
    path = await scene.create(SMALL, Upload_Metadata=named("published", scene))
    return lambda scene: scene.site.patch(path, 0, SMALL)


def published_as(kind: str, scene: Scene) -> Act:
    headers = {"Upload-Length": "11", "Upload-Metadata": named(kind, scene), **OCTETS}
    return lambda scene: scene.site.request("POST", headers=headers, body=SMALL)


def named(kind: str, scene: Scene) -> str:
    scene.number += 1
    return "name " + base64.b64encode(f"{kind}-{scene.number}".encode()).decode()


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
async def append_slowly_under_a_checksum(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 5)
    return lambda scene: slowly(scene, path, LARGE[5:], sha1(LARGE[5:]))


@scenario
async def append_slowly_under_a_wrong_checksum(scene: Scene) -> Act:
    path = await scene.begun(LARGE, 5)
    return lambda scene: slowly(scene, path, bytes(len(LARGE) - 5), sha1(b"other"))


async def slowly(scene: Scene, path: str, data: bytes, checksum: str) -> Reply:
    """So that bytes are stored before it is known whether they are right."""
    half, rest = data[:150_000], data[150_000:]
    connection = await scene.site.begin(path, 5, half, length=len(data), Upload_Checksum=checksum)
    await asyncio.sleep(0.03)
    with suppress(ConnectionError):
        await connection.send(rest)
    reply = await connection.reply()
    await connection.close()
    return reply


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


@asynccontextmanager
async def scene_in(
    folder: Path, durability: str = "always", tell: Callable[[str], object] = str
) -> AsyncIterator[Scene]:
    """The level is the one that has the most calls. ``tell`` is called with what is finished."""
    hooks = Hooks()

    @hooks.pre_create
    def place(event: Any) -> None:
        if name := event.metadata.get("name"):
            event.path = folder / name.decode()

    hooks.post_finish(lambda event: tell(event.upload.upload_id))
    options = Options(expiry=Expiry(timedelta(days=1)), direct_from=100_000)
    store = DiskStore(folder / "uploads", durability=durability)
    async with serving(store, data_path=DataPath.AS_SET, options=options, hooks=hooks) as site:
        await site.upload(b"the store is open")
        yield Scene(site, folder)
        # Else the store is closed whenever it is collected, while another's disk fails.
        await site.routes.server.stop()


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
        if head.offset < len(data):  # else it may have been published
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
