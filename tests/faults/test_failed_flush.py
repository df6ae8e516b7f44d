"""The kernel tells once that it could not bring pages to the disk, and forgets them: the next flush
succeeds, reads give the bytes as long as they are remembered, and then they are zeros. So what was
not flushed when it should have been does not count any more, and is sent again."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore
from aiotus_server.stores.layout import SHARDS
from aiotus_server.stores.writing import PAGE
from aiotus_server.testing import StoreContract, arrived, streamed

from ..http.client import OCTETS, DataPath, Reply, Site, chunked, serving, sha1
from .thin import MIB, ThinDisk, thin_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiotus_server.protocol.uploads import Upload

DATA = random.Random(5).randbytes(3 * MIB + 17)
HALF = MIB + 5
LEVELS = ("complete", "always")


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[ThinDisk]:
    with thin_disk(tmp_path) as disk:
        yield disk


def test_the_kernel_forgets_pages(thin: ThinDisk) -> None:
    """What all of this is about, and that the disk of these tests shows it."""
    path = thin.point / "file"
    path.write_bytes(b"")
    thin.exhaust()
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, DATA, 0)
    with pytest.raises(OSError, match=r"No space|Input/output"):
        os.fdatasync(fd)
    thin.relieve()
    os.fdatasync(fd)
    assert os.pread(fd, len(DATA), 0) == DATA
    os.close(fd)
    thin.replug()
    assert path.stat().st_size == len(DATA)
    assert path.read_bytes() != DATA


async def append(site: Site, path: str, kind: str) -> Reply:
    rest = DATA[HALF:]
    if kind == "checksum":
        return await site.patch(path, HALF, rest, Upload_Checksum=sha1(rest))
    if kind == "plain":
        return await site.patch(path, HALF, rest)
    connection = await site.begin(path, HALF, chunked(rest[:MIB], rest[MIB:]), length=None)
    return await connection.reply()


async def goes_on(site: Site, path: str, data: bytes) -> None:
    """As a client does, which sends nothing if HEAD says that all is there."""
    offset = (await site.head(path)).offset
    if offset < len(data):
        assert (await site.patch(path, offset, data[offset:])).status == 204
    assert (await site.get(path)).body == data


def file_of(site: Site, path: str) -> Path:
    (file,) = site.store.root.glob(f"??/{path.rpartition('/')[2]}")
    return Path(file)


@asynccontextmanager
async def on(thin: ThinDisk, level: str) -> AsyncIterator[Site]:
    """Nothing is open on the disk afterwards. All folders are there beforehand: those that the
    disk loses are beyond help."""
    for shard in SHARDS:
        (thin.point / "uploads" / shard).mkdir(parents=True)
    store = DiskStore(thin.point / "uploads", durability=level)
    async with serving(store, data_path=DataPath.AS_SET) as site:
        try:
            yield site
        finally:
            await site.routes.server.stop()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["plain", "checksum", "chunked"])
async def test_an_append(thin: ThinDisk, level: str, kind: str) -> None:
    async with on(thin, level) as site:
        path = await site.create(len(DATA))
        assert (await site.patch(path, 0, DATA[:HALF])).status == 204
        thin.exhaust()
        assert (await append(site, path, kind)).status in (500, 507)
        # With "complete" nobody has asked whether the first half ever got there.
        assert (await site.head(path)).offset == (HALF if level == "always" else 0)
        thin.relieve()
        await goes_on(site, path, DATA)
        file = file_of(site, path)
    thin.replug()
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("level", LEVELS)
async def test_many_small_ones_at_once(thin: ThinDisk, level: str) -> None:
    """Which are flushed together."""
    data = DATA[:20_000]
    async with on(thin, level) as site:
        paths = [await site.create(len(data)) for _ in range(40)]
        thin.exhaust()
        replies = await asyncio.gather(*(site.patch(path, 0, data) for path in paths))
        assert any(reply.status in (500, 507) for reply in replies)
        for path, reply in zip(paths, replies, strict=True):
            assert (await site.head(path)).offset == (len(data) if reply.status == 204 else 0)
        thin.relieve()
        for path in paths:
            await goes_on(site, path, data)
        files = [file_of(site, path) for path in paths]
    thin.replug()
    for file in files:
        assert file.read_bytes() == data


@pytest.mark.parametrize("level", LEVELS)
async def test_a_creation_with_all_bytes(thin: ThinDisk, level: str) -> None:
    headers = {"Upload-Length": str(len(DATA)), **OCTETS}
    async with on(thin, level) as site:
        await site.upload(b"the store is open")
        thin.exhaust()
        reply = await site.request("POST", headers=headers, body=DATA)
        assert reply.status in (500, 507)
        thin.relieve()
        if "Location" in reply.headers:
            path = reply.path
            assert (await site.head(path)).offset == 0
        else:
            path = await site.create(len(DATA))
        await goes_on(site, path, DATA)
        file = file_of(site, path)
    thin.replug()
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("level", LEVELS)
async def test_a_length_that_completes_it(thin: ThinDisk, level: str) -> None:
    async with on(thin, level) as site:
        path = await site.create(Upload_Defer_Length="1")
        thin.exhaust()
        status = (await site.patch(path, 0, DATA)).status
        offset = (await site.head(path)).offset
        assert (status, offset) == (204, len(DATA)) if level == "complete" else (507, 0)
        length = {"Upload_Length": str(len(DATA))}
        if level == "complete":
            assert (await site.patch(path, offset, b"", **length)).status in (500, 507)
            assert (await site.head(path)).offset == 0
        thin.relieve()
        assert (await site.patch(path, 0, DATA, **length)).status == 204
        assert (await site.get(path)).body == DATA
        file = file_of(site, path)
    thin.replug()
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("level", LEVELS)
async def test_a_concatenation(thin: ThinDisk, level: str) -> None:
    async with on(thin, level) as site:
        part = await site.upload(DATA, Upload_Concat="partial")
        thin.exhaust()
        final = {"Upload-Concat": f"final;{part} {part}"}
        assert (await site.request("POST", headers=final)).status in (500, 507)
        thin.relieve()
        reply = await site.request("POST", headers=final)
        assert reply.status == 201
        file = file_of(site, reply.path)
    thin.replug()
    assert file.read_bytes() == 2 * DATA


# What a fake disk shows


@contextmanager
def refusing(name: str, wanted: Callable[[int], bool] = lambda fd: True) -> Iterator[None]:
    """``os.<name>`` fails on the files that are ``wanted``."""
    function = getattr(os, name)

    def refused(fd: int, *args: Any) -> Any:
        if wanted(fd):
            raise OSError(errno.EIO, "no")
        return function(fd, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, refused)
        yield


@asynccontextmanager
async def begun(folder: Path, size: int) -> AsyncIterator[tuple[DiskStore, Upload]]:
    store = DiskStore(folder, durability="complete")
    await store.open(shared=False)
    try:
        upload = await store.create(StoreContract.new("a", size), arrived())
        yield store, await store.append(upload, streamed(DATA[:PAGE]))
    finally:
        await store.close()


async def test_an_info_file_is_written_anew(tmp_path: Path) -> None:
    """The kernel has forgotten that one too, and it was there since the creation."""
    async with begun(tmp_path, PAGE + 1) as (store, before):
        info = store.path(before).with_name("a.info")
        inode, text = info.stat().st_ino, info.read_bytes()
        with refusing("fsync", lambda fd: os.readlink(f"/proc/self/fd/{fd}").endswith(".info")):
            assert (await store.append(before, streamed(b"!"))).complete
        assert info.read_bytes() == text
        assert info.stat().st_ino != inode


async def test_nothing_can_be_cut_off_yet(tmp_path: Path) -> None:
    """Bytes in doubt do not count, and are cut off when the disk works again."""
    async with begun(tmp_path, 3 * PAGE) as (store, before):
        with refusing("fdatasync"), refusing("ftruncate"):
            with pytest.raises(OSError, match="no"):
                await store.append(before, streamed(DATA[PAGE : 3 * PAGE]))
            assert store.path(before).stat().st_size == 3 * PAGE
            found = await store.get("a")
            assert (found.offset, found.unverified, found.complete) == (0, True, False)
            with pytest.raises(OSError, match="no"):
                await store.rewind(found)
        upload = await store.rewind(await store.get("a"))
        assert (upload.offset, upload.unverified) == (0, False)
        assert store.path(upload).stat().st_size == 0
        assert (await store.append(upload, streamed(DATA[: 3 * PAGE]))).complete


async def test_a_folder_that_cannot_be_flushed(tmp_path: Path) -> None:
    """The bytes are there, but the upload is not complete: the last of them are sent again."""
    size = 3 * PAGE + 5
    async with begun(tmp_path, size) as (store, before):
        with refusing("fsync"), pytest.raises(OSError, match="no"):
            await store.append(before, streamed(DATA[PAGE:size]))
        upload = await store.get("a")
        assert (upload.offset, upload.unverified) == (3 * PAGE, False)
        assert (await store.append(upload, streamed(DATA[3 * PAGE : size]))).complete
