"""The application is told of every complete upload, whenever the server was killed."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ..http.client import OCTETS, TUS, Connection, Reply, exchange, head, sha1
from .servers import Program, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Program]]
    Way = Callable[["Dying"], Awaitable[str]]

HOOKS = """
import json, os, signal
from aiotus_server import Hooks, Refuse

hooks = Hooks()

def may_die(moment):
    try:
        os.unlink("die at " + moment)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

@hooks.pre_create
async def place(event):
    if "published" in event.metadata:
        event.path = os.path.abspath("published")

@hooks.pre_finish
async def judge(event):
    may_die("pre_finish")
    if "bad" in event.metadata:
        raise Refuse(415, "bad")
    event.status, event.body = 200, "well done"

@hooks.post_finish
async def tell(event):
    may_die("post_finish")
    if os.path.exists("fail"):
        raise RuntimeError("the database is down")
    async with event.open() as file:
        data = (await file.read()).decode()
    told = {"id": event.upload.upload_id, "key": event.idempotency_key, "data": data}
    with open("told", "a") as file:
        print(json.dumps(told), file=file)
    may_die("the end")
"""
MOMENTS = ["pre_finish", "post_finish", "the end"]


class Dying:
    """A server that dies at a moment of an upload's end, and what it has told."""

    def __init__(self, folder: Path, start: Start, *arguments: str) -> None:
        self.folder = folder
        self._start = start
        self._arguments = arguments
        (folder / "dying.py").write_text(HOOKS)

    async def start(self) -> None:
        self.program = await self._start("--hooks=dying:hooks", *self._arguments)

    def die_at(self, moment: str) -> None:
        (self.folder / f"die at {moment}").touch()

    @property
    def told(self) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "told").read_text().splitlines()]
        return []

    @property
    def noted(self) -> int:
        return len(list((self.folder / "uploads" / "finishing").iterdir()))

    async def until_told(self, times: int) -> None:
        await until(lambda: len(self.told) == times)

    async def post(self, length: int | None, body: bytes = b"", **headers: str) -> Reply:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if length is not None:
            fields["Upload-Length"] = str(length)
        if body:
            fields.update(OCTETS)
        return await self.program.request("POST", "/files/", fields, body)

    async def patch(self, path: str, offset: int, body: bytes, **headers: str) -> Reply | None:
        """None if the server died."""
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        fields.update({name.replace("_", "-"): value for name, value in headers.items()})
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            return await self.program.request("PATCH", path, fields, body)
        return None


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


# Ways to become complete; each returns the upload's path, unless the server died and took it along


async def by_creation(dying: Dying) -> str:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        return (await dying.post(5, b"hello")).path
    return ""


async def by_creation_of_nothing(dying: Dying) -> str:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        return (await dying.post(0)).path
    return ""


async def by_the_last_patch(dying: Dying) -> str:
    path = (await dying.post(5)).path
    await dying.patch(path, 0, b"he")
    assert dying.noted == 0
    await dying.patch(path, 2, b"llo")
    return path


async def by_a_patch_with_a_checksum(dying: Dying) -> str:
    path = (await dying.post(5)).path
    await dying.patch(path, 0, b"hello", Upload_Checksum=sha1(b"hello"))
    return path


async def by_a_patch_in_chunks(dying: Dying) -> str:
    path = (await dying.post(5)).path
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    connection = await dying.program.connect()
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await connection.send(head("PATCH", path, fields) + b"5\r\nhello\r\n0\r\n\r\n")
        await connection.reply()
    return path


async def by_its_length(dying: Dying) -> str:
    path = (await dying.post(None, Upload_Defer_Length="1")).path
    await dying.patch(path, 0, b"hello")
    await dying.patch(path, 5, b"", Upload_Length="5")
    return path


async def by_concatenation(dying: Dying) -> str:
    parts = [
        (await dying.post(len(data), data, Upload_Concat="partial")).path
        for data in (b"he", b"llo")
    ]
    assert not dying.told
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        return (await dying.post(None, Upload_Concat=f"final;{parts[0]} {parts[1]}")).path
    return ""


async def by_the_last_partial(dying: Dying) -> str:
    paths = [(await dying.post(size, Upload_Concat="partial")).path for size in (2, 3)]
    final = (await dying.post(None, Upload_Concat=f"final;{paths[0]} {paths[1]}")).path
    await dying.patch(paths[0], 0, b"he")
    await dying.patch(paths[1], 0, b"llo")
    return final


