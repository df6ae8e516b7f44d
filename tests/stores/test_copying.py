"""Concatenation and copies on real file systems: bytes are right, and shared where they can be."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Final, Partial
from aiotus_server.stores import copying
from aiotus_server.stores.copying import copy
from aiotus_server.stores.publishing import copy_of, publish
from aiotus_server.testing import StoreContract, arrived

from .filesystems import fill, free_space, mounted_xfs, shared_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiotus_server.protocol.uploads import Upload

MIB = 1024 * 1024
STEP = copying.STEP
DATA = random.Random(5).randbytes(3 * MIB + 17)

new = StoreContract.new


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted_xfs(tmp_path_factory.mktemp("mounted")) as folder:
        yield folder


@pytest.fixture(params=["here", "xfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Empty: on whatever file system temporary files are, and on one that can share blocks."""
    if request.param == "here":
        yield tmp_path
        return
    empty = request.getfixturevalue("xfs") / tmp_path.name
    empty.mkdir()
    yield empty


def never() -> bool:
    return False


def copied(folder: Path, parts: list[bytes]) -> Path:
    """A file that ``parts`` were copied into, each from a file of its own."""
    target = folder / "target"
    with ExitStack() as stack:
        joined = stack.enter_context(target.open("w+b"))
        offset = 0
        for number, part in enumerate(parts):
            (folder / f"part{number}").write_bytes(part)
            source = stack.enter_context((folder / f"part{number}").open("rb"))
            copy(source.fileno(), joined.fileno(), len(part), offset, never)
            offset += len(part)
    return target


SIZES = [
    [],
    [0],
    [1],
    [4096],
    [4096, 4096, 8192],
    [4095, 1, 4096],
    [4096, 100, 4096],
    [5, 0, 2 * MIB, 0, 3],
    [2 * MIB, 2 * MIB, 0],
    [MIB + 1, 2 * MIB - 1, MIB],
    [3 * MIB + 17],
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bytes_come_out_as_they_went_in(folder: Path, sizes: list[int]) -> None:
    parts = [DATA[number : number + size] for number, size in enumerate(sizes)]
    assert copied(folder, parts).read_bytes() == b"".join(parts)


def test_a_source_larger_than_a_step_is_copied_whole(folder: Path) -> None:
    with (folder / "source").open("w+b") as source, (folder / "target").open("w+b") as target:
        for place in (0, STEP - 10, STEP, 2 * STEP):
            os.pwrite(source.fileno(), DATA[:50], place)
        copy(source.fileno(), target.fileno(), 2 * STEP + 50, 3, never)
        for place in (0, STEP - 10, STEP, 2 * STEP):
            assert os.pread(target.fileno(), 50, place + 3) == os.pread(source.fileno(), 50, place)
        assert os.fstat(target.fileno()).st_size == 2 * STEP + 53


@pytest.mark.parametrize("offset", [0, 1])
def test_only_the_beginning_is_copied_if_that_is_asked_for(folder: Path, offset: int) -> None:
    (folder / "source").write_bytes(DATA)
    with (folder / "source").open("rb") as source, (folder / "target").open("w+b") as target:
        copy(source.fileno(), target.fileno(), 2 * MIB + 1, offset, never)
        assert target.read() == bytes(offset) + DATA[: 2 * MIB + 1]


def test_a_source_that_is_too_short_is_told(folder: Path) -> None:
    (folder / "source").write_bytes(DATA)
    with (
        (folder / "source").open("rb") as source,
        (folder / "target").open("w+b") as target,
        pytest.raises(EOFError),
    ):
        copy(source.fileno(), target.fileno(), len(DATA) + 1, 0, never)


def test_a_copy_can_be_stopped_in_the_middle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "SHARED_STEP", STEP)
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with (folder / "source").open("w+b") as source, (folder / "target").open("w+b") as target:
        source.truncate(10 * STEP)
        with pytest.raises(InterruptedError):
            copy(source.fileno(), target.fileno(), 10 * STEP, 0, stopped)
    assert asked == 3


def test_what_the_kernel_cannot_do_is_done_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)  # macOS
    monkeypatch.setattr(copying, "_fallocate", None)
    assert copied(tmp_path, [DATA, DATA[:100]]).read_bytes() == DATA + DATA[:100]


