"""``python -m tests.faults.killed FOLDER LEVEL``: every scenario, with a server that is killed
before each change that it makes to the disk, and in the middle of each write. Then a new server is
started on what is left, and judged. Prints how many kills there were in each scenario, as JSON.

This process forks for each of them, and has no thread, so it takes milliseconds.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import pickle
import shutil
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server.call import Call
from aiotus_server.cli import main as command
from aiotus_server.options import Options
from aiotus_server.recovery import recover
from aiotus_server.stores.verify import verification

from .killing import KILLED, KillingDisk
from .scenarios import LARGE, SCENARIOS, SMALL, Scene, check, scene_in

if TYPE_CHECKING:
    from collections.abc import Callable

# What a crash may leave besides uploads, until somebody looks for it.
LEFT = {
    *("creation-cut-off", "termination-cut-off", "info-new-left", "mark-left", "waiting-mark-left"),
    *("published-data-left", "stray"),
}
FIRST = b"the store is open"


@dataclass
class Witness:
    """What the clients and the application of the killed server know."""

    paths: dict[str, bytes] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    answered: bool = False
    created: str | None = None


def live(folder: Path, level: str, name: str, change: int, half: bool, say: Any) -> None:
    async def life(disk: KillingDisk) -> None:
        async with scene_in(folder, level, lambda upload_id: say("told", upload_id)) as scene:
            act = await SCENARIOS[name](scene)
            for path, data in scene.paths.items():
                head = await scene.site.head(path)
                say("path", (path, data, int(head.headers.get("Upload-Offset", 0))))
            disk.arm_kill(change, half=half)
            reply = await act(scene)
            if reply is None or reply.status < 500:
                say("answer", reply.path if reply and reply.status == 201 else None)
            await asyncio.sleep(0.01)  # what goes on behind the answer
            disk.disarm_kill()

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(life(KillingDisk(patch)))


def judge(folder: Path, level: str, name: str, witness: Witness) -> None:
    """Raises AssertionError."""
    told = set(witness.told)

    async def next_life() -> None:
        async with scene_in(folder, level, told.add) as scene:
            await recovery_of(scene)
            if witness.created is not None:
                assert (await scene.site.head(witness.created)).status == 200
            for path, data in (witness.paths | await unknown(scene, witness)).items():
                await judge_one(scene, name, witness, path, data)
            await check(scene, name)
            for path in scene.paths:
                head = await scene.site.head(path)
                if head.headers.get("Upload-Concat") != "partial":
                    assert path.rpartition("/")[2] in told, path

    findings_in(folder / "uploads")
    asyncio.run(next_life())
    assert findings_in(folder / "uploads") <= LEFT


async def recovery_of(scene: Scene) -> None:
    server = scene.site.routes.server
    offer = Options().offer(server.capabilities, trailers=False)
    await recover(server, Call(Options(), offer, upload_url=lambda upload_id: upload_id))


async def unknown(scene: Scene, witness: Witness) -> dict[str, bytes]:
    """Uploads that no client has heard of may be there."""
    found: dict[str, bytes] = {}
    for info in scene.site.store.root.glob("??/*.info"):
        path = f"/files/{info.stem}"
        head = await scene.site.head(path)
        assert head.status in (200, 404, 410), head
        opened = head.headers.get("Upload-Length") == str(len(FIRST))
        if head.status == 200 and path not in witness.paths and not opened:
            final = head.headers.get("Upload-Concat", "").startswith("final")
            found[path] = SMALL + LARGE if final else SMALL
    return found


async def judge_one(scene: Scene, name: str, witness: Witness, path: str, data: bytes) -> None:
    """Leaves it to ``check`` if there is more to be said."""
    head = await scene.site.head(path)
    if name in ("terminate", "sweep_the_expired") and path in witness.paths:
        assert head.status in (404, 410) if witness.answered else head.status in (200, 404, 410)
        if head.status != 200:
            return
    assert head.status == 200, (path, head)
    before = witness.offsets.get(path, 0)
    if "Upload-Offset" in head.headers:
        assert before <= head.offset <= len(data)
        if "slowly" in name:
            assert head.offset in (before, len(data))
        if "wrong" in name:
            assert head.offset == before
        elif witness.answered and name.startswith("append"):
            assert head.offset == len(data)
    scene.paths[path] = data


def findings_in(root: Path) -> set[str]:
    """What a verification takes note of. There must be no error, before the next server comes too,
    who might make up for it in time for those that ask."""
    verification.PAUSE = 0.0
    with redirect_stdout(io.StringIO()) as output:
        command(["verify", "--json", "--dir", str(root)], {})
    report = json.loads(output.getvalue())
    assert report["errors"] == 0, report
    return {finding["code"] for finding in report["findings"]}


def in_child(function: Callable[[Callable[[str, object], None]], None]) -> tuple[int, Witness]:
    """Its exit code, and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            function(lambda kind, value: _write(writing, pickle.dumps((kind, value))))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    witness = Witness()
    with open(reading, "rb") as pipe:
        while message := _next(pipe):
            _note(witness, *message)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), witness


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _next(pipe: Any) -> tuple[str, Any] | None:
    try:
        message: tuple[str, Any] = pickle.load(pipe)
    except (EOFError, pickle.UnpicklingError):
        return None  # it was killed while it spoke
    return message


def _note(witness: Witness, kind: str, value: Any) -> None:
    if kind == "told":
        witness.told.add(value)
    elif kind == "path":
        path, data, offset = value
        witness.paths[path], witness.offsets[path] = data, offset
    else:
        witness.answered, witness.created = True, value


def kill_each(folder: Path, level: str, name: str) -> int:
    """In all places: how many there were. Raises AssertionError."""
    kills = 0
    for change in count():
        for half in (False, True):
            place = folder / f"{name}-{change}-{half}"
            place.mkdir()
            lived, witness = in_child(
                lambda say, place=place, change=change, half=half: live(  # type: ignore[misc]
                    place, level, name, change, half, say
                )
            )
            assert lived in (0, KILLED), (name, change, half)
            kills += lived == KILLED
            judged, _ = in_child(
                lambda say, place=place, witness=witness: judge(  # type: ignore[misc]
                    place, level, name, witness
                )
            )
            assert judged == 0, (level, name, change, half, witness.answered)
            if lived == 0 and not half:
                return kills
            shutil.rmtree(place)
    raise AssertionError


def main() -> None:
    logging.disable()
    folder, level, *names = Path(sys.argv[1]), *sys.argv[2:]
    print(json.dumps({name: kill_each(folder, level, name) for name in names or SCENARIOS}))  # noqa: T201


if __name__ == "__main__":
    main()
