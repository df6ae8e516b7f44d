"""Bodies taken from the socket in threads: the same as over the event loop, but for the speed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, HookEvent, Hooks, Options, tus_routes
from aiotus_server.protocol.checksum import Checksum, algorithm, algorithms, format_checksum
from aiotus_server.pump import Pump

from .client import OCTETS, TUS, Connection, DataPath, Reply, Site, chunked, head, sha1

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Serve

MIB = 1024 * 1024
BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
PATHS = {"fast": 0, "portable": None}

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)  # these tests choose for themselves


@pytest.fixture
def pumped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each pump has taken."""
    counts: list[int] = []

    class Watched(Pump):
        def close(self) -> None:
            counts.append(self.taken)
            super().close()

    monkeypatch.setattr("aiotus_server._aiohttp.source.Pump", Watched)
    return counts


@pytest.fixture
def data() -> bytes:
    return random.Random(4).randbytes(3 * MIB)


def patch_head(path: str, length: int, offset: int = 0, **headers: str) -> bytes:
    fields = {**TUS, **OCTETS, "Upload-Offset": str(offset), "Content-Length": str(length)}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return head("PATCH", path, fields)


@BOTH_LOOPS
async def test_large_bodies_take_it(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve()
    path = await site.upload(data)
    assert site.stored(path) == data
    assert sum(pumped) > MIB


async def test_creation_with_upload_takes_it(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve()
    fields = {**OCTETS, "Upload-Length": str(len(data))}
    reply = await site.request("POST", headers=fields, body=data)
    assert (reply.status, reply.offset) == (201, len(data))
    assert site.stored(reply.path) == data
    assert sum(pumped) > MIB


async def test_small_bodies_do_not(serve: Serve, pumped: list[int]) -> None:
    site = await serve()
    await site.upload(bytes(MIB - 1))
    assert pumped == []


async def test_it_can_be_switched_off(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve(options=Options(direct_from=None))
    path = await site.upload(data)
    assert site.stored(path) == data
    assert pumped == []


async def test_chunked_bodies_do_not(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve(options=Options(direct_from=0))
    path = await site.create(len(data))
    reply = await site.patch(path, 0, chunked(data), Transfer_Encoding="chunked")
    assert reply.status == 204
    assert site.stored(path) == data
    assert pumped == []


@BOTH_LOOPS
async def test_unix_sockets_take_it(tmp_path: Path, pumped: list[int], data: bytes) -> None:
    store = DiskStore(tmp_path / "uploads", durability="none")
    app = web.Application()
    app.add_routes(tus_routes(store))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "socket").start()
    connection = Connection(*await asyncio.open_unix_connection(tmp_path / "socket"))
    fields = {**TUS, **OCTETS, "Upload-Length": str(len(data)), "Content-Length": str(len(data))}
    await connection.send(head("POST", "/files", fields) + data)
    reply = await connection.reply()
    assert (reply.status, reply.offset) == (201, len(data))
    await connection.close()
    await runner.cleanup()
    assert store.root.joinpath(*_found(store.root, reply)).read_bytes() == data
    assert sum(pumped) > MIB


def _found(root: Path, reply: Reply) -> tuple[str, ...]:
    (file,) = root.glob(f"??/{reply.path.rpartition('/')[2]}")
    return file.relative_to(root).parts


@BOTH_LOOPS
async def test_connection_goes_on_behind_it(serve: Serve, pumped: list[int], data: bytes) -> None:
    """Three PATCHes and two HEADs without waiting for an answer, then one more."""
    site = await serve()
    path = await site.create(3 * len(data))
    connection = await site.connect()
    ask = head("HEAD", path, TUS)
    first = patch_head(path, len(data))
    second = patch_head(path, len(data), len(data))
    sending = asyncio.ensure_future(connection.send(first + data + ask + second + data + ask))
    statuses, offsets = [], []
    for method in ("PATCH", "HEAD", "PATCH", "HEAD"):
        reply = await connection.reply(method=method)
        statuses.append(reply.status)
        offsets.append(reply.offset)
    await sending
    assert statuses == [204, 200, 204, 200]
    assert offsets == [len(data), len(data), 2 * len(data), 2 * len(data)]
    await connection.send(patch_head(path, len(data), 2 * len(data)) + data)
    assert (await connection.reply()).offset == 3 * len(data)
    assert site.stored(path) == 3 * data
    assert len(pumped) == 3


@BOTH_LOOPS
@pytest.mark.parametrize("how", ["reset", "close", "write_eof"])
async def test_what_arrived_before_the_client_went_is_kept(
    serve: Serve, pumped: list[int], data: bytes, how: str
) -> None:
    site = await serve()
    path = await site.create(2 * len(data))
    connection = await site.begin(path, 0, data, length=2 * len(data))
    if how == "reset":
        await site.until_stored(path, len(data))  # a reset takes along what is on its way
        connection.reset()
    elif how == "close":
        await connection.close()
    else:
        connection.writer.write_eof()
    await site.until_stored(path, len(data))
    reply = await site.head(path)
    assert (reply.status, reply.offset) == (200, len(data))
    assert (await site.patch(path, len(data), data)).status == 204
    assert site.stored(path) == 2 * data
    assert len(pumped) == 2


@BOTH_LOOPS
@pytest.mark.parametrize("direct_from", PATHS.values(), ids=PATHS)
async def test_what_the_kernel_has_counts_when_the_lock_is_wanted(
    serve: Serve, data: bytes, direct_from: int | None
) -> None:
    """The loop has read one piece when the body has to end, and the rest has arrived."""
    hooks, begun, go_on = Hooks(), asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def wait(event: HookEvent) -> None:
        begun.set()
        await go_on.wait()

    site = await serve(hooks=hooks, options=Options(direct_from=direct_from))
    path = await site.create(len(data))
    connection = await site.connect()
    await connection.send(patch_head(path, len(data)) + data[:1000])
    await begun.wait()
    await connection.send(data[1000:60_000])
    asking = await site.connect()
    await asking.send(head("HEAD", path, TUS))
    await asyncio.sleep(0.05)  # it wants the lock; if it were late, it would find the same
    go_on.set()
    assert (await asking.reply(method="HEAD")).offset == 60_000


@BOTH_LOOPS
async def test_it_ends_when_the_lock_is_wanted(
    serve: Serve, pumped: list[int], data: bytes
) -> None:
    """With all that had come, even what was not worth a thread yet."""
    site = await serve()
    path = await site.create(2 * len(data))
    connection = await site.begin(path, 0, data, length=2 * len(data))
    await site.until_stored(path, len(data))
    await connection.send(b"more")
    async with asyncio.timeout(5):
        reply = await site.head(path)
    assert len(data) <= reply.offset <= len(data) + 4
    assert (await connection.reply()).status == 423
    rest = data[reply.offset - len(data) :]
    assert (await site.patch(path, reply.offset, rest)).status == 204
    assert sha1(site.stored(path)[: len(data)]) == sha1(data)
    assert len(pumped) == 2


async def test_a_fast_sender_lets_go(serve: Serve, pumped: list[int]) -> None:
    site = await serve()
    path = await site.create(1024 * MIB)
    connection = await site.begin(path, 0, b"", length=1024 * MIB)

    async def pour() -> None:
        for _ in range(1024):
            await connection.send(bytes(MIB))

    pouring = asyncio.ensure_future(pour())
    while len(site.stored(path)) < 2 * MIB:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        reply = await site.head(path)
    assert reply.status == 200
    assert reply.offset >= 2 * MIB
    pouring.cancel()
    assert len(pumped) == 1


@BOTH_LOOPS
async def test_silence_ends_it(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.5)))
    path = await site.create(2 * len(data))
    connection = await site.begin(path, 0, data, length=2 * len(data))
    async with asyncio.timeout(10):
        assert await connection.closed()
    assert (await site.head(path)).offset == len(data)
    assert len(pumped) == 1


async def test_slow_bytes_do_not(serve: Serve, pumped: list[int]) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=1)))
    path = await site.create(MIB + 20)
    connection = await site.begin(path, 0, b"", length=MIB + 20)
    for _ in range(20):
        await connection.send(b"x")
        await asyncio.sleep(0.1)
    await connection.send(bytes(MIB))
    assert (await connection.reply()).status == 204
    assert len(pumped) == 1


