"""Complete uploads that a power cut has left with holes, where nobody had them flushed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Final, MemoryLocker, Partial
from aiotus_server.protocol.uploads import Outcome
from aiotus_server.stores import filesystem, unflushed
from aiotus_server.stores.owner import Owner
from aiotus_server.stores.records import CLOCK_TICK
from aiotus_server.stores.verify import repair
from aiotus_server.stores.writing import PAGE
from aiotus_server.testing import StoreContract, arrived

if TYPE_CHECKING:
    from pathlib import Path

    from aiotus_server.protocol.uploads import Upload

new = StoreContract.new
DATA = b"x" * (3 * PAGE)
ZFS = 0x2FC12FC1  # as its statfs says


async def opened(root: Path, durability: str = "none", *, shared: bool = False) -> DiskStore:
    store = DiskStore(root, durability=durability)
    await store.open(shared=shared)
    return store


def crash(store: DiskStore) -> None:
    """The process is gone, as far as its files and locks tell."""
    assert store._opened is not None  # noqa: SLF001
    store._opened._layout.close()  # noqa: SLF001
    store._opened = None  # noqa: SLF001
    time.sleep(2 * CLOCK_TICK / 1e9)


def lose_bytes(path: Path) -> None:
    """All but the first page were never written."""
    size = path.stat().st_size
    os.truncate(path, PAGE)
    os.truncate(path, size)


async def damaged(root: Path, durability: str = "none", *, shared: bool = False) -> Upload:
    store = await opened(root, durability, shared=shared)
    upload = await store.create(new("u", len(DATA)), arrived(DATA))
    lose_bytes(store.path(upload))
    crash(store)
    return upload


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("after", ["none", "complete"])
async def test_what_follows_a_hole_is_asked_for_again(
    tmp_path: Path, shared: bool, after: str
) -> None:
    await damaged(tmp_path, shared=shared)
    for _ in range(2):  # and not only by the first server after the crash
        store = await opened(tmp_path, after)
        upload = await store.get("u")
        assert (upload.offset, upload.unverified, upload.complete) == (PAGE, True, False)
        await store.close()
        time.sleep(2 * CLOCK_TICK / 1e9)
    store = await opened(tmp_path, after)
    upload = await store.rewind(await store.get("u"))
    upload = await store.append(upload, arrived(DATA[PAGE:]))
    assert upload.complete
    assert store.path(upload).read_bytes() == DATA


async def test_what_was_flushed_is_not_looked_at(tmp_path: Path) -> None:
    """A file that was made sparse is whole."""
    await damaged(tmp_path, "complete")
    store = await opened(tmp_path)
    assert (await store.get("u")).complete


async def unfinished(root: Path) -> Upload:
    """It has a hole, and the server that received it is gone."""
    store = await opened(root, "complete")
    upload = await store.create(new("u", len(DATA) + 1), arrived(DATA))
    lose_bytes(store.path(upload))
    crash(store)
    return upload


@pytest.mark.parametrize("compresses", [False, True])
async def test_holes_say_nothing_where_zeros_are_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compresses: bool
) -> None:
    """An upload of zeros must not begin again with each start of the server."""
    await unfinished(tmp_path)
    if compresses:
        monkeypatch.setattr(filesystem, "file_system_of", lambda fd: ZFS)
    store = await opened(tmp_path)
    upload = await store.get("u")
    assert (upload.offset, upload.unverified) == (
        (len(DATA), False) if compresses else (PAGE, True)
    )
    await store.close()
    await repair(tmp_path, MemoryLocker(), Owner(tmp_path))
    assert store.path(upload).stat().st_size == (len(DATA) if compresses else PAGE)


async def test_unverified_bytes_are_cut_where_zeros_are_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the zeros before them stay."""
    upload = await unfinished(tmp_path)
    (tmp_path / "unverified" / "u").symlink_to(str(2 * PAGE))
    monkeypatch.setattr(filesystem, "file_system_of", lambda fd: ZFS)
    await repair(tmp_path, MemoryLocker(), Owner(tmp_path))
    store = await opened(tmp_path)
    assert (await store.get("u")).offset == store.path(upload).stat().st_size == 2 * PAGE
    await store.close()


async def test_something_else_with_the_name_of_the_note_is_let_be(tmp_path: Path) -> None:
    (tmp_path / unflushed.NAME).write_text("mine")
    store = await opened(tmp_path)
    assert (await store.create(new("u", len(DATA)), arrived(DATA))).complete
    await store.close()
    assert (tmp_path / unflushed.NAME).read_text() == "mine"


async def test_an_orderly_end_flushes(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert unflushed.since(store._files._root) is not None  # noqa: SLF001
    upload = await store.create(new("u", len(DATA)), arrived(DATA))
    lose_bytes(store.path(upload))  # it is only sparse, then
    await store.close()
    assert not os.path.lexists(tmp_path / unflushed.NAME)
    time.sleep(2 * CLOCK_TICK / 1e9)
    store = await opened(tmp_path)
    assert (await store.get("u")).complete


async def test_what_is_older_is_not_looked_at(tmp_path: Path) -> None:
    store = await opened(tmp_path, "complete")
    upload = await store.create(new("u", len(DATA)), arrived(DATA))
    lose_bytes(store.path(upload))
    await store.close()
    time.sleep(2 * CLOCK_TICK / 1e9)
    crash(await opened(tmp_path, "none"))
    store = await opened(tmp_path, "none")
    assert (await store.get("u")).complete


async def test_a_final_with_a_hole_is_to_be_made_again(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    facts = {"concat": Partial(), "concat_header": "partial"}
    parts = [await store.create(new(f"p{n}", len(DATA), **facts), arrived(DATA)) for n in (1, 2)]
    final = new("f", 2 * len(DATA), concat=Final(("p1", "p2")), concat_header="final;...")
    final = await store.concatenate(final, parts, lambda: False)
    final = await store.finish(final, Outcome(200))
    lose_bytes(store.path(final))
    crash(store)
    store = await opened(tmp_path)
    final = await store.get("f")
    assert not final.complete
    assert final.outcome == Outcome(200)  # nobody is told again
    final = await store.concatenate(final, parts, lambda: False)
    assert final.complete
    assert store.path(final).read_bytes() == 2 * DATA
    crash(store)
    assert (await (await opened(tmp_path)).get("f")).complete
