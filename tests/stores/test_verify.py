"""What can be wrong with a store: each is planted, found beside everything that is sound, and
mended; and nothing of what was there is lost by that."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from aiotus_server import DiskStore, Final, MemoryLocker, Partial
from aiotus_server.body import Body, EmptySource
from aiotus_server.cli import main
from aiotus_server.locks import Purpose
from aiotus_server.protocol.uploads import Outcome
from aiotus_server.stores import infofile
from aiotus_server.stores.layout import FOLDERS, View, path_of
from aiotus_server.stores.owner import Owner
from aiotus_server.stores.snapshots import Snapshots
from aiotus_server.stores.verify import KINDS, Repair, Severity, repair, verification
from aiotus_server.testing import StoreContract, arrived

if TYPE_CHECKING:
    from pathlib import Path

HALF = b"half of it"
TIMES = {"expires": datetime.now(UTC) + timedelta(hours=1)}


@dataclass
class Scene:
    """A store with one upload of each sort: ``whole``, ``half`` (it expires), ``published``,
    the partials ``one`` (complete) and ``two``, ``waiting`` that waits for both, and ``joined``."""

    root: Path

    def data(self, upload_id: str) -> Path:
        return path_of(self.root, upload_id)

    def info(self, upload_id: str) -> Path:
        return self.data(upload_id).with_name(f"{upload_id}.info")

    def fresh(self, upload_id: str) -> Path:
        return self.data(upload_id).with_name(f"{upload_id}.info.new")

    def mark(self, upload_id: str, offset: int) -> Path:
        """Of an append under a checksum that began at ``offset``."""
        mark = self.root / "unverified" / upload_id
        mark.symlink_to(str(offset))
        return mark

    def new(self, upload_id: str) -> Path:
        """Where the data of an upload of this id would be."""
        path = self.data(upload_id)
        path.parent.mkdir(exist_ok=True)
        return path

    def elsewhere(self, upload_id: str) -> Path:
        """In a folder where this upload does not belong."""
        folder = self.root / ("00" if self.data(upload_id).parent.name != "00" else "01")
        folder.mkdir(exist_ok=True)
        return folder / upload_id

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def contents(self) -> Counter[bytes]:
        """Of all files that may have bytes of uploads, wherever they are now."""
        names = {*self.root.glob("??/*"), *self.root.glob("quarantine/**/*")}
        files = [path for path in names if ".info" not in path.name and path.is_file()]
        return Counter(path.read_bytes() for path in files if not path.is_symlink())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(verification, "PAUSE", 0)
    scene = Scene(tmp_path / "uploads")
    asyncio.run(_fill(scene.root))
    return scene


async def _fill(root: Path) -> None:
    store, new = DiskStore(root, durability="none"), StoreContract.new
    await store.open(shared=False)
    await store.create(new("whole", 5), arrived(b"whole"))
    await store.create(new("half", 1_000_000, **TIMES), arrived(HALF))
    path = str(root.parent / "published.bin")
    upload = await store.create(new("published", 9, path=path), arrived(b"published"))
    await store.finish(upload, Outcome())
    part = {"concat": Partial(), "concat_header": "partial"}
    one = await store.create(new("one", 3, **part), arrived(b"one"))
    await store.create(new("two", 3, **part, **TIMES), arrived(b"tw"))
    body = Body(EmptySource(), limit=0)
    concat = {"concat": Final(("one", "two", "one")), "concat_header": "final;..."}
    await store.create(new("waiting", 9, **concat, **TIMES), body)
    joined = new("joined", 6, concat=Final(("one", "one")), concat_header="final;...")
    await store.concatenate(joined, [one, one], lambda: False)
    await store.close()


Harm = Callable[["Scene"], list[tuple[str, str]]]
PLANTS: list[Harm] = []


def plant(function: Harm) -> Harm:
    """It does the harm, and gives codes and paths of what is to be found."""
    PLANTS.append(function)
    return function


@plant
def info_cut_short(scene: Scene) -> list[tuple[str, str]]:
    info = scene.info("half")
    info.write_bytes(info.read_bytes()[:-1])
    return [("info-unreadable", scene.name(info))]


@plant
def info_of_wrong_types(scene: Scene) -> list[tuple[str, str]]:
    scene.info("whole").write_text('{"created": "yesterday"}')
    return [("info-unreadable", scene.name(scene.info("whole")))]


@plant
def info_of_impossible_values(scene: Scene) -> list[tuple[str, str]]:
    scene.info("whole").write_text('{"created": 1e9, "length": -5}')
    return [("info-unreadable", scene.name(scene.info("whole")))]


@plant
def info_removed(scene: Scene) -> list[tuple[str, str]]:
    scene.info("whole").unlink()
    return [("info-missing", scene.name(scene.data("whole")))]


@plant
def data_removed(scene: Scene) -> list[tuple[str, str]]:
    scene.data("whole").unlink()
    return [("data-missing", scene.name(scene.info("whole")))]


@plant
def data_too_long(scene: Scene) -> list[tuple[str, str]]:
    scene.data("whole").write_bytes(b"whole and more")
    return [("data-too-long", scene.name(scene.data("whole")))]


@plant
def data_of_a_joined_final_removed(scene: Scene) -> list[tuple[str, str]]:
    """A power cut may take it, where nobody flushes. Its partials are there: it can be made."""
    scene.data("joined").unlink()
    return [("waiting-mark-missing", "waiting/one/joined")]


@plant
def data_of_a_joined_final_cut_short(scene: Scene) -> list[tuple[str, str]]:
    os.truncate(scene.data("joined"), 4)
    return [("waiting-mark-missing", "waiting/one/joined")]


@plant
def data_and_partial_of_a_joined_final_removed(scene: Scene) -> list[tuple[str, str]]:
    scene.data("joined").unlink()
    return [("data-missing", scene.name(scene.info("joined"))), *_without_one(scene)]


@plant
def joined_final_cut_short_without_its_partial(scene: Scene) -> list[tuple[str, str]]:
    os.truncate(scene.data("joined"), 4)
    return [("data-cut-short", scene.name(scene.data("joined"))), *_without_one(scene)]


@plant
def finished_upload_cut_short(scene: Scene) -> list[tuple[str, str]]:
    """The application was told that it is whole: nobody comes back with the rest."""
    upload = Snapshots(View(scene.root)).get("whole")
    scene.info("whole").write_bytes(infofile.encode(replace(upload, outcome=Outcome())))
    os.truncate(scene.data("whole"), 3)
    return [("data-cut-short", scene.name(scene.data("whole")))]


def _without_one(scene: Scene) -> list[tuple[str, str]]:
    scene.info("one").unlink()
    scene.data("one").unlink()
    return [("final-cannot-be-made", scene.name(scene.info("waiting")))]


@plant
def data_with_a_hole(scene: Scene) -> list[tuple[str, str]]:
    """As a copy may have made it of zeros."""
    upload = Snapshots(View(scene.root)).get("whole")
    scene.info("whole").write_bytes(infofile.encode(replace(upload, length=500_000)))
    os.truncate(scene.data("whole"), 500_000)
    return [("data-hole", scene.name(scene.data("whole")))]


@plant
def data_with_a_hole_before_its_end(scene: Scene) -> list[tuple[str, str]]:
    upload = Snapshots(View(scene.root)).get("half")
    scene.info("half").write_bytes(infofile.encode(replace(upload, length=500_000)))
    os.truncate(scene.data("half"), 400_000)
    return [("unverified-bytes", scene.name(scene.data("half")))]


@plant
def an_end_that_was_not_told(scene: Scene) -> list[tuple[str, str]]:
    for name in ("whole", "half"):
        (scene.root / "finishing" / name).symlink_to("due")
    return [("not-told", "finishing/whole")]


@plant
def notes_of_nothing(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "finishing" / "nobody").symlink_to("due")
    return [("mark-left", "finishing/nobody")]


@plant
def data_is_a_folder(scene: Scene) -> list[tuple[str, str]]:
    scene.data("whole").rename(scene.root.parent / "whole")
    scene.data("whole").mkdir()
    return [("not-a-file", scene.name(scene.data("whole")))]


@plant
def info_is_a_link(scene: Scene) -> list[tuple[str, str]]:
    info = scene.info("whole").rename(scene.root.parent / "info")
    scene.info("whole").symlink_to(info)
    return [("not-a-file", scene.name(scene.info("whole")))]


@plant
def info_is_a_pipe(scene: Scene) -> list[tuple[str, str]]:
    """Nobody must wait for what comes out of it."""
    scene.info("whole").unlink()
    os.mkfifo(scene.info("whole"))
    return [("not-a-file", scene.name(scene.info("whole")))]


@plant
def new_info_is_a_folder(scene: Scene) -> list[tuple[str, str]]:
    """The upload is sound, but its info file cannot be replaced."""
    scene.fresh("whole").mkdir()
    return [("not-a-file", scene.name(scene.fresh("whole")))]


@plant
def minute_of_expiry_is_a_folder(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "expiry" / "1800000000").mkdir()
    return [("not-a-file", "expiry/1800000000")]


@plant
def lock_is_a_link(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / ".locks").symlink_to("nowhere")
    return [("not-a-file", ".locks")]


@plant
def note_of_what_is_unflushed_is_a_file(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / ".unflushed").unlink(missing_ok=True)
    (scene.root / ".unflushed").write_text("mine")
    return [("not-a-file", ".unflushed")]


@plant
def folders_are_files(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "joining").rmdir()
    (scene.root / "joining").write_text("mine")
    (scene.root / "quarantine").write_text("mine")
    free = next(name for name in ("aa", "ab", "ac") if not (scene.root / name).exists())
    (scene.root / free).write_text("mine")
    return [("not-a-folder", name) for name in (free, "joining", "quarantine")]


@plant
def folders_removed(scene: Scene) -> list[tuple[str, str]]:
    """The server makes them again, but not what was in them."""
    for name in FOLDERS:
        shutil.rmtree(scene.root / name)
    expiring = ("half", "two", "waiting")
    lines = [("expiry-not-noted", scene.name(scene.info(name))) for name in expiring]
    marks = [("waiting-mark-missing", f"waiting/{part}/waiting") for part in ("one", "two")]
    return [*lines, *marks]


@plant
def waiting_folder_is_a_file(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "waiting" / "three").touch()
    return [("not-a-folder", "waiting/three")]


@plant
def in_a_wrong_folder(scene: Scene) -> list[tuple[str, str]]:
    """As after a restoration by hand. The upload itself is damaged too."""
    place = scene.elsewhere("whole")
    scene.data("whole").write_bytes(b"whole and more")
    scene.data("whole").rename(place)
    scene.info("whole").rename(place.with_name("whole.info"))
    return [("wrong-folder", scene.name(place))]


@plant
def twice_in_two_folders(scene: Scene) -> list[tuple[str, str]]:
    place = scene.elsewhere("whole")
    place.write_bytes(b"another")
    shutil.copy(scene.info("whole"), place.with_name("whole.info"))
    return [("wrong-folder", scene.name(place))]


@plant
def mark_beyond_the_bytes(scene: Scene) -> list[tuple[str, str]]:
    return [("mark-beyond-data", scene.name(scene.mark("half", 99)))]


@plant
def marks_of_a_waiting_final_removed(scene: Scene) -> list[tuple[str, str]]:
    for part in ("one", "two"):
        shutil.rmtree(scene.root / "waiting" / part)
    return [("waiting-mark-missing", f"waiting/{part}/waiting") for part in ("one", "two")]


@plant
def journal_removed(scene: Scene) -> list[tuple[str, str]]:
    for minute in (scene.root / "expiry").iterdir():
        minute.unlink()
    expiring = ("half", "two", "waiting")
    return [("expiry-not-noted", scene.name(scene.info(name))) for name in expiring]


@plant
def journal_torn(scene: Scene) -> list[tuple[str, str]]:
    """Of a line for ``half`` only the id is left, of another a part of the id."""
    (minute,) = (scene.root / "expiry").iterdir()
    lines = minute.read_text().splitlines()
    minute.write_text(f"half\n{lines[1]}\n{lines[2]}\n{lines[0][:-2]}")
    return [("expiry-not-noted", scene.name(scene.info("half")))]


@plant
def creation_cut_off_at_once(scene: Scene) -> list[tuple[str, str]]:
    scene.new("fresh").touch()
    return [("creation-cut-off", scene.name(scene.data("fresh")))]


@plant
def creation_cut_off_with_bytes(scene: Scene) -> list[tuple[str, str]]:
    scene.new("fresh").write_bytes(b"some bytes")
    scene.info("fresh").touch()
    return [("creation-cut-off", scene.name(scene.data("fresh")))]


@plant
def termination_cut_off(scene: Scene) -> list[tuple[str, str]]:
    scene.info("whole").rename(scene.fresh("whole"))
    return [("termination-cut-off", scene.name(scene.data("whole")))]


@plant
def partial_of_a_waiting_final_removed(scene: Scene) -> list[tuple[str, str]]:
    scene.info("one").unlink()
    scene.data("one").unlink()
    return [("final-cannot-be-made", scene.name(scene.info("waiting")))]


@plant
def partial_of_a_waiting_final_damaged(scene: Scene) -> list[tuple[str, str]]:
    scene.info("two").unlink()
    return [
        ("info-missing", scene.name(scene.data("two"))),
        ("final-cannot-be-made", scene.name(scene.info("waiting"))),
    ]


@plant
def data_of_a_published_upload_left(scene: Scene) -> list[tuple[str, str]]:
    scene.data("published").hardlink_to(scene.root.parent / "published.bin")
    return [("published-data-left", scene.name(scene.data("published")))]


@plant
def other_data_of_a_published_upload(scene: Scene) -> list[tuple[str, str]]:
    scene.data("published").write_bytes(b"something else")
    return [("published-data-left", scene.name(scene.data("published")))]


@plant
def published_file_removed(scene: Scene) -> list[tuple[str, str]]:
    (scene.root.parent / "published.bin").unlink()
    return [("published-file-missing", scene.name(scene.info("published")))]


@plant
def published_file_changed(scene: Scene) -> list[tuple[str, str]]:
    (scene.root.parent / "published.bin").write_bytes(b"edited")
    return [("published-file-changed", scene.name(scene.info("published")))]


@plant
def unverified_bytes(scene: Scene) -> list[tuple[str, str]]:
    return [("unverified-bytes", scene.name(scene.mark("half", 4)))]


@plant
def marks_of_nothing(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "unverified" / "half").symlink_to("no number")
    scene.mark("nobody", 4)
    scene.mark("published", 4)
    (scene.root / "unverified" / "whole").mkdir()
    names = ("half", "nobody", "published", "whole")
    return [("mark-left", f"unverified/{name}") for name in names]


@plant
def waiting_marks_of_nothing(scene: Scene) -> list[tuple[str, str]]:
    for name in ("one/nobody", "one/joined", "whole/waiting"):
        (scene.root / "waiting" / name).parent.mkdir(exist_ok=True)
        (scene.root / "waiting" / name).touch()
    (scene.root / "waiting" / "half").mkdir()
    names = ("half", "one/joined", "one/nobody", "whole/waiting")
    return [("waiting-mark-left", f"waiting/{name}") for name in names]


@plant
def half_built_final(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "joining" / "new").write_bytes(b"hal")
    return [("joining-left", "joining/new")]


@plant
def final_without_an_info_file(scene: Scene) -> list[tuple[str, str]]:
    """A crash just when it appeared."""
    (scene.root / "joining" / "new").write_bytes(b"oneone")
    scene.new("new").hardlink_to(scene.root / "joining" / "new")
    scene.fresh("new").write_text("{}")
    return [("joining-left", "joining/new")]


@plant
def final_still_has_its_other_name(scene: Scene) -> list[tuple[str, str]]:
    (scene.root / "joining" / "joined").hardlink_to(scene.data("joined"))
    return [("joining-left", "joining/joined")]


@plant
def new_info_files_left(scene: Scene) -> list[tuple[str, str]]:
    scene.fresh("whole").write_bytes(b"{")
    scene.new("gone")
    scene.fresh("gone").write_text("{}")
    return [("info-new-left", scene.name(scene.fresh(name))) for name in ("gone", "whole")]


@plant
def strays(scene: Scene) -> list[tuple[str, str]]:
    shard = scene.data("whole").parent
    (scene.root / "notes.txt").write_text("mine")
    (shard / "notes.txt").write_text("mine")
    (shard / ".whole.swp").write_text("mine")
    (shard / "whole.info.bak").write_text("mine")
    for folder in ("unverified", "joining", "expiry"):
        (scene.root / folder / "notes.txt").write_text("mine")
    names = ["notes.txt", "unverified/notes.txt", "joining/notes.txt", "expiry/notes.txt"]
    inner = [f"{shard.name}/{name}" for name in (".whole.swp", "notes.txt", "whole.info.bak")]
    return [("stray", name) for name in (*names, *inner)]


@dataclass
class Report:
    code: int
    summary: dict[str, Any]

    @property
    def findings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.summary["findings"]
        return found

    def codes(self, **values: Any) -> list[tuple[str, str]]:
        """Codes and paths of those findings that have these values."""
        return sorted(
            (found["code"], found["path"])
            for found in self.findings
            if all(found[name] == value for name, value in values.items())
        )


def verify(scene: Scene, *arguments: str, capsys: pytest.CaptureFixture[str]) -> Report:
    """``aiotus-server verify --json``, in this process."""
    capsys.readouterr()
    code = main(["verify", "--json", "--dir", str(scene.root), *arguments], {})
    out, err = capsys.readouterr()
    assert err == ""
    return Report(code, json.loads(out))


Capture = pytest.CaptureFixture[str]


def test_a_sound_store_has_no_findings(scene: Scene, capsys: Capture) -> None:
    before = snapshot(scene.root)
    report = verify(scene, capsys=capsys)
    assert report.code == 0
    assert report.summary == {
        "directory": str(scene.root),
        "sound": True,
        "uploads": 7,
        "complete": 4,
        "partials": 2,
        "finals": 2,
        "bytes": 5 + 10 + 3 + 2 + 6,
        "quarantined": 0,
        "expiry_lines": 3,
        "expiry_lines_gone": 0,
        "expiry_lines_torn": 0,
        "errors": 0,
        "notes": 0,
        "mended": 0,
        "findings": [],
    }
    assert verify(scene, "--repair", capsys=capsys).summary == report.summary
    assert snapshot(scene.root) == before


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in the store: a look must not change it."""
    found = {}
    for path in root.rglob("*"):
        facts = path.lstat()
        text = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (facts.st_mtime_ns, facts.st_mode, text)
    return found


