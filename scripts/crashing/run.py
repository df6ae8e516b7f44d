"""One run: a server on an empty folder, clients, so many kills, and what came of them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from scripts.load.tally import Tally
from scripts.soaking.process import COMMAND, REPOSITORY, Server, Trouble

from .crowd import Crowd
from .judging import Judge
from .killer import Killer, Way
from .witness import VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    from aiotus_server import Durability

DELIVERING = 10.0  # seconds after the last start in which all events are told
PAUSE = 0.1  # seconds
# Half of the time of a start is Python's compiler, where it may not keep what it has made.
COMPILE_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}
LOOKS = 5  # a verification after one kill of so many
TOLD_IN_LOG = ("Traceback", "could not be finished", "Recovery could not be done")


@dataclass(frozen=True, slots=True)
class Setting:
    """Of one run. ``seed`` is that of chance and of all bytes."""

    seed: int
    kills: int
    workers: int
    durability: Durability
    clients: int
    flags: tuple[str, ...] = ()  # more of the server's

    def __str__(self) -> str:
        return f"seed {self.seed}, --workers={self.workers}, --durability={self.durability.value}"


@dataclass(slots=True)
class Findings:
    """``uploads`` are of kinds, ``notes`` of codes of verifications; ``complete`` counts the
    uploads that were there at the end, those too that no client knew of."""

    kills: Counter[Way] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    complete: int = 0
    told_again: int = 0
    looks: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


class Run:
    """In ``folder``, which is empty. What is found is in ``findings``."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.findings = Findings()
        self.setting = setting
        self._root = folder / "uploads"
        self._dice = Random(setting.seed)
        self._server = self._made(folder)
        self._killer = Killer(self._server, self._dice)
        self._crowd = Crowd(
            self._server.url, self.findings.tally, seed=setting.seed, clients=setting.clients
        )
        self._judge = Judge(self._root, folder / "told", self._crowd)

    def _made(self, folder: Path) -> Server:
        flags = [
            *("--hooks", "scripts.crashing.witness:hooks"),
            f"--workers={self.setting.workers}",
            f"--durability={self.setting.durability.value}",
            *self.setting.flags,
        ]
        environment = {VARIABLE: str(folder / "told"), **COMPILE_ONCE}
        # No server outlives us, however we end.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*leash, *COMMAND]
        log = folder / "log"
        return Server(self._root, log, flags, command=command, environment=environment)

    async def run(self) -> None:
        """Raises Trouble when the server does not start."""
        try:
            await self._server.start()
            async with self._crowd.at_work():
                for number in range(self.setting.kills):
                    await self._kill(number)
                if not self._server.running:
                    await self._server.start()
            await self._crowd.verify()
            await self._await_events()
            await self._server.end(signal.SIGTERM)
            await asyncio.to_thread(self._judge_all)
        finally:
            await self._server.kill()
            self._note_load()

    async def _kill(self, number: int) -> None:
        self.findings.kills[await self._killer.kill()] += 1
        if not self._server.running and number % LOOKS == 0:
            await asyncio.to_thread(self._look, f"after kill {number + 1}: ")

    def _look(self, when: str = "") -> None:
        self.findings.looks += 1
        for complaint in self._judge.damage(self.findings.notes):
            self.findings.complaints.append(when + complaint)

    async def _await_events(self) -> None:
        """Those of uploads that a crash has left are delivered in the background."""
        deadline = time.monotonic() + DELIVERING
        while time.monotonic() < deadline:
            if not await asyncio.to_thread(self._judge.untold):
                return
            await asyncio.sleep(PAUSE)

    def _judge_all(self) -> None:
        judge, found = self._judge, self.findings
        found.complaints += judge.wrong_uploads()
        # Every upload that is complete, or whose end was acknowledged, has been told of.
        found.complaints += [f"post_finish of {name} was never told" for name in judge.untold()]
        found.complaints += judge.wrong_events()
        self._look()
        found.complaints += self._command_complains()
        found.complete, found.told_again = judge.complete(), judge.told_again()

    def _command_complains(self) -> list[str]:
        """``aiotus-server verify``, as an operator runs it."""
        words = [sys.executable, "-m", "aiotus_server", "verify", "--dir", str(self._root)]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return [] if done.returncode == 0 else [f"verify: {done.stdout}{done.stderr}"]

    def _note_load(self) -> None:
        found, tally = self.findings, self.findings.tally
        found.uploads = self._crowd.counts
        found.complaints += tally.errors
        if tally.statuses[500]:
            found.complaints.append(f"{tally.statuses[500]} answers were 500")
        log = self._server.log.read_text(errors="replace") if self._server.log.exists() else ""
        found.complaints += [
            f"the server's log has {log.count(word)} x {word!r}"
            for word in TOLD_IN_LOG
            if word in log
        ]


def trouble_of(error: BaseException) -> Trouble | None:
    """A task group wraps what ends it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Trouble) else None
