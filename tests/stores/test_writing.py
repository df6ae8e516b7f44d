"""That a file's size is a true offset at any moment, also after a power cut."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server import DiskStore
from aiotus_server.protocol.errors import BodyCutShort
from aiotus_server.stores import writing
from aiotus_server.stores.records import CLOCK_TICK
from aiotus_server.stores.writing import PAGE, FileWriter, bring_to_disk, first_hole, split
from aiotus_server.testing import StoreContract, arrived, sha1_of, streamed

if TYPE_CHECKING:
    from pathlib import Path

new = StoreContract.new
DATA = os.urandom(5 * PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("writing")


sizes = st.lists(st.integers(0, 2 * PAGE), max_size=5)


@given(begin=st.integers(0, PAGE + 1), batches=st.lists(sizes, max_size=4))
def test_whole_pages_until_the_end(begin: int, batches: list[list[int]], folder: Path) -> None:
    path = folder / "target"
    path.write_bytes(DATA[:begin])
    settled: list[int] = []
    with path.open("r+b") as file:
        writer = FileWriter(
            file.fileno(), begin, settled=lambda: settled.append(path.stat().st_size)
        )
        sent = DATA[:begin]
        for batch in batches:
            pieces = [os.urandom(size) for size in batch]
            writer.write(pieces, last=False)
            sent += b"".join(pieces)
            size = path.stat().st_size
            assert size % PAGE == 0 or size == begin
            assert sent == path.read_bytes() + writer.held
            assert len(writer.held) < PAGE
        writer.finish()
    assert path.read_bytes() == sent
    # The page in which the file ended was settled before anything was behind it, and only then.
    inside = begin % PAGE != 0 and len(sent) > begin
    assert len(settled) == inside
    assert all(size <= begin // PAGE * PAGE + PAGE for size in settled)
    assert writer.unsettled == (begin % PAGE != 0 and not inside)


@given(sizes, st.integers(0, 10 * PAGE))
def test_split(sizes: list[int], at: int) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    before, behind = split(pieces, at)
    whole = b"".join(pieces)
    assert b"".join(before) == whole[:at]
    assert b"".join(behind) == whole[at:]


def test_after_an_error_nothing_is_written_behind_a_gap(folder: Path) -> None:
    path = folder / "read-only"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    writer = FileWriter(fd, 0)
    writer.write([b"a"], last=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.write([DATA], last=False)
    assert not writer.held
    os.close(fd)


def test_the_disk_is_asked_to_begin_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def sync_file_range(fd: int, offset: int, size: int, how: int) -> int:
        asked.append((offset, size))
        return 0

    monkeypatch.setattr(writing, "_sync_file_range", sync_file_range)
    monkeypatch.setattr(writing, "WRITE_BACK", 2 * PAGE)
    with (folder / "early").open("wb") as file:
        writer = FileWriter(file.fileno(), 0, write_back=True)
        writer.write([DATA[: PAGE + 1]], last=False)
        assert asked == []
        writer.write([DATA[: 2 * PAGE]], last=False)
        writer.write([DATA[: 2 * PAGE]], last=True)
    assert asked == [(0, 3 * PAGE), (3 * PAGE, 2 * PAGE)]


@pytest.mark.parametrize("there", [True, False])
def test_bring_to_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if not there:  # as on other systems than Linux
        monkeypatch.setattr(writing, "_sync_file_range", None)
    with (folder / "synced").open("wb") as file:
        file.write(DATA)
        bring_to_disk(file.fileno(), 0, PAGE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            bring_to_disk(9999, 0, PAGE)


def test_first_hole(folder: Path) -> None:
    path = folder / "holes"
    with path.open("wb") as file:
        assert first_hole(file.fileno(), 0) == 0
        os.pwrite(file.fileno(), DATA[:PAGE], 0)
        assert first_hole(file.fileno(), PAGE) == PAGE
        os.pwrite(file.fileno(), DATA[:PAGE], 1024 * 1024)
        assert first_hole(file.fileno(), 1024 * 1024 + PAGE) == PAGE
        assert first_hole(file.fileno(), 10) == 10
    with pytest.raises(OSError, match="Bad file descriptor"):
        first_hole(-1, 10)


# In the store


@pytest.mark.parametrize("restart", [True, False])
async def test_what_follows_a_hole_does_not_count(tmp_path: Path, restart: bool) -> None:
    """As a power cut may leave it. While the server runs there are none."""
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    upload = await store.create(new("u", 100 * PAGE), arrived(DATA[:PAGE]))
    os.truncate(store.path(upload), 20 * PAGE)
    if restart:
        await store.close()
        time.sleep(2 * CLOCK_TICK / 1e9)
        await store.open(shared=False)
    seen = await store.get("u")
    assert (seen.offset, seen.unverified) == ((PAGE, True) if restart else (20 * PAGE, False))
    if restart:
        mended = await store.rewind(seen)
        assert (mended.offset, mended.unverified) == (PAGE, False)
        assert store.path(upload).read_bytes() == DATA[:PAGE]
        assert await store.get("u") == mended
    await store.close()


async def test_holes_in_a_complete_upload_are_its_own(tmp_path: Path) -> None:
    """Programs that make backups turn zeros into holes."""
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    upload = await store.create(new("u", 20 * PAGE), arrived(DATA[:PAGE]))
    os.truncate(store.path(upload), 20 * PAGE)
    await store.close()
    await store.open(shared=False)
    assert (await store.get("u")).complete
    await store.close()


async def test_an_append_inside_a_page_is_marked_until_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(tmp_path, durability="none")
    await store.open(shared=False)
    upload = await store.create(new("u", len(DATA)), arrived(DATA[:10]))
    marks: list[tuple[int, int, int]] = []

    def look(fd: int, offset: int, size: int) -> None:
        mark = int(os.readlink(tmp_path / "unverified" / "u"))
        marks.append((mark, offset, os.fstat(fd).st_size))

    monkeypatch.setattr(writing, "bring_to_disk", look)
    upload = await store.append(upload, arrived(DATA[10:20]))
    upload = await store.append(upload, streamed(DATA[20 : PAGE + 7]))
    upload = await store.append(upload, streamed(DATA[PAGE + 7 : 4 * PAGE]))
    upload = await store.append(upload, streamed(DATA[4 * PAGE :]))  # between two pages
    assert marks == [(10, 0, 20), (20, 0, PAGE), (PAGE + 7, PAGE, 2 * PAGE)]
    assert os.listdir(tmp_path / "unverified") == []
    assert upload == await store.get("u")
    assert store.path(upload).read_bytes() == DATA
    await store.close()


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_body_without_a_byte_leaves_no_mark(tmp_path: Path, atomic: bool) -> None:
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    upload = await store.create(new("u", 100), arrived(DATA[:10]))
    checksum = sha1_of(b"") if atomic else None
    after = await store.append(upload, streamed(error=BodyCutShort(), checksum=checksum))
    assert after.offset == 10
    if atomic:
        await store.rewind(upload)
    assert os.listdir(tmp_path / "unverified") == []
    await store.close()


async def test_a_mark_behind_the_end_makes_no_bytes(tmp_path: Path) -> None:
    """The mark reached the disk, the bytes before it did not."""
    store = DiskStore(tmp_path)
    await store.open(shared=False)
    upload = await store.create(new("u", 100), arrived(DATA[:10]))
    os.symlink("50", tmp_path / "unverified" / "u")
    seen = await store.get("u")
    assert (seen.offset, seen.unverified) == (10, True)
    await store.rewind(seen)
    assert store.path(upload).read_bytes() == DATA[:10]
    await store.close()