def test_another_file_system_gets_a_copy(tmp_path: Path, xfs: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    target = xfs / "published" / "file"
    copy = copy_of(target, "u")
    for _ in range(2):  # a crash may have come before anybody noted the first
        publish(tmp_path / "source", target, copy, sync=True)
        assert target.read_bytes() == DATA
        assert sorted(os.listdir(target.parent)) == [".u.publishing", "file"]
    copy.unlink()
    with pytest.raises(FileExistsError):
        publish(tmp_path / "source", target, copy, sync=False)
    assert os.listdir(target.parent) == ["file"]


def test_a_copy_that_a_crash_cut_off_is_made_anew(tmp_path: Path, xfs: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    target = xfs / "again" / "file"
    target.parent.mkdir()
    copy_of(target, "u").write_bytes(DATA[:10] * 1_000_000)
    publish(tmp_path / "source", target, copy_of(target, "u"), sync=True)
    assert target.read_bytes() == DATA


# Shared blocks


def on_xfs(xfs: Path, tmp_path: Path, sizes: list[int]) -> Path:
    (xfs / tmp_path.name).mkdir()
    return copied(xfs / tmp_path.name, [DATA[:size] for size in sizes])


@pytest.mark.parametrize(
    ("sizes", "shared"),
    [
        ([MIB, 2 * MIB], 3 * MIB),
        ([MIB, MIB + 5], 2 * MIB + 4096),  # the end of the file may be half a block
        ([MIB + 5, MIB], MIB),  # what begins within a block is copied
        ([4090, 6, MIB], MIB),  # and when blocks begin again, sharing does
    ],
    ids=str,
)
def test_blocks_are_shared(xfs: Path, tmp_path: Path, sizes: list[int], shared: int) -> None:
    assert shared_bytes(on_xfs(xfs, tmp_path, sizes)) == shared


# A store on it


async def filled(store: DiskStore, upload_id: str, size: int) -> Upload:
    upload = await store.create(new(upload_id, size, concat=Partial()), arrived(b""))
    return await store.append(upload, arrived(DATA[:size]))


async def join(store: DiskStore, upload_id: str, parts: list[Upload]) -> Upload:
    final = new(upload_id, None, concat=Final(tuple(part.upload_id for part in parts)))
    return await store.concatenate(final, parts, never)


async def test_a_final_takes_no_room_of_its_own(xfs: Path, tmp_path: Path) -> None:
    store = DiskStore(xfs / tmp_path.name)
    await store.open(shared=False)
    one, two = await filled(store, "one", 2 * MIB), await filled(store, "two", MIB + 1)
    os.sync()
    before = free_space(xfs)
    final = await join(store, "final", [one, one, one, two])
    os.sync()
    assert before - free_space(xfs) < MIB
    assert store.path(final).read_bytes() == DATA[: 2 * MIB] * 3 + DATA[: MIB + 1]
    assert shared_bytes(store.path(final)) >= 7 * MIB
    await store.terminate(one)
    await store.terminate(two)
    assert store.path(final).read_bytes() == DATA[: 2 * MIB] * 3 + DATA[: MIB + 1]
    await store.close()


async def test_a_full_disk_refuses_what_must_be_copied_and_keeps_nothing_of_it(
    xfs: Path, tmp_path: Path
) -> None:
    store = DiskStore(xfs / tmp_path.name)
    await store.open(shared=False)
    odd, even = await filled(store, "odd", 1), await filled(store, "even", 3 * MIB)
    os.sync()
    fill(xfs, 8 * MIB)
    try:
        before = free_space(xfs)
        with pytest.raises(OSError, match="No space") as refused:
            await join(store, "copied", [odd, even, even, even, even])
        assert refused.value.errno == errno.ENOSPC
        assert os.listdir(store.root / "joining") == []
        async with asyncio.timeout(5):  # XFS frees what was removed a moment later
            while before - free_space(xfs) >= MIB:
                await asyncio.sleep(0.01)
        shared = await join(store, "shared", [even, even, even, even, odd])
        assert store.path(shared).read_bytes() == DATA[: 3 * MIB] * 4 + DATA[:1]
    finally:
        (xfs / "filler").unlink()
        await store.close()
