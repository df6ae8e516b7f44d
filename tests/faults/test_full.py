"""A small real file system fills up in the middle of uploads, and is freed again; folders vanish."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import subprocess
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore, Durability, Expiry, Hooks, Options

from ..http.client import OCTETS, DataPath, Reply, Site, assert_refused, chunked, serving, sha1
from ..stores.filesystems import fill, free_space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(3 * MIB)
INODES = 60  # of the file systems: more than the store's own folders and a few uploads


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """16 MiB. Skips the test where there cannot be such a file system."""
    point = folder / "disk"
    point.mkdir()
    what = f"NOT TESTED: a full {kind}"
    if os.geteuid() != 0:
        pytest.skip(f"{what}, which needs root")
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(point)]
    else:
        if not os.path.exists("/dev/loop-control") or shutil.which("mkfs.ext4") is None:
            pytest.skip(f"{what}, which needs loop devices and mkfs.ext4 (package e2fsprogs)")
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(16 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m0", "-N600", image], check=True, timeout=30)
        command = ["mount", "-o", "loop", str(image), str(point)]
    mounting = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if mounting.returncode != 0:
        pytest.skip(f"{what}, which cannot be mounted: {mounting.stderr}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True, timeout=30)


@pytest.fixture(params=["tmpfs", "ext4"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    with mounted(request.param, tmp_path) as point:
        store = DiskStore(point / "uploads")
        async with serving(store, data_path=DataPath.AS_SET) as site:
            await site.upload(b"the store is open")
            yield site
            await site.routes.server.stop()


def disk_of(site: Site) -> Path:
    root: Path = site.store.root.parent
    return root


def free(site: Site) -> None:
    (disk_of(site) / "filler").unlink()


async def goes_on(site: Site, path: str) -> None:
    offset = (await site.head(path)).offset
    assert site.stored(path)[:offset] == DATA[:offset]
    assert (await site.patch(path, offset, DATA[offset:])).status == 204
    assert (await site.get(path)).body == DATA


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_in_the_middle_of_an_append(site: Site, coding: str) -> None:
    path = await site.create(len(DATA))
    fill(disk_of(site), left=MIB)
    if coding == "counted":
        reply = await site.patch(path, 0, DATA)
    else:
        reply = await (await site.begin(path, 0, chunked(DATA), length=None)).reply()
    assert_refused(reply, 507, "STORE_FULL")
    offset = (await site.head(path)).offset
    assert MIB / 4 < offset < 2 * MIB  # what came is kept
    assert_refused(await site.patch(path, offset, DATA[offset:]), 507, "STORE_FULL")
    free(site)
    await goes_on(site, path)


async def test_under_a_checksum(site: Site) -> None:
    path = await site.create(len(DATA))
    fill(disk_of(site), left=MIB)
    reply = await site.patch(path, 0, DATA, Upload_Checksum=sha1(DATA))
    assert_refused(reply, 507, "STORE_FULL")
    assert (await site.head(path)).offset == 0
    assert free_space(disk_of(site)) > MIB / 2  # what was not verified is gone
    free(site)
    assert (await site.patch(path, 0, DATA, Upload_Checksum=sha1(DATA))).status == 204
    assert (await site.get(path)).body == DATA


async def test_in_a_creation(site: Site) -> None:
    fill(disk_of(site), left=MIB)
    headers = {"Upload-Length": str(len(DATA)), **OCTETS}
    reply = await site.request("POST", headers=headers, body=DATA)
    assert_refused(reply, 507, "STORE_FULL")
    free(site)
    if "Location" in reply.headers:
        await goes_on(site, reply.path)
    reply = await site.request("POST", headers=headers, body=DATA)
    assert reply.offset == len(DATA)


async def test_in_a_concatenation(site: Site) -> None:
    part = await site.upload(DATA, Upload_Concat="partial")
    fill(disk_of(site), left=MIB)
    final = {"Upload-Concat": f"final;{part} {part}"}
    assert_refused(await site.request("POST", headers=final), 507, "STORE_FULL")
    assert free_space(disk_of(site)) > MIB / 2  # nothing of it is left
    free(site)
    reply = await site.request("POST", headers=final)
    assert (await site.get(reply.path)).body == 2 * DATA


async def test_no_inode_is_left(site: Site) -> None:
    disk = disk_of(site)
    if os.statvfs(disk).f_favail > 100_000:
        pytest.skip("there are too many inodes to use them up")
    (disk / "many").mkdir()
    number = 0
    with suppress(OSError):
        for number in range(100_000):
            (disk / "many" / str(number)).touch()
    headers = {"Upload-Length": "5", **OCTETS}
    reply = await site.request("POST", headers=headers, body=b"hello")
    assert_refused(reply, 507, "STORE_FULL")
    assert "Location" not in reply.headers
    for name in range(min(number, INODES)):
        (disk / "many" / str(name)).unlink()
    reply = await site.request("POST", headers=headers, body=b"hello")
    assert (await site.get(reply.path)).body == b"hello"


# The reserve

RESERVE = 8 * MIB


@pytest.fixture(params=["tmpfs", "ext4"])
async def thrifty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """14 MiB are free about, and ``RESERVE`` must stay."""
    with mounted(request.param, tmp_path) as point:
        store = DiskStore(point / "uploads")
        options = Options(reserve=RESERVE)
        async with serving(store, options=options, data_path=DataPath.AS_SET) as site:
            yield site
            await site.routes.server.stop()


async def test_no_upload_is_created_that_would_take_of_the_reserve(thrifty: Site) -> None:
    free = free_space(disk_of(thrifty))
    for length in (free - RESERVE + MIB, 10**12):
        reply = await thrifty.request("POST", headers={"Upload-Length": str(length)})
        assert_refused(reply, 507, "STORE_FULL")
    assert not list(thrifty.store.root.glob("??/*"))
    await thrifty.create(free - RESERVE - MIB)


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_appends_leave_the_reserve(thrifty: Site, coding: str) -> None:
    """Also when they come at the same time."""
    paths = [await thrifty.create(len(DATA)) for _ in range(4)]

    async def append(path: str) -> Reply:
        if coding == "counted":
            return await thrifty.patch(path, 0, DATA)
        return await (await thrifty.begin(path, 0, chunked(DATA), length=None)).reply()

    replies = await asyncio.gather(*map(append, paths))
    assert {reply.status for reply in replies} >= {507}
    assert RESERVE - 2 * MIB < free_space(disk_of(thrifty)) < RESERVE + 2 * MIB
    for path in paths:
        offset = (await thrifty.head(path)).offset
        assert thrifty.stored(path) == DATA[:offset]
    small = await thrifty.request(
        "POST", headers={"Upload-Defer-Length": "1", **OCTETS}, body=DATA[: 2 * MIB]
    )
    assert_refused(small, 507, "STORE_FULL")
    for path in paths[1:]:
        assert (await thrifty.delete(path)).status == 204
    await goes_on(thrifty, paths[0])


# Folders that vanish


FOLDERS = ("expiry", "finishing", "joining", "unverified", "waiting")


@pytest.mark.parametrize("folder", ["??", *FOLDERS])
async def test_a_folder_vanishes(tmp_path: Path, folder: str) -> None:
    """It is made again; at most one request of a kind fails."""
    options = Options(expiry=Expiry(timedelta(days=1)), new_id=lambda: next(ids))
    ids = (f"upload-{number}" for number in itertools.count())
    hooks = Hooks()
    hooks.post_finish(lambda event: None)
    store = DiskStore(tmp_path / "uploads")
    kwargs: dict[str, Any] = {"options": options, "hooks": hooks, "data_path": DataPath.AS_SET}
    async with serving(store, **kwargs) as site:
        for _ in range(3):
            await all_kinds(site)
        for path in (tmp_path / "uploads").glob(folder):
            shutil.rmtree(path)
        for _ in range(8):
            with suppress(AssertionError):
                await all_kinds(site)
        await all_kinds(site)
        await site.routes.server.stop()


async def all_kinds(site: Site) -> None:
    """An upload with a checksum, one in two appends, and a final that waits."""
    path = await site.create(len(DATA))
    assert (await site.patch(path, 0, DATA, Upload_Checksum=sha1(DATA))).status == 204
    assert (await site.get(path)).body == DATA
    parts = [await site.create(5, Upload_Concat="partial") for _ in range(2)]
    final = {"Upload-Concat": f"final;{' '.join(parts)}"}
    reply = await site.request("POST", headers=final)
    assert reply.status == 201
    for part in parts:
        assert (await site.patch(part, 0, b"he")).status == 204
        assert (await site.patch(part, 2, b"llo")).status == 204
    assert (await site.get(reply.path)).body == b"hellohello"


@pytest.fixture(params=list(Durability))
async def living(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A site that expects of every upload all that is noted of one."""
    hooks = Hooks()
    hooks.post_finish(lambda event: None)
    store = DiskStore(tmp_path / "uploads", durability=request.param)
    options = Options(expiry=Expiry(timedelta(days=1)), reserve=1)
    async with serving(store, options=options, hooks=hooks, data_path=DataPath.AS_SET) as site:
        await all_kinds(site)
        yield site
        await site.routes.server.stop()


