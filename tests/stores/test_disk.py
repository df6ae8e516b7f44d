"""What is particular to the disk store: descriptors, leftovers of crashes, errors of the disk."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Final, Partial
from aiotus_server.body import Body, EmptySource
from aiotus_server.disk_errors import disk_errors
from aiotus_server.protocol.errors import StoreFailed, StoreFull, StoreUnavailable
from aiotus_server.testing import StoreContract, arrived

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

new = StoreContract.new


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskStore]:
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    yield store
    await store.close()


async def test_descriptors_do_not_pile_up_with_uploads(store: DiskStore) -> None:
    before = len(os.listdir("/dev/fd"))
    for number in range(300):
        await store.create(new(f"u{number}", 5), arrived(b"hello"))
    assert len(os.listdir("/dev/fd")) <= before + 2


async def test_what_a_crash_left_half_built_is_removed_at_the_start(tmp_path: Path) -> None:
    for _ in range(2):
        store = DiskStore(tmp_path)
        await store.open(shared=False)
        assert os.listdir(tmp_path / "joining") == []
        (tmp_path / "joining" / "final").write_bytes(b"half")
        await store.close()


async def test_a_mark_that_a_crash_left_is_removed_when_it_is_old(
    store: DiskStore, tmp_path: Path
) -> None:
    part = new("part", concat=Partial(), concat_header="partial")
    await store.create(part, arrived())
    final = new("final", length=5, concat=Final(("part",)))
    final = await store.create(final, Body(EmptySource(), limit=0))
    (tmp_path / "waiting" / "part" / "fresh").touch()
    (tmp_path / "waiting" / "part" / "old").touch()
    os.utime(tmp_path / "waiting" / "part" / "old", (time.time() - 3600,) * 2)
    assert await store.waiting() == ["final"]
    assert sorted(await store.waiting_for("part")) == ["final", "fresh"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EMFILE, StoreUnavailable),
        (errno.ENFILE, StoreUnavailable),
        (errno.EIO, StoreFailed),
        (errno.EROFS, StoreFailed),
    ],
)
def test_what_the_disk_says(number: int, expected: type[Exception]) -> None:
    with pytest.raises(expected), disk_errors():
        raise OSError(number, os.strerror(number))