@BOTH_LOOPS
async def test_stopping_ends_it(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve()
    path = await site.create(2 * len(data))
    connection = await site.begin(path, 0, data, length=2 * len(data))
    await site.until_stored(path, len(data))
    stopping = asyncio.ensure_future(site.runner.cleanup())
    async with asyncio.timeout(5):
        assert (await connection.reply()).status == 503
        await stopping
    assert site.stored(path) == data
    assert pumped[0] > 0


@pytest.mark.parametrize("name", algorithms())
async def test_checksums(serve: Serve, pumped: list[int], data: bytes, name: str) -> None:
    site = await serve()
    path = await site.create(2 * len(data))
    hasher = algorithm(name).new()
    hasher.update(data)
    right = format_checksum(Checksum(name, hasher.digest()))
    spoilt = data[:-1] + bytes([data[-1] ^ 1])
    assert (await site.patch(path, 0, spoilt, Upload_Checksum=right)).status == 460
    assert (await site.head(path)).offset == 0
    assert (await site.patch(path, 0, data, Upload_Checksum=right)).status == 204
    assert site.stored(path) == data
    assert len(pumped) == 2


async def test_full_disk(serve: Serve, pumped: list[int], data: bytes) -> None:
    """What was written before counts, and the upload goes on when there is room again."""
    site = await serve()
    path = await site.create(len(data))
    with _largest_file(2 * MIB):
        reply = await site.patch(path, 0, data)
    assert reply.status in (500, 507)
    offset = (await site.head(path)).offset
    assert offset == 2 * MIB
    assert (await site.patch(path, offset, data[offset:])).status == 204
    assert site.stored(path) == data
    assert sum(pumped) > MIB


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@BOTH_LOOPS
async def test_many_at_once(serve: Serve, pumped: list[int]) -> None:
    """More than there are threads, and some of them slow."""
    site = await serve()
    bodies = [random.Random(number).randbytes(2 * MIB) for number in range(24)]

    async def upload(number: int, body: bytes) -> str:
        path = await site.create(len(body))
        connection = await site.connect()
        await connection.send(patch_head(path, len(body)))
        step = len(body) // (8 if number % 3 else 1)
        for begin in range(0, len(body), step):
            await connection.send(body[begin : begin + step])
            await asyncio.sleep(0.01)
        assert (await connection.reply()).status == 204
        return path

    paths = await asyncio.gather(*(upload(*pair) for pair in enumerate(bodies)))
    assert [site.stored(path) for path in paths] == bodies
    assert len(pumped) == len(bodies)


async def test_descriptors_are_given_back(serve: Serve, pumped: list[int], data: bytes) -> None:
    site = await serve()
    await site.upload(data)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        path = await site.create(2 * len(data))
        connection = await site.begin(path, 0, data, length=2 * len(data))
        await site.until_stored(path, len(data))
        connection.reset()
        assert (await site.head(path)).offset == len(data)
    async with asyncio.timeout(5):
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)
    assert len(pumped) == 6


