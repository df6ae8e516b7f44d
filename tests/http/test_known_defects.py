"""Defects that users of other servers came to know. Each has its test here, and the test its name;
other files test the same things at length.

| defect | at length |
|---|---|
| a finished upload is deleted by the expiry sweep, or answered 410 | `test_expiration` |
| finish hooks fire twice, or not for some kinds of uploads | `test_hooks`, `workers/test_recovery` |
| the maximum size is bypassed by a deferred length | `test_defer_length`, `test_concatenation` |
| bytes beyond the length are kept on disk | `test_core`, `test_defer_length` |
| data is written before it is allowed | `test_continue`, `test_hooks` |
| a crash duplicates bytes | `crashing`, `powercut`, `clients` |
| a HEAD waits without limit behind a dead PATCH | `test_locks`, `locks` |
| a lock poll blocks the event loop | `locks`, `test_event_loop` |
| one thread is held per slow upload | here only |
| ids from `Upload-Concat` are not validated | `test_concatenation` |
| a whole body is buffered in memory | `test_memory` |
| partials are deleted although the client uses them again | `test_concatenation` |
| the same id created twice overwrites the first | `test_hooks`, `stores` |
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Expiry, FileLocker, Hooks, Options, Refuse, sweep
from aiotus_server.stores.layout import path_of

from ..processes import server_process
from .client import OCTETS, TUS, Connection, DataPath, Reply, Site, chunked, head, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .conftest import Serve

MIB = 1024 * 1024
DATA = random.Random(1).randbytes(3 * MIB)


async def test_a_finished_upload_is_neither_swept_nor_answered_410(serve: Serve) -> None:
    site = await serve(options=Options(expiry=Expiry(timedelta(hours=1))))
    finished, unfinished = await site.upload(b"hello"), await site.create(5)
    site.routes.server.clock = lambda: datetime.now(UTC) + timedelta(days=400)
    assert (await site.head(finished)).offset == 5
    assert (await site.head(unfinished)).status == 410
    assert await sweep(site.routes.server) == 1
    assert (await site.head(finished)).status == 200
    assert (await site.get(finished)).body == b"hello"
    assert (await site.patch(finished, 5, b"")).status == 204


# Kinds of uploads, as far as the finish hooks of other servers know them apart


async def _plain(site: Site) -> str:
    return await site.upload(b"hello")


async def _zero_length(site: Site) -> str:
    return await site.create(0)


async def _with_upload(site: Site) -> str:
    fields = {**OCTETS, "Upload-Length": "5"}
    return (await site.request("POST", headers=fields, body=b"hello")).path


async def _concatenated(site: Site) -> str:
    part = await site.upload(b"hello", Upload_Concat="partial")
    return await site.create(Upload_Concat=f"final;{part}")


@pytest.mark.parametrize("way", [_plain, _zero_length, _with_upload, _concatenated])
async def test_finish_hooks_fire_once_for_every_kind_of_upload(
    serve: Serve, way: Callable[[Site], Awaitable[str]]
) -> None:
    hooks, fired = Hooks(), []
    hooks.pre_finish.append(lambda event: fired.append(("pre", event.upload.upload_id)))
    hooks.post_finish.append(lambda event: fired.append(("post", event.upload.upload_id)))
    site = await serve(hooks=hooks)
    path = await way(site)
    for _ in range(2):
        offset = (await site.head(path)).offset
        await site.patch(path, offset, b"")
        await site.get(path)
    upload_id = path.rpartition("/")[2]
    assert fired == [("pre", upload_id), ("post", upload_id)]


@pytest.mark.parametrize(
    "body", [b"x" * 11, chunked(b"x" * 6, b"x" * 5)], ids=["counted", "chunked"]
)
async def test_a_deferred_length_does_not_bypass_the_maximum_size(
    serve: Serve, body: bytes
) -> None:
    site = await serve(options=Options(max_size=10))
    coding = {} if len(body) == 11 else {"Transfer_Encoding": "chunked"}
    at_once = await site.create(Upload_Defer_Length="1")
    assert (await site.patch(at_once, 0, body, **coding)).status == 413
    assert len(site.stored(at_once)) <= 10
    little_by_little = await site.create(Upload_Defer_Length="1")
    assert (await site.patch(little_by_little, 0, b"x" * 10)).status == 204
    assert (await site.patch(little_by_little, 10, b"x")).status == 413
    assert (await site.patch(little_by_little, 10, b"", Upload_Length="11")).status == 413
    assert len(site.stored(little_by_little)) == 10


@pytest.mark.parametrize("in_creation", [True, False])
async def test_no_byte_beyond_the_length_is_kept_on_disk(site: Site, in_creation: bool) -> None:
    body = chunked(DATA[: 2 * MIB], DATA[2 * MIB :], b"one too many")
    fields = {**OCTETS, "Transfer-Encoding": "chunked"}
    if in_creation:
        fields["Upload-Length"] = str(len(DATA))
        reply = await site.request("POST", headers=fields, body=body)
        path = reply.path
    else:
        path = await site.create(len(DATA))
        reply = await site.patch(path, 0, body, Transfer_Encoding="chunked")
    assert reply.status == 413
    assert site.stored(path) == DATA
    assert (await site.get(path)).body == DATA


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Authorization": "nobody"}, 401),
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({"Content-Type": "application/octet-stream"}, 415),
    ],
    ids=["authorization", "version", "content type"],
)
async def test_no_data_is_written_before_it_is_allowed(
    serve: Serve, wrong: dict[str, str], status: int
) -> None:
    hooks = Hooks()

    @hooks.authorize
    def check(event: Any) -> None:
        if event.request.headers.get("Authorization") == "nobody":
            raise Refuse(401, "who are you?")

    site = await serve(hooks=hooks)
    path = await site.create(5)
    before = {file.name for file in site.store.root.rglob("*")}
    fields = {**OCTETS, "Upload-Offset": "0", **wrong}
    assert (await site.request("PATCH", path, fields, b"hello")).status == status
    fields = {**OCTETS, "Upload-Length": "5", **wrong}
    assert (await site.request("POST", None, fields, b"hello")).status == status
    assert site.stored(path) == b""
    assert {file.name for file in site.store.root.rglob("*")} == before


@pytest.mark.data_paths(DataPath.AS_SET)
async def test_a_crash_duplicates_no_byte(tmp_path: Path) -> None:
    """Killed in the middle of each PATCH, and resumed from wherever HEAD says."""
    async with server_process(tmp_path / "uploads", "--durability=none") as server:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
        fields = {**TUS, "Upload-Length": str(len(DATA)), "Content-Length": "0"}
        await connection.send(head("POST", "/files/", fields))
        path, offset = (await connection.reply()).path, 0
        for end in (700_001, 1_900_001, len(DATA)):
            await connection.close()
            connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
            await connection.send(_patch(path, offset) + DATA[offset:end])
            if end == len(DATA):
                assert (await connection.reply()).status == 204
                break
            await asyncio.sleep(0.3)  # time to store most of it
            await server.kill()
            await server.start()
            reply = await _asked(server.port, "HEAD", path)
            assert offset < reply.offset <= end
            offset = reply.offset
        await connection.close()
        assert (await _asked(server.port, "GET", path)).body == DATA


def _patch(path: str, offset: int) -> bytes:
    length = {"Content-Length": str(len(DATA) - offset)}
    return head("PATCH", path, {**TUS, **OCTETS, "Upload-Offset": str(offset), **length})


async def _asked(port: int, method: str, path: str) -> Reply:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    await connection.send(head(method, path, TUS))
    reply = await connection.reply(method=method)
    await connection.close()
    return reply


async def test_a_head_does_not_wait_behind_a_dead_patch(site: Site) -> None:
    path = await site.create(len(DATA))
    await site.begin(path, 0, DATA[: 2 * MIB], length=len(DATA))
    await site.until_stored(path, 2 * MIB)
    async with asyncio.timeout(2):
        assert (await site.head(path)).offset == 2 * MIB


@pytest.mark.data_paths(DataPath.AS_SET)
@pytest.mark.parametrize("elsewhere", [True, False], ids=["other server", "same server"])
async def test_waiting_for_a_lock_does_not_block_the_event_loop(
    tmp_path: Path, elsewhere: bool
) -> None:
    """Others are served while ten wait; both servers run in this event loop."""
    hooks, go_on = Hooks(), asyncio.Event()

    @hooks.pre_terminate
    async def hold(event: Any) -> None:
        await go_on.wait()

    def shared() -> dict[str, Any]:
        return {"locker": FileLocker(root), "hooks": hooks, "options": options}

    root, options = tmp_path / "uploads", Options(lock_timeout=timedelta(seconds=5))
    async with (
        serving(DiskStore(root), **shared()) as first,
        serving(DiskStore(root), **shared()) as second,
    ):
        path = await first.create(5)
        holding = asyncio.create_task(first.delete(path))
        asked = second if elsewhere else first
        waiting = [asyncio.create_task(asked.patch(path, 0, b"hello")) for _ in range(10)]
        for _ in range(30):
            await asked.upload(b"hello")
        assert not any(task.done() for task in (holding, *waiting))
        go_on.set()
        assert (await holding).status == 204
        assert {reply.status for reply in await asyncio.gather(*waiting)} <= {404, 410, 423}


async def test_a_slow_upload_holds_no_thread(site: Site) -> None:
    """A hundred of them are under way, and no more threads than a few hold: others get through."""
    await site.upload(DATA)  # what starts threads has started some
    paths = [await site.create(len(DATA)) for _ in range(100)]
    slow = [await site.begin(path, 0, DATA[:5000], length=len(DATA)) for path in paths]
    for connection in slow:
        await connection.send(DATA[5000:9000])
    assert threading.active_count() < 50
    async with asyncio.timeout(10):
        assert (await site.get(await site.upload(DATA))).body == DATA
    for connection in slow:
        await connection.send(DATA[9000:])
    assert [(await connection.reply()).status for connection in slow] == [204] * 100


async def test_ids_from_upload_concat_are_validated(site: Site) -> None:
    """Nor does any lead to another folder: beside those of the uploads there is one that looks
    like a partial."""
    part = await site.upload(b"hello", Upload_Concat="partial")
    plain = await site.upload(b"plain")
    upload_id = part.rpartition("/")[2]
    root = site.store.root
    path_of(root, "../secret").parent.parent.mkdir(exist_ok=True)
    for end in ("", ".info"):
        shutil.copy(f"{path_of(root, upload_id)}{end}", f"{root}/secret{end}")
    for other in (
        "/files/../secret",
        "/files/..%2fsecret",
        "/files/%2e%2e/secret",
        f"/files/{upload_id}.info",
        f"/files/{upload_id}/../../secret",
        f"{root}/secret",
        "/files/%00",
        "/files/unknown",
        plain,
    ):
        before = {file.name for file in root.rglob("*")}
        reply = await site.request("POST", headers={"Upload-Concat": f"final;{part} {other}"})
        assert reply.status == 400, other
        assert {file.name for file in root.rglob("*")} == before


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_a_body_is_never_whole_in_memory(site: Site, coding: str) -> None:
    """It is on the disk as it comes, and what is allocated stays small."""
    length = 48 * MIB
    path = await site.create(length)
    piece = DATA[:MIB] if coding == "counted" else chunked(DATA[:MIB])[:-5]
    tracemalloc.start()
    try:
        announced = length if coding == "counted" else None
        connection = await site.begin(path, 0, b"", length=announced)
        for _ in range(40):
            await connection.send(piece)
        (file,) = site.store.root.glob(f"??/{path.rpartition('/')[2]}")
        async with asyncio.timeout(10):
            while file.stat().st_size < 38 * MIB:
                await asyncio.sleep(0.01)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    connection.reset()


async def test_partials_outlive_their_final_and_are_used_again(site: Site) -> None:
    first = await site.upload(b"hello ", Upload_Concat="partial")
    second = await site.upload(b"world", Upload_Concat="partial")
    once = await site.create(Upload_Concat=f"final;{first} {second}")
    again = await site.create(Upload_Concat=f"final;{first} {first} {second}")
    assert (await site.get(once)).body == b"hello world"
    assert (await site.get(again)).body == b"hello hello world"
    assert [(await site.head(part)).offset for part in (first, second)] == [6, 5]


@pytest.mark.parametrize("chosen_by", ["hook", "option"])
async def test_an_id_that_is_created_twice_overwrites_nothing(serve: Serve, chosen_by: str) -> None:
    hooks, options = Hooks(), Options()
    if chosen_by == "option":
        options = Options(new_id=lambda: "same")
    else:

        @hooks.pre_create
        def choose(event: Any) -> None:
            event.upload_id = "same"

    site = await serve(hooks=hooks, options=options)
    path = await site.create(5, Upload_Metadata="first")
    assert path == "/files/same"
    assert (await site.patch(path, 0, b"hel")).status == 204
    fields = {**OCTETS, "Upload-Length": "9", "Upload-Metadata": "second"}
    assert (await site.request("POST", headers=fields, body=b"overwrite")).status == 409
    reply = await site.head(path)
    assert (reply.offset, reply.headers["Upload-Metadata"]) == (3, "first")
    assert (await site.patch(path, 3, b"lo")).status == 204
    assert (await site.get(path)).body == b"hello"
