"""What the crash test calls wrong, in stores that were made so by hand."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from aiotus_server import DiskStore, Partial
from aiotus_server.protocol.uploads import Upload, format_metadata
from aiotus_server.stores.layout import path_of
from aiotus_server.testing import arrived
from scripts.crashing.crowd import Crowd
from scripts.crashing.judging import Judge
from scripts.crashing.witness import Told
from scripts.load.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path

NUMBER = 2  # of an upload with "small appends"


class Aftermath:
    """A store with the one upload, of which the application has been told."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "uploads"
        self.book = folder / "told"
        self.crowd = Crowd("http://x/", Tally(), seed=1, clients=1)
        self.judge = Judge(self.root, self.book, self.crowd)
        content, self.length = self.crowd.expected(NUMBER)
        self.data = b"".join(content.pieces(0, self.length))
        metadata = format_metadata({"filename": str(NUMBER).encode()})
        self.upload = Upload("one", 0, self.length, datetime.now(UTC), metadata=metadata)
        digest = hashlib.sha256(self.data).hexdigest()
        self.told = Told("one", "key", str(NUMBER), self.length, digest, False)
        self.tell(self.told)

    @property
    def path(self) -> Path:
        return path_of(self.root, self.upload.upload_id)

    def tell(self, told: Told) -> None:
        with self.book.open("a") as book:
            book.write(json.dumps(asdict(told)) + "\n")

    async def store(self, upload: Upload, data: bytes) -> None:
        store = DiskStore(self.root, durability="none")
        await store.open(shared=False)
        await store.create(upload, arrived(data))
        await store.close()

    def complaints(self) -> list[str]:
        judge = self.judge
        return [*judge.wrong_uploads(), *judge.wrong_events(), *judge.damage(Counter())]


@pytest.fixture
async def aftermath(tmp_path: Path) -> Aftermath:
    made = Aftermath(tmp_path)
    await made.store(made.upload, made.data)
    return made


def test_nothing_is_wrong(aftermath: Aftermath) -> None:
    assert aftermath.complaints() == []
    assert aftermath.judge.untold() == []
    assert aftermath.judge.complete() == 1
    assert aftermath.judge.told_again() == 0


def test_a_wrong_byte_of_a_complete_upload(aftermath: Aftermath) -> None:
    aftermath.path.write_bytes(aftermath.data[:-1] + b"\0")
    (complaint,) = aftermath.complaints()
    assert complaint.startswith(f"one (2): 1 wrong bytes from {aftermath.length - 1} on")


async def test_a_wrong_byte_of_an_upload_that_no_client_finished(tmp_path: Path) -> None:
    aftermath = Aftermath(tmp_path)
    await aftermath.store(aftermath.upload, aftermath.data[1:100])
    (complaint,) = aftermath.complaints()
    assert complaint.startswith("one (2): ")
    assert aftermath.judge.untold() == []


async def test_an_upload_with_another_length(tmp_path: Path) -> None:
    aftermath = Aftermath(tmp_path)
    await aftermath.store(replace(aftermath.upload, length=9), aftermath.data[:9])
    assert aftermath.complaints() == [f"one (2) has 9 bytes instead of {aftermath.length}"]


def test_an_upload_that_was_deleted_and_is_there(aftermath: Aftermath) -> None:
    aftermath.crowd.deleted.add("one")
    assert aftermath.complaints() == ["one is there, though it was deleted"]


def test_an_upload_that_is_there_and_nobody_was_told(aftermath: Aftermath) -> None:
    aftermath.book.unlink()
    assert aftermath.judge.untold() == ["one"]
    assert aftermath.complaints() == []


async def test_of_parts_nobody_is_told(aftermath: Aftermath) -> None:
    part = replace(
        aftermath.upload, upload_id="part", metadata=None, concat=Partial(), concat_header="partial"
    )
    await aftermath.store(part, aftermath.data)
    assert aftermath.judge.untold() == []
    aftermath.tell(Told("part", "other", "", aftermath.length, "", True))
    assert aftermath.complaints() == ["post_finish was told of the part part"]


def test_events_of_other_bytes_and_under_two_keys(aftermath: Aftermath) -> None:
    told = aftermath.told
    aftermath.tell(told)
    assert aftermath.judge.told_again() == 1
    assert aftermath.complaints() == []
    aftermath.tell(Told("one", "another", told.name, told.length, "0" * 64, False))
    assert aftermath.complaints() == [
        "post_finish of one (2) found other bytes",
        "post_finish of one was told under the keys ['another', 'key']",
    ]


def test_damage_is_no_note(aftermath: Aftermath) -> None:
    notes: Counter[str] = Counter()
    (aftermath.root / "stray").touch()
    assert list(aftermath.judge.damage(notes)) == []
    assert notes == {"stray": 1}
    aftermath.path.unlink()
    (complaint,) = aftermath.judge.damage(notes)
    assert complaint.startswith("verify: data-missing: ")
