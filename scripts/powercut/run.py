"""One run: a server on a disk, a load, so many power cuts, and what came of each."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from aiotus_server import Durability
from scripts.load.runner import at_once
from scripts.load.tally import Tally
from scripts.soaking.process import Server, Trouble

from .aftermath import Aftermath, Case
from .crowd import Crowd
from .disks import Disk, DiskTrouble
from .kernel import Kernel
from .ledger import Ledger
from .moments import Moments, PowerCut
from .sender import Refused, Sender, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BATCH = 10  # cuts, before all of them are looked at
AT_ONCE = 3  # servers that are asked about a cut
WITHOUT_CUT = "without a power cut"
LOAD = "the load"


@dataclass(frozen=True, slots=True)
class Violation:
    """``what`` was not as promised, of an ``upload`` of this ``kind``, after a cut at
    ``moment``; 0 if it was none, or no cut."""

    cut: int
    moment: str
    kind: str
    what: str
    upload: int = 0
    detail: str = ""
    history: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """``counts`` are of pairs of a kind and what was done with an upload of it."""

    cuts: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    server_log: str = ""
    interrupted: bool = False


class Run:
    """``command`` starts the server, with ``{port}`` and ``{dir}`` in it; its level of durability
    is said to be ``promise``. What is found is in ``findings``."""

    def __init__(
        self, disk: Disk, command: Sequence[str], promise: Durability, *, cuts: int, seed: int
    ) -> None:
        self.findings = Findings()
        self._disk = disk
        # So that no server outlives us, however we end, and holds the disk.
        self._command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._promise = promise
        self._cuts = cuts
        self._seed = seed
        self._ledger = Ledger(seed)
        self._fresh: list[PowerCut] = []

    async def run(self, progress: Callable[[Findings], None]) -> None:
        """Raises Trouble if the server does not start."""
        server = self._server(self._disk.point, "load")
        await server.start()
        try:
            with Kernel(_uploads(self._disk.point), self._disk.point / "other", self._seed) as k:
                await self._load(server, k, progress)
        finally:
            self.findings.server_log = server.log.read_text(errors="replace")
            await server.end(signal.SIGKILL)

    async def _load(
        self, server: Server, kernel: Kernel, progress: Callable[[Findings], None]
    ) -> None:
        crowd = Crowd(await self._setting(server.url), kernel)
        moments = Moments(crowd, kernel, self._ledger, self._cut, seed=self._seed)
        async with crowd.at_work():
            while self.findings.cuts < self._cuts:
                for _ in range(min(BATCH, self._cuts - self.findings.cuts)):
                    await moments.next()
                async with crowd.paused():
                    with kernel.resting():
                        await self._look()
                    if self.findings.cuts == self._cuts:
                        await self._look_at_the_living(server)
                self._note_troubles(crowd)
                progress(self.findings)

    async def _setting(self, url: str) -> Setting:
        setting = Setting(url, self.findings.tally, self._ledger, Random(self._seed))
        sender = Sender(setting, nullcontext)
        try:
            return replace(setting, offer=await sender.discover())
        except Refused as error:
            raise Trouble(str(error)) from None
        finally:
            sender.close()

    def _note_troubles(self, crowd: Crowd) -> None:
        for text in crowd.troubles:
            what = "an answer that no request may get"
            self._violated(0, WITHOUT_CUT, LOAD, what, text)
        crowd.troubles.clear()

    def _cut(self, moment: str) -> None:
        """Nothing is acknowledged between the snapshot and the cut: this is the only thread that
        would hear of it."""
        self.findings.cuts += 1
        self.findings.moments[moment] += 1
        entries = self._ledger.snapshot()
        at = time.monotonic()
        try:
            image = self._disk.cut(f"cut-{self.findings.cuts}")
        except OSError as error:
            self._violated(self.findings.cuts, moment, "disk", "there is no copy", str(error))
        else:
            self._fresh.append(PowerCut(self.findings.cuts, moment, at, image, entries))

    def _violated(self, cut: int, moment: str, kind: str, what: str, detail: str) -> None:
        self.findings.violations.append(Violation(cut, moment, kind, what, detail=detail))

    # Afterwards

    async def _look(self) -> None:
        cuts, self._fresh = self._fresh, []
        await at_once(AT_ONCE, self._look_at, cuts)

    async def _look_at(self, cut: PowerCut) -> None:
        server = None
        try:
            point = await asyncio.to_thread(self._disk.mount, cut.image)
            server = self._server(point, cut.image.stem)
            await server.start()
            await self._check(server, point, cut, self._promise)
        except (DiskTrouble, Trouble) as error:
            what = "the disk or the server is not to be had any more"
            self._violated(cut.number, cut.moment, "server", what, str(error))
        finally:
            if server is not None:
                await server.end(signal.SIGKILL)
                server.log.unlink(missing_ok=True)
            await asyncio.to_thread(self._disk.discard, cut.image)

    async def _look_at_the_living(self, server: Server) -> None:
        """The same again without a cut: whatever is wrong then is not the fault of one."""
        entries, now = self._ledger.snapshot(), time.monotonic()
        cut = PowerCut(0, WITHOUT_CUT, now, self._disk.point, entries)
        await self._check(server, self._disk.point, cut, Durability.ALWAYS)

    async def _check(self, server: Server, point: Path, cut: PowerCut, promise: Durability) -> None:
        aftermath = Aftermath(server.url, _uploads(point), cut.entries, promise)
        await aftermath.check()
        if cut.number:
            self.findings.counts.update(aftermath.counts)
        for case in aftermath.cases:
            self.findings.violations += _violations(cut, case)

    def _server(self, point: Path, name: str) -> Server:
        folder = _uploads(point)
        folder.mkdir(exist_ok=True)
        log = self._disk.point.with_name(f"{name}.log")
        return Server(folder, log, [], command=self._command)


def _uploads(point: Path) -> Path:
    return point / "uploads"


def _violations(cut: PowerCut, case: Case) -> list[Violation]:
    """With the last that the client did and heard, in seconds before the cut."""
    history = tuple(f"{at - cut.at:+.3f} s: {text}" for at, text in case.entry.history)
    kind, number = case.entry.kind, case.entry.number
    return [
        Violation(cut.number, cut.moment, kind, what, number, detail, history)
        for what, detail in zip(case.wrong, case.details, strict=True)
    ]