@pytest.mark.parametrize("harm", PLANTS, ids=lambda harm: harm.__name__)
def test_what_is_planted_is_found(scene: Scene, harm: Harm, capsys: Capture) -> None:
    """That and nothing else, and looking changes nothing."""
    expected = harm(scene)
    before = snapshot(scene.root)
    report = verify(scene, capsys=capsys)
    assert report.codes() == sorted(expected)
    assert snapshot(scene.root) == before
    severities = [KINDS[code].severity for code, _ in expected]
    assert report.code == (1 if Severity.ERROR in severities else 0)
    assert report.summary["errors"] == severities.count(Severity.ERROR)
    assert report.summary["notes"] == severities.count(Severity.NOTE)
    assert report.summary["mended"] == 0
    for found in report.findings:
        kind = KINDS[found["code"]]
        assert (found["severity"], found["repair"]) == (kind.severity.value, kind.repair.value)
        assert found["mended"] is found["why_not"] is None
        assert found["text"]


@pytest.mark.parametrize("harm", PLANTS, ids=lambda harm: harm.__name__)
def test_what_is_planted_is_mended(scene: Scene, harm: Harm, capsys: Capture) -> None:
    expected = harm(scene)
    before = scene.contents()
    report = verify(scene, "--repair", capsys=capsys)
    assert report.code == 0, report
    wanted = [pair for pair in expected if KINDS[pair[0]].repair is not Repair.NONE]
    assert set(wanted) <= set(report.codes(mended=True))
    after = verify(scene, capsys=capsys)
    assert after.code == 0
    assert [code for code, _ in after.codes() if KINDS[code].repair is not Repair.NONE] == []
    if harm not in BYTES_GO:
        assert before - scene.contents() == Counter()
    asyncio.run(_works(scene))


