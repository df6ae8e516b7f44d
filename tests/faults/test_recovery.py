"""Every call of the disk fails once while a server makes up for what a crash has cut off."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Hooks
from aiotus_server.call import Call
from aiotus_server.options import Options
from aiotus_server.protocol.uploads import Final, Outcome, Partial
from aiotus_server.recovery import recover
from aiotus_server.server import Server
from aiotus_server.stores.layout import path_of
from aiotus_server.stores.publishing import copy_of
from aiotus_server.testing import StoreContract, arrived

from ..http.client import DataPath, serving

if TYPE_CHECKING:
    from pathlib import Path

    from .disk import Disk

new = StoreContract.new


async def crashed(root: Path) -> None:
    """A complete upload that nobody was told of, a note of one that is gone, and a final whose
    partials have come."""
    store = DiskStore(root)
    await store.open(shared=False)
    await store.create(new("untold", finish_due=True), arrived(b"hello"))
    gone = await store.create(new("gone"), arrived(b"hello"))
    parts = ("one", "two")
    await store.create(new("final", 10, concat=Final(parts)), arrived())
    for part in parts:
        await store.create(new(part, concat=Partial(), concat_header="partial"), arrived(b"hello"))
    await store.terminate(gone)
    (root / "finishing" / "gone").symlink_to("due")
    await store.close()


async def recovered(root: Path) -> list[str]:
    """What the application is told."""
    told: list[str] = []
    hooks = Hooks()

    @hooks.post_finish
    def tell(event: Any) -> None:
        told.append(event.upload.upload_id)

    server = Server(DiskStore(root), hooks=hooks)
    await server.start()
    options = Options(delete_partials=True)
    offer = options.offer(server.capabilities, trailers=False)
    await recover(server, Call(options, offer, upload_url=lambda upload_id: upload_id))
    await server.stop()
    return told


async def test_what_publishing_has_left_is_cleared_away(tmp_path: Path) -> None:
    """A crash came between the info file that says so and the end."""
    root, target = tmp_path / "uploads", tmp_path / "published"
    store = DiskStore(root)
    await store.open(shared=False)
    facts = new("u", finish_due=True, path=str(target))
    upload = await store.finish(await store.create(facts, arrived(b"hello")), Outcome())
    await store.close()
    left = copy_of(target, "u"), path_of(root, "u")
    for path in left:
        os.link(target, path)
    assert upload.published
    assert await recovered(root) == ["u"]
    assert not any(path.exists() for path in left)
    assert target.read_bytes() == b"hello"


@pytest.mark.parametrize("folder", ["expiry", "finishing", "joining", "unverified", "waiting"])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", [".DS_Store", "0" * 32, "x y"])
async def test_what_is_not_ours_is_in_nobodys_way(
    tmp_path: Path, folder: str, kind: str, name: str
) -> None:
    await crashed(tmp_path)
    stray = tmp_path / folder / name
    stray.mkdir() if kind == "folder" else stray.write_text("x")
    assert sorted(await recovered(tmp_path)) == ["final", "untold"]
    assert await recovered(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
async def test_recovery_is_made_up_for(tmp_path: Path, disk: Disk, number: int) -> None:
    """By the next."""
    descriptors = len(os.listdir("/proc/self/fd"))
    for call in range(200):
        root = tmp_path / str(call)
        await crashed(root)
        disk.arm(number, call + len(await opening(root, disk)))
        told = await recovered(root)
        calls = disk.disarm()
        for mark in (root / "waiting").rglob("*"):
            os.utime(mark, (0, 0))  # no creation is under way
        told += await recovered(root)
        assert set(told) == {"untold", "final"}, (call, calls[call:])
        assert list((root / "finishing").iterdir()) == []
        assert list((root / "waiting").iterdir()) == []
        store = DiskStore(root)
        await store.open(shared=False)
        final = await store.get("final")
        assert store.path(final).read_bytes() == b"hellohello"
        await store.close()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        if call >= len(calls):
            break
    assert call >= len(calls) > 50


async def opening(root: Path, disk: Disk) -> list[str]:
    """The calls of a start, which may fail: then there is no server."""
    disk.arm(0, 10_000)
    store = DiskStore(root)
    await store.open(shared=False)
    calls = disk.disarm()
    await store.close()
    return calls


async def test_partials_are_not_removed_before_there_is_a_final(tmp_path: Path, disk: Disk) -> None:
    """So a client that is told of an error can ask for the concatenation again."""
    store = DiskStore(tmp_path, durability="none")
    options = Options(delete_partials=True)
    async with serving(store, data_path=DataPath.AS_SET, options=options) as site:
        for call in range(100):
            parts = [await site.upload(b"hello", Upload_Concat="partial") for _ in range(2)]
            final = {"Upload-Concat": f"final;{' '.join(parts)}"}
            disk.arm(errno.EIO, call)
            reply = await site.request("POST", headers=final)
            calls = disk.disarm()
            if reply.status != 201:
                assert (reply.status, reply.code) == (500, "STORE_FAILED")
                reply = await site.request("POST", headers=final)
            assert (await site.get(reply.path)).body == b"hellohello", (call, calls)
            if call >= len(calls):
                break
        assert call >= len(calls) > 20
        await site.routes.server.stop()