async def whole(site: Site) -> None:
    path = await site.upload(b"hello")
    assert (await site.get(path)).body == b"hello"


async def in_two(site: Site) -> None:
    path = await site.create(len(DATA))
    assert (await site.patch(path, 0, DATA[:MIB])).status == 204
    assert (await site.patch(path, MIB, DATA[MIB:])).status == 204
    assert (await site.get(path)).body == DATA


async def joined(site: Site) -> None:
    part = await site.upload(DATA, Upload_Concat="partial")
    reply = await site.request("POST", headers={"Upload-Concat": f"final;{part} {part}"})
    assert (await site.get(reply.path)).body == 2 * DATA


@pytest.mark.parametrize("kind", [whole, in_two, joined, all_kinds])
@pytest.mark.parametrize("folder", [*FOLDERS, "*", "."])
async def test_the_next_request_makes_it_again(
    living: Site, folder: str, kind: Callable[[Site], Awaitable[None]]
) -> None:
    root = living.store.root
    for path in list(root.glob(folder)) if folder != "." else [root]:
        if path.is_dir():
            shutil.rmtree(path)
    await kind(living)


async def test_another_takes_the_root_that_was_made_again(living: Site) -> None:
    root = living.store.root
    shutil.rmtree(root)
    other = DiskStore(root)
    await other.open(shared=False)
    reply = await living.request("POST", headers={"Upload-Length": "5"})
    assert_refused(reply, 503, "STORE_UNAVAILABLE")
    await other.close()
    await whole(living)


async def test_the_root_vanishes_under_an_upload(living: Site) -> None:
    path = await living.create(len(DATA))
    upload = await living.begin(path, 0, DATA[:MIB], length=len(DATA))
    shutil.rmtree(living.store.root)
    await upload.send(DATA[MIB:])
    assert (await upload.reply()).status in (404, 500)  # its bytes are gone
    assert (await living.request("HEAD", path)).status == 404
    await whole(living)