# Of these bytes go, which do not count or are elsewhere too.
BYTES_GO = (
    unverified_bytes,
    data_with_a_hole_before_its_end,
    final_without_an_info_file,
    data_of_a_published_upload_left,
)


async def _works(scene: Scene) -> None:
    """What was not harmed is as it was, and new uploads can be made."""
    store = DiskStore(scene.root, durability="none")
    await store.open(shared=False)
    await store.create(StoreContract.new("another", 5), arrived(b"hello"))
    if scene.info("joined").exists():
        joined = await store.get("joined")
        if not joined.complete:
            assert "joined" in await store.waiting()
            one = await store.get("one")
            joined = await store.concatenate(joined, [one, one], lambda: False)
        assert joined.complete
        assert scene.data("joined").read_bytes() == b"oneone"
    assert (await store.get("published")).complete
    await store.close()


def test_every_code_is_planted(tmp_path: Path) -> None:
    planted = set()
    for harm in PLANTS:
        scene = Scene(tmp_path / harm.__name__ / "uploads")
        scene.root.parent.mkdir()
        asyncio.run(_fill(scene.root))
        planted |= {code for code, _ in harm(scene)}
    elsewhere = {"not-permitted", "disk-error"}  # they take another user, and another disk
    assert planted == KINDS.keys() - elsewhere


