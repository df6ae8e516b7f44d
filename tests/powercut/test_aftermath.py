"""Uploads on a real server whose files are then damaged: what of it is noticed."""

from __future__ import annotations

import contextlib
import os
from random import Random
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Durability
from aiotus_server.stores.layout import path_of
from scripts.load.http import Cut
from scripts.load.tally import Tally
from scripts.powercut.aftermath import NEW, Aftermath
from scripts.powercut.kinds import CHECKED, Step
from scripts.powercut.ledger import Event, Ledger
from scripts.powercut.sender import Refused, Sender, Setting

from ..http.client import running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from scripts.powercut.ledger import Entry

LENGTH = 10_000
NONE, COMPLETE, ALWAYS = Durability


class Scene:
    """A server, a client and what it knows; ``folder`` is the server's."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.ledger = Ledger(seed=1)
        self.events: list[Event] = []
        self.ledger.watch = lambda _, event: self.events.append(event)
        self.sender = Sender(Setting(url, Tally(), self.ledger, Random(1)), contextlib.nullcontext)

    async def upload(self, size: int = LENGTH) -> Entry:
        """One of which ``size`` bytes have been sent."""
        entry = self.ledger.begin("small appends", LENGTH)
        await self.sender.create(entry)
        if size:
            await self.sender.append(entry, Step(size))
        return entry

    async def final(self, *, unfinished: bool = False) -> Entry:
        final = self.ledger.begin("final", LENGTH + 1)
        parts = [
            self.ledger.begin("partial", length, like=final, start=start)
            for start, length in ((0, 1), (1, LENGTH))
        ]
        for part in parts:
            await self.sender.create(part, Step(1), {"Upload-Concat": "partial"})
        if not unfinished:
            await self.sender.append(parts[1], Step(LENGTH - 1))
        await self.sender.join(final, parts, now=not unfinished)
        return final

    def file(self, entry: Entry) -> Path:
        return path_of(self.folder, entry.upload_id)

    async def look(self, promise: Durability = ALWAYS) -> Aftermath:
        aftermath = Aftermath(self.url, self.folder, self.ledger.snapshot(), promise)
        await aftermath.check()
        return aftermath

    async def found(self, promise: Durability = ALWAYS) -> list[str]:
        cases = (await self.look(promise)).cases
        return sorted(what for case in cases for what in case.wrong)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    folder = tmp_path / "uploads"
    async with serving(DiskStore(folder, durability="none")) as site:
        made = Scene(f"http://127.0.0.1:{site.port}/files/", folder)
        try:
            yield made
        finally:
            made.sender.close()


# Nothing is damaged


async def test_nothing_is_found_where_nothing_is_wrong(scene: Scene) -> None:
    await scene.upload()
    await scene.upload(3000)
    await scene.upload(0)
    await scene.sender.delete(await scene.upload())
    await scene.final()
    await scene.final(unfinished=True)
    aftermath = await scene.look()
    assert [case.wrong for case in aftermath.cases] == [[]] * 11
    counts = aftermath.counts
    assert counts["small appends", "checked"] == 4
    assert counts["small appends", "gone"] == 1
    assert counts["small appends", "read"] == 2
    assert counts["small appends", "resumed"] == 2
    assert counts["partial", "resumed"] == 1
    assert counts["final", "resumed"] == 1
    assert counts[NEW, "downloaded"] == 1


# Something is


def truncate(path: Path) -> None:
    os.truncate(path, 2000)


def clear_the_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes(3))


def remove(path: Path) -> None:
    path.unlink()


def forget(path: Path) -> None:
    path.with_name(path.name + ".info").write_bytes(b"")


def change_the_metadata(path: Path) -> None:
    info = path.with_name(path.name + ".info")
    info.write_text(info.read_text().replace("empty", "other"))


def change_the_length(path: Path) -> None:
    info = path.with_name(path.name + ".info")
    info.write_text(info.read_text().replace(str(LENGTH), str(LENGTH + 1)))


GONE = "an upload is gone though it was acknowledged"
END_GONE = "an upload is gone though its end was acknowledged"
NOT_WHOLE = "an upload is not whole though its end was acknowledged"
BEHIND = "the offset is behind what was acknowledged"
WRONG = "wrong bytes below the offset"


@pytest.mark.parametrize("level", Durability)
@pytest.mark.parametrize(
    ("size", "damage", "by_level"),
    [
        (LENGTH, truncate, {COMPLETE: NOT_WHOLE, ALWAYS: NOT_WHOLE}),
        (LENGTH, remove, {COMPLETE: END_GONE, ALWAYS: END_GONE}),
        (LENGTH, forget, {COMPLETE: END_GONE, ALWAYS: END_GONE}),
        (LENGTH, clear_the_tail, dict.fromkeys(Durability, WRONG)),
        (LENGTH, change_the_metadata, dict.fromkeys(Durability, "the metadata is wrong")),
        (5000, truncate, {ALWAYS: BEHIND}),
        (5000, remove, {ALWAYS: GONE}),
        (5000, forget, {ALWAYS: GONE}),
        (5000, clear_the_tail, dict.fromkeys(Durability, WRONG)),
        (5000, change_the_metadata, dict.fromkeys(Durability, "the metadata is wrong")),
    ],
)
async def test_damage_is_found(
    scene: Scene,
    size: int,
    damage: Callable[[Path], None],
    by_level: dict[Durability, str],
    level: Durability,
) -> None:
    damage(scene.file(await scene.upload(size)))
    await scene.upload()
    assert await scene.found(level) == ([by_level[level]] if level in by_level else [])


async def test_another_length_is_found(scene: Scene) -> None:
    change_the_length(scene.file(await scene.upload(5000)))
    assert await scene.found(NONE) == ["it cannot be resumed", "the length is wrong"]


async def test_what_wrong_bytes_are_is_told(scene: Scene) -> None:
    entry = await scene.upload(5000)
    clear_the_tail(scene.file(entry))
    (case,) = [case for case in (await scene.look()).cases if case.wrong]
    assert case.details == ["3 wrong bytes from 4997 on, before 5000: zeros"]


async def test_bytes_that_were_refused_are_recognized(scene: Scene) -> None:
    entry = await scene.upload(5000)
    await scene.sender.append(entry, Step(700, checksum=True, wrong=True))
    assert scene.events[-1] is Event.REFUSED
    assert await scene.found() == []
    later = await scene.upload(5000)
    refused = bytes(255 - byte for piece in later.content.pieces(5000, 5700) for byte in piece)
    with scene.file(later).open("ab") as file:
        file.write(refused)
    details = [case.details for case in (await scene.look()).cases if case.wrong]
    expected = "700 wrong bytes from 5000 on, before 5700: those of a body with a wrong checksum"
    assert details == [[expected]]


async def test_what_is_not_in_a_file_of_its_name_is_downloaded(scene: Scene) -> None:
    """As with servers that keep files in their own way."""
    clear_the_tail(scene.file(await scene.upload()))
    scene.folder = scene.folder / "elsewhere"
    assert await scene.found() == ["a complete upload has wrong bytes"]


async def test_a_final_that_is_cut_short_is_made_again(scene: Scene) -> None:
    truncate(scene.file(await scene.final()))
    assert await scene.found(NONE) == []


async def test_a_final_that_nothing_wakes_is_found(scene: Scene) -> None:
    for level, expected in ((ALWAYS, ["a final does not become whole by itself"]), (NONE, [])):
        await scene.final(unfinished=True)
        for mark in (scene.folder / "waiting").glob("*/*"):
            mark.unlink()
        assert await scene.found(level) == expected


async def test_a_deleted_upload_that_is_there_is_found(scene: Scene) -> None:
    entry = await scene.upload()
    entry.deleting = entry.deleted = True
    entry.at += 60
    assert await scene.found() == ["an upload is there though its deletion was acknowledged"]
    assert await scene.found(COMPLETE) == []


@pytest.mark.parametrize("status", [500, 423])
async def test_a_server_that_refuses_everything_is_found(status: int, tmp_path: Path) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", refuse)
    async with running(app) as (_, port):
        made = Scene(f"http://127.0.0.1:{port}/files/", tmp_path)
        entry = made.ledger.begin("empty", 0)
        entry.path = "/files/1"
        assert await made.found(NONE) == [
            "HEAD is not answered as it must be",
            "nothing can be uploaded any more",
        ]
        with pytest.raises(Refused, match=rf"upload 1 \(empty\): HEAD was answered {status}|not"):
            await made.sender.ask(entry)
        made.sender.close()


# What the client knows


async def test_what_is_offered_is_asked(scene: Scene) -> None:
    assert await scene.sender.discover() >= {"creation", "checksum", "concatenation-unfinished"}
    step = CHECKED.within(frozenset({"creation"})).step(Random(1), 100)
    assert not step.checksum
    assert not step.wrong


async def test_what_is_acknowledged_is_known_at_once(scene: Scene) -> None:
    entry = await scene.upload(3000)
    assert (entry.acknowledged, entry.complete) == (3000, False)
    await scene.sender.append(entry, Step(5000, cut=Cut.RST, cut_at=100))
    assert entry.acknowledged == 3000
    assert 3000 <= entry.told <= 3100
    await scene.sender.append(entry, Step(LENGTH - entry.offset, checksum=True))
    assert entry.complete
    await scene.sender.delete(entry)
    assert entry.deleted
    assert scene.events == [
        Event.CREATED,
        Event.APPENDED,
        Event.TOLD,
        Event.COMPLETED,
        Event.DELETED,
    ]


async def test_a_deferred_length_completes_when_it_is_declared(scene: Scene) -> None:
    entry = scene.ledger.begin("deferred length", 5)
    entry.declared = False
    await scene.sender.create(entry)
    await scene.sender.append(entry, Step(5, chunked=True))
    assert (entry.offset, entry.complete) == (5, False)
    await scene.sender.append(entry, Step(0), declare=True)
    assert entry.complete