# The same bytes, split and delayed at random, over both paths


@BOTH_LOOPS
@pytest.mark.parametrize("seed", range(6))
async def test_any_split_gives_the_same_file(serve: Serve, tmp_path: Path, seed: int) -> None:
    digests = {
        name: await _fuzzed(
            await serve(
                DiskStore(tmp_path / name, durability="none"),
                options=Options(direct_from=direct_from),
            ),
            seed,
        )
        for name, direct_from in PATHS.items()
    }
    assert digests["fast"] == digests["portable"]


async def _fuzzed(site: Site, seed: int) -> list[Any]:
    """Some uploads in several requests on one connection, each cut into random segments; some
    with a checksum, right or wrong: what was answered, and what is stored."""
    dice = random.Random(seed)
    seen: list[Any] = []
    connection = await site.connect()
    for _ in range(4):
        size = dice.choice((1, 1000, 70_000, MIB, 2 * MIB + 17))
        body = dice.randbytes(size)
        path = await site.create(size)
        offset = 0
        while offset < size:
            piece = body[offset : offset + dice.randint(1, size)]
            headers = {}
            if dice.random() < 0.5:
                sent = piece if dice.random() < 0.7 else piece + b"wrong"
                headers = {"Upload-Checksum": sha1(sent)}
            behind = head("HEAD", path, TUS) if dice.random() < 0.5 else b""
            request = patch_head(path, len(piece), offset, **headers) + piece + behind
            await _in_segments(connection, request, dice)
            reply = await connection.reply(method="PATCH")
            seen.append((reply.status, reply.headers.get("Upload-Offset")))
            if behind:
                assert (await connection.reply(method="HEAD")).status == 200
            offset = (await site.head(path)).offset
            seen.append(offset)
        assert site.stored(path) == body
        seen.append(hashlib.sha256(site.stored(path)).hexdigest())
    return seen


async def _in_segments(connection: Connection, data: bytes, dice: random.Random) -> None:
    cuts = sorted(dice.randint(0, len(data)) for _ in range(dice.randint(0, 6)))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        await connection.send(data[begin:end])
        if dice.random() < 0.5:
            await asyncio.sleep(dice.choice((0, 0.001, 0.02)))