def test_what_the_disk_does_not_give_out_is_told_and_left(
    scene: Scene, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Any = Snapshots._read  # noqa: SLF001

    def broken(self: Snapshots, name: str) -> Any:
        if name.endswith("whole.info"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, name)

    monkeypatch.setattr(Snapshots, "_read", broken)
    expected = [("disk-error", scene.name(scene.info("whole")))]
    before = snapshot(scene.root)
    for arguments in ([], ["--repair"]):
        report = verify(scene, *arguments, capsys=capsys)
        assert (report.code, report.codes()) == (1, expected)
    assert snapshot(scene.root) == before


def test_what_looks_wrong_for_a_moment_only_is_no_finding(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may just be at it."""
    monkeypatch.setattr(verification, "PAUSE", 0.5)
    text = scene.info("whole").read_bytes()
    scene.info("whole").write_bytes(b"")
    scene.new("fresh").touch()
    timers = [
        threading.Timer(0.25, scene.data("fresh").unlink),
        threading.Timer(0.25, scene.info("whole").write_bytes, [text]),
    ]
    for timer in timers:
        timer.start()
    assert list(verification.Verification(View(scene.root)).findings()) == []
    for timer in timers:
        timer.join()


async def test_what_is_in_use_is_left_alone(scene: Scene) -> None:
    scene.mark("half", 4)
    scene.info("whole").unlink()
    locker = MemoryLocker()
    async with locker.lock("half", Purpose.APPEND, wait=1) as lock:
        lock.on_release_requested(lambda purpose: purpose is not Purpose.EXPIRE)
        _, outcomes = await repair(scene.root, locker, Owner(scene.root))
    assert [(mended.finding.code, mended.done, mended.why) for mended in outcomes] == [
        ("info-missing", True, ""),
        ("unverified-bytes", False, "it is in use"),
    ]
    assert scene.data("half").read_bytes() == HALF


async def test_unverified_bytes_are_cut(scene: Scene) -> None:
    scene.mark("half", 4)
    await repair(scene.root, MemoryLocker(), Owner(scene.root))
    assert scene.data("half").read_bytes() == HALF[:4]
    assert os.listdir(scene.root / "unverified") == []


async def test_what_was_in_a_wrong_folder_works_again(scene: Scene) -> None:
    place = scene.elsewhere("half")
    scene.data("half").rename(place)
    scene.info("half").rename(place.with_name("half.info"))
    await repair(scene.root, MemoryLocker(), Owner(scene.root))
    store = DiskStore(scene.root, durability="none")
    await store.open(shared=False)
    upload = await store.append(await store.get("half"), arrived(b" and more"))
    assert upload.offset == len(HALF) + 9
    await store.close()


async def test_what_no_sweep_would_find_is_swept_again(scene: Scene) -> None:
    for minute in (scene.root / "expiry").iterdir():
        minute.unlink()
    await repair(scene.root, MemoryLocker(), Owner(scene.root))
    store = DiskStore(scene.root, durability="none")
    await store.open(shared=False)
    later = datetime.now(UTC) + timedelta(hours=2)
    assert {found async for found in store.expired(later)} == {"half", "two", "waiting"}
    await store.close()


async def test_a_final_that_nothing_would_make_is_waited_for_again(scene: Scene) -> None:
    shutil.rmtree(scene.root / "waiting" / "two")
    await repair(scene.root, MemoryLocker(), Owner(scene.root))
    store = DiskStore(scene.root, durability="none")
    await store.open(shared=False)
    assert await store.waiting_for("two") == ["waiting"]
    await store.close()
