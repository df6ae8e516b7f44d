"""Many who wait for a flush share one."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore
from aiotus_server.protocol.errors import UploadNotFound
from aiotus_server.stores import flushing
from aiotus_server.stores.filesystem import file_system_of, is_known, sync_file_system
from aiotus_server.stores.flushing import APART, GROUP, LARGE, Flushes
from aiotus_server.testing import StoreContract, arrived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY = 32


class Disk:
    """What was flushed: whose, or ``all``."""

    def __init__(self) -> None:
        self.flushed: list[object] = []
        self.seconds = 0.005  # that each flush takes
        self.failing: set[object] = set()  # of what can be flushed
        self._lock = threading.Lock()

    def flush(self, what: object) -> None:
        time.sleep(self.seconds)
        with self._lock:
            self.flushed.append(what)
        if what in self.failing:
            raise OSError(5, f"{what} cannot be flushed")

    @property
    def together(self) -> int:
        return self.flushed.count("all")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(flushing, "can_sync", lambda fd: True)
    monkeypatch.setattr(flushing, "sync_file_system", lambda fd: disk.flush("all"))
    monkeypatch.setattr(flushing, "LONG", 1000)  # however busy the machine is
    return disk


async def flush(flushes: Flushes, disk: Disk, count: int) -> list[BaseException | None]:
    waiting = [flushes.flush(lambda number=number: disk.flush(number)) for number in range(count)]  # type: ignore[misc]
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_is_flushed_by_itself(disk: Disk) -> None:
    assert await flush(Flushes(0), disk, 1) == [None]
    assert disk.flushed == [0]


async def test_those_who_come_meanwhile_are_flushed_together(disk: Disk) -> None:
    flushes = Flushes(0)
    first = [asyncio.ensure_future(flush(flushes, disk, 1)) for _ in range(APART)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await flush(flushes, disk, MANY) == [None] * MANY
    await asyncio.gather(*first)
    assert disk.flushed == [0] * APART + ["all"]


async def test_few_are_flushed_by_themselves(disk: Disk) -> None:
    flushes = Flushes(0)
    await asyncio.gather(*(flush(flushes, disk, GROUP - 1) for _ in range(1)))
    assert disk.together == 0


async def test_nobody_is_let_go_before_a_flush_that_began_after_him(disk: Disk) -> None:
    """Who comes while all is flushed waits for the next flush."""
    flushes = Flushes(0)
    before = asyncio.ensure_future(flush(flushes, disk, MANY))
    while not flushes._grouped:  # noqa: SLF001
        await asyncio.sleep(0)
    disk.flushed.clear()
    assert await flush(flushes, disk, MANY) == [None] * MANY
    assert len(disk.flushed) >= 2
    await before


async def test_an_error_is_his_whose_bytes_it_was(disk: Disk) -> None:
    """That is not known of one flush for all, and it may be those of another process."""
    disk.failing = {"all", 1, 7, MANY - 1}
    flushes = Flushes(0)
    outcomes = await flush(flushes, disk, MANY)
    assert disk.together
    assert {n for n, outcome in enumerate(outcomes) if outcome is not None} == {1, 7, MANY - 1}


async def test_who_had_written_when_it_failed_is_flushed_by_himself(disk: Disk) -> None:
    """The kernel tells once that it lost bytes. They may be those of somebody who wrote them before
    and asks for a flush after."""
    disk.failing = {"all"}
    flushes = Flushes(0)
    await flush(flushes, disk, MANY)
    disk.failing = {3}
    outcomes = await flush(flushes, disk, MANY)
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [3]


async def test_not_while_a_large_body_arrives(disk: Disk) -> None:
    flushes = Flushes(0)
    with flushes.avoiding(LARGE + 1):
        await flush(flushes, disk, MANY)
        assert disk.together == 0
    for length in (None, LARGE):
        disk.flushed.clear()
        with flushes.avoiding(length):
            await flush(flushes, disk, MANY)
        assert disk.together >= 1


async def test_not_for_a_while_after_it_took_long(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system has others, whose bytes are waited for too."""
    monkeypatch.setattr(flushing, "LONG", 0.001)
    flushes = Flushes(0)
    await flush(flushes, disk, MANY)
    together = disk.together
    assert together == 1
    await flush(flushes, disk, MANY)
    assert disk.together == together
    monkeypatch.setattr(flushing, "LONG", 1000)
    flushes._not_before = 0  # noqa: SLF001
    await flush(flushes, disk, MANY)
    assert disk.together > together


async def test_not_on_a_file_system_that_is_not_known(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "can_sync", lambda fd: False)
    await flush(Flushes(0), disk, MANY)
    assert disk.together == 0


async def test_after_many_few_are_flushed_together_too(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "MOMENT", 1000)
    flushes = Flushes(0)
    await flush(flushes, disk, MANY)
    disk.flushed.clear()
    assert await flush(flushes, disk, 1) == [None]
    assert disk.flushed == ["all"]


# In the store


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows by each real flush of all."""
    calls: list[int] = []

    def counted(fd: int) -> None:
        calls.append(fd)
        sync_file_system(fd)

    monkeypatch.setattr(flushing, "sync_file_system", counted)
    return calls  # type: ignore[return-value]


@pytest.mark.parametrize("durability", ["complete", "always"])
async def test_many_small_uploads_are_flushed_together(
    tmp_path: Path, durability: str, together: list[int]
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    if not is_known(fd):
        pytest.skip(f"the file system {file_system_of(fd)} is not one that is known")
    os.close(fd)
    store = DiskStore(tmp_path, durability=durability)
    await store.open(shared=False)
    new = StoreContract.new
    await asyncio.gather(*(store.create(new(f"u{n}", 5), arrived(b"hello")) for n in range(MANY)))
    assert 1 <= len(together) < MANY / 2
    uploads = await asyncio.gather(
        *(store.create(new(f"v{n}", 5), arrived(b"")) for n in range(MANY))
    )
    uploads = await asyncio.gather(*(store.append(upload, arrived(b"hello")) for upload in uploads))
    assert all(upload.complete for upload in uploads)
    await store.close()


async def test_what_could_not_be_flushed_is_no_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(flushing, "sync_file_system", fail)
    monkeypatch.setattr(flushing, "can_sync", lambda fd: True)
    store = DiskStore(tmp_path, durability="complete")
    await store.open(shared=False)
    monkeypatch.setattr(os, "fdatasync", fail)
    creations = (
        store.create(StoreContract.new(f"u{n}", 5), arrived(b"hello")) for n in range(MANY)
    )
    outcomes = await asyncio.gather(*creations, return_exceptions=True)
    failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, OSError)]
    assert failed
    for number in failed:
        with suppress(UploadNotFound):
            await store.get(f"u{number}")
            raise AssertionError("it is there")
    assert sum(path.is_file() for path in tmp_path.glob("??/*")) == 2 * (MANY - len(failed))
