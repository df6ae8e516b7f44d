"""What is particular to the disk store: descriptors, leftovers of crashes, errors of the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Durability, Final, Partial
from aiotus_server.body import Body, EmptySource
from aiotus_server.disk_errors import disk_errors
from aiotus_server.protocol.errors import (
    StoreFailed,
    StoreFull,
    StoreUnavailable,
    UploadDamaged,
    UploadNotFound,
)
from aiotus_server.stores import marks
from aiotus_server.stores.files import Files
from aiotus_server.stores.layout import Layout
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


def test_a_final_that_a_crash_left_without_an_info_file_is_removed_at_the_start(
    tmp_path: Path,
) -> None:
    """Its bytes are a copy, and still have the name under which they were built."""
    layout = Layout(tmp_path, shared=False)
    for upload_id in ("cut-off", "whole"):
        layout.make_shard(upload_id)
        layout.path(upload_id).write_bytes(b"hello")
        (tmp_path / "joining" / upload_id).hardlink_to(layout.path(upload_id))
    layout.path("whole").with_suffix(".info").write_text("{}")
    layout.path("cut-off").with_suffix(".info.new").write_text("{}")
    layout.make_shard("another")
    layout.path("another").write_bytes(b"an upload that lost its info file")
    (tmp_path / "joining" / "another").write_bytes(b"half")
    Files(layout, Durability.NONE).tidy()
    assert os.listdir(tmp_path / "joining") == []
    left = {file.name for file in tmp_path.glob("??/*")}
    assert left == {"whole", "whole.info", "another"}
    layout.close()


async def test_a_final_without_room_for_its_info_file_is_none(
    store: DiskStore, tmp_path: Path
) -> None:
    one = await store.create(new("one", concat=Partial()), arrived(b"hello"))
    final = new("final", length=5, concat=Final(("one",)))
    place = store.path(final)
    place.parent.mkdir(exist_ok=True)
    place.with_name("final.info.new").mkdir()
    with pytest.raises(OSError, match=r"final.info.new"):
        await store.concatenate(final, [one], lambda: False)
    place.with_name("final.info.new").rmdir()
    assert os.listdir(place.parent) == os.listdir(tmp_path / "joining") == []
    assert (await store.concatenate(final, [one], lambda: False)).complete


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


async def test_half_an_info_file_is_no_upload(
    store: DiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Creation writes it under its own name: a crash may leave any part of it. And whoever holds
    no lock may see that while it happens, so it is no reason for a word in the log."""
    upload = await store.create(new(metadata="filename aGk="), arrived(b"hello"))
    info = store.path(upload).with_suffix(".info")
    text = info.read_bytes()
    for size in range(len(text)):
        info.write_bytes(text[:size])
        with pytest.raises(UploadDamaged):
            await store.get(upload.upload_id)
    assert not caplog.records
    info.write_bytes(text)
    assert await store.get(upload.upload_id) == upload


CREATES = """
import asyncio, itertools, sys
from aiotus_server import DiskStore
from aiotus_server.stores import marks
from aiotus_server.stores.files import Files
from aiotus_server.stores.layout import Layout
from aiotus_server.testing import StoreContract, arrived

async def main():
    store = DiskStore(sys.argv[1], durability="none")
    await store.open(shared=False)
    for number in itertools.count(1):
        data = b"x" * number
        await store.create(StoreContract.new(f"u{number}", number), arrived(data))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_killed_server_leaves_whole_uploads_or_none(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", CREATES, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    for _ in range(50):
        server.stdout.readline()
    server.kill()
    last = max(map(int, server.communicate(timeout=20)[0].split()), default=50)
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    for number in range(1, last + 2):
        try:
            upload = await store.get(f"u{number}")
        except UploadNotFound:
            assert number > last, "it was acknowledged"
        else:
            assert upload.complete
            assert store.path(upload).read_bytes() == b"x" * number
    await store.close()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EMFILE, StoreUnavailable),
        (errno.ENFILE, StoreUnavailable),
        (errno.EIO, StoreFailed),
        (errno.EROFS, StoreUnavailable),
    ],
)
def test_what_the_disk_says(number: int, expected: type[Exception]) -> None:
    with pytest.raises(expected), disk_errors():
        raise OSError(number, os.strerror(number))


async def test_bytes_that_are_just_being_discarded_do_not_count(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who look without the lock, between any two steps of who has it."""
    upload = await store.create(new("a", 5), arrived())
    data, read = store.path(upload), marks.read

    def late(root: int, upload_id: str) -> int | None:
        os.truncate(data, 0)
        marks.remove(root, upload_id)
        return read(root, upload_id)

    data.write_bytes(b"hell")
    with monkeypatch.context() as patching:
        patching.setattr(marks, "read", late)
        assert (await store.get("a")).offset == 0