async def by_being_published(dying: Dying) -> str:
    path = (await dying.post(5, Upload_Metadata="published")).path
    await dying.patch(path, 0, b"hello")
    return path


WAYS = [
    by_creation,
    by_creation_of_nothing,
    by_the_last_patch,
    by_a_patch_with_a_checksum,
    by_a_patch_in_chunks,
    by_its_length,
    by_concatenation,
    by_the_last_partial,
    by_being_published,
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_what_a_crash_cut_off_is_told_at_the_next_start(
    tmp_path: Path, start: Start, way: Way, moment: str
) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    dying.die_at(moment)
    path = await way(dying)
    assert await dying.program.ended() == -9
    before = dying.told
    assert len(before) == (moment == "the end")
    await dying.start()
    await dying.until_told(len(before) + 1)
    await until(lambda: dying.noted == 0)
    told = dying.told[-1]
    assert told["data"] == ("" if way is by_creation_of_nothing else "hello")
    assert path == "" or told["id"] == id_of(path)
    assert all(same == told for same in before)  # the key is the same
    again = await dying.patch(f"/files/{told['id']}", len(told["data"]), b"")
    assert again is not None
    if way in (by_concatenation, by_the_last_partial):
        assert again.status == 403
    else:
        assert (again.status, again.body) == (200, b"well done")
    if way is by_being_published:
        assert (tmp_path / "published").read_text() == "hello"
    assert await dying.program.stop() == 0
    assert len(dying.told) == len(before) + 1


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_in_the_ordinary_case_it_is_told_once(tmp_path: Path, start: Start, way: Way) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    path = await way(dying)
    assert [told["id"] for told in dying.told] == [id_of(path)]
    assert dying.noted == 0
    for number in (9, 15):
        await dying.program.stop(number)
        await dying.start()
        await dying.patch(path, 5, b"")
    assert len(dying.told) == 1


async def test_another_worker_of_a_dead_one_tells(tmp_path: Path, start: Start) -> None:
    dying = Dying(tmp_path, start, "--workers=2")
    await dying.start()
    for number, moment in enumerate(MOMENTS[:2], 1):
        dying.die_at(moment)
        path = await by_the_last_patch(dying)
        await dying.until_told(number)
        assert dying.told[-1]["id"] == id_of(path)
        await until(lambda: dying.noted == 0)


async def test_a_hook_that_failed_is_told_again(tmp_path: Path, start: Start) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    (tmp_path / "fail").touch()
    path = await by_the_last_patch(dying)
    assert "the database is down" in dying.program.log
    assert dying.told == []
    assert await dying.program.stop() == 0
    await dying.start()
    await until(lambda: "the database is down" in dying.program.log)
    assert await dying.program.stop() == 0
    (tmp_path / "fail").unlink()
    await dying.start()
    await until(lambda: [told["id"] for told in dying.told] == [id_of(path)])
    await until(lambda: dying.noted == 0)


async def test_a_refusal_is_recorded_at_the_next_start(tmp_path: Path, start: Start) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    path = (await dying.post(5, Upload_Metadata="bad")).path
    dying.die_at("pre_finish")
    assert await dying.patch(path, 0, b"hello") is None
    await dying.program.ended()
    await dying.start()
    await until(lambda: dying.noted == 0)
    for _ in range(2):
        again = await dying.patch(path, 5, b"")
        assert again is not None
        assert again.status == 415
    assert dying.told == []


async def test_what_was_noted_and_did_not_come_is_forgotten(tmp_path: Path, start: Start) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    path = (await dying.post(100_000)).path
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "100000"}
    connection: Connection = await dying.program.connect()
    await connection.send(head("PATCH", path, fields) + b"x" * 50_000)
    await until(lambda: dying.noted == 1)
    await until(lambda: dying.program.stored(path).stat().st_size > 0)
    await dying.program.stop(9)
    await dying.start()
    await until(lambda: dying.noted == 0)
    offset = (await exchange(await dying.program.connect(), "HEAD", path)).offset
    assert 0 < offset <= 50_000
    reply = await dying.patch(path, offset, b"x" * (100_000 - offset))
    assert reply is not None
    assert reply.status == 200
    assert [told["id"] for told in dying.told] == [id_of(path)]


async def test_what_was_terminated_is_forgotten(tmp_path: Path, start: Start) -> None:
    dying = Dying(tmp_path, start)
    await dying.start()
    (tmp_path / "fail").touch()
    path = await by_the_last_patch(dying)
    assert dying.noted == 1
    assert (await dying.program.request("DELETE", path)).status == 204
    assert dying.noted == 0
