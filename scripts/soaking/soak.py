"""The soak itself: rounds of load and faults, each followed by a quiet moment."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from scripts.load.http import Reply
from scripts.load.job import Job
from scripts.load.plan import Plan
from scripts.load.runner import client_of
from scripts.load.sizes import parse_sizes

from .faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.load.tally import Tally

    from .process import Sample, Server

KIB, MIB = 1024, 1024 * 1024
ROUND = 30.0  # seconds; shorter in short runs
LEAST_ROUNDS = 3
LEAST_LOAD = 1.0  # seconds of each
QUIET = 1.0  # seconds without a change
REMEMBERED = 5000  # uploads that are asked for at the end
KEPT = 64 * KIB  # bytes; longer uploads are deleted, to spare the disk
AT_ONCE = 2.0  # seconds in which a HEAD must be answered when nothing else goes on
SETTLING = 15.0  # seconds in which the server may close what is left of the connections


def plans(url: str, seed: int) -> list[Plan]:
    """The kinds of clients that take turns; all cut a fifth of their requests."""
    base = Plan(
        url, seed=seed, kill_rate=0.2, retries=20, timeout=20.0, metadata=(("filename", "a.bin"),)
    )
    change = dataclasses.replace
    return [
        change(base, sizes=parse_sizes("lognormal:2MiB,1,32MiB"), chunk=MIB),
        change(base, sizes=parse_sizes("uniform:1MiB-24MiB")),
        change(base, sizes=parse_sizes("zipf:1-256KiB,0.5"), with_upload=True),
        change(base, sizes=parse_sizes("5MiB"), chunk=MIB, checksum="sha1", wrong_checksums=0.1),
        change(
            base,
            sizes=parse_sizes("lognormal:256KiB,2,16MiB"),
            checksum="crc32c",
            wrong_checksums=0.1,
            with_upload=True,
        ),
        change(base, sizes=parse_sizes("6MiB"), parallel=3, chunk=MIB),
        change(base, sizes=parse_sizes("3MiB"), chunked=True),
        change(base, sizes=parse_sizes("1MiB"), rate=2 * MIB),
    ]


class Soak:
    """``seconds`` of load on ``server``, which runs. What is found is in ``tally``, ``samples``
    (of quiet moments, without warm-up) and ``complaints``."""

    def __init__(
        self, server: Server, tally: Tally, *, seconds: float, workers: int, kills: int, seed: int
    ) -> None:
        self.samples: list[Sample] = []
        self.most: Sample | None = None  # of everything, under load
        self.complaints: list[str] = []
        self.folder = server.folder
        self._server = server
        self._tally = tally
        self._seconds = seconds
        self._workers = workers
        self._kills = kills
        self._random = random.Random(seed)
        self._plans = plans(server.url, seed)
        self._indices: Iterator[int] = itertools.count(1)
        self._left: deque[str] = deque(maxlen=REMEMBERED)
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Raises Trouble when there is no server any more."""
        rounds = max(LEAST_ROUNDS, round(self._seconds / ROUND))
        restarts = self._restarts_by_round(rounds)
        load = max(LEAST_LOAD, self._seconds / rounds - QUIET)
        for number in range(rounds):
            await self._round(time.monotonic() + load, restarts.get(number, []))
            sample = await self._quiet()
            # The server has just been started until now: it has yet to warm up.
            if number >= max(restarts, default=-1) + (1 if restarts else 0):
                self.samples.append(sample)
        await self._ask_for_all()

    def _restarts_by_round(self, rounds: int) -> dict[int, list[signal.Signals]]:
        """All in the first half, so that leaks of one and the same life show in the second."""
        found: dict[int, list[signal.Signals]] = {}
        for number in range(self._kills):
            kind = signal.SIGTERM if number % 2 else signal.SIGKILL
            found.setdefault(number * (rounds // 2) // self._kills, []).append(kind)
        return found

    # A round

    async def _round(self, end: float, restarts: list[signal.Signals]) -> None:
        """Until ``end``; every upload that was begun has then come to its end."""
        self._ending.clear()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._uploads())
            for _ in range(max(2, self._workers // 2)):
                group.create_task(self._faults())
            try:
                await self._watch(end, restarts)
            finally:
                self._ending.set()
        self._tally.seconds += time.perf_counter() - begun

    async def _watch(self, end: float, restarts: list[signal.Signals]) -> None:
        left = max(0.0, end - time.monotonic())
        due = sorted(time.monotonic() + self._random.uniform(0.2, 0.8) * left for _ in restarts)
        for number in restarts:
            await self._until(due.pop(0))
            await self._server.end(number)
            self._tally.counts[number.name] += 1
            await self._server.start()
        await self._until(end)

    async def _until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            sample = self._server.sample()
            self.most = sample if self.most is None else _most(self.most, sample)
            await asyncio.sleep(min(1.0, left))

    async def _uploads(self) -> None:
        clients = [client_of(plan, self._tally) for plan in self._plans]
        try:
            while not self._ending.is_set():
                index = next(self._indices)
                kind = index % len(self._plans)
                await self._upload(Job(self._plans[kind], clients[kind], index))
        finally:
            for client in clients:
                client.close()

    async def _upload(self, job: Job) -> None:
        await job.upload()
        if job.ok:
            await job.verify()
        if job.url:
            self._left.append(job.url)
        if job.ok and job.length > KEPT:
            await job.remove()

    async def _faults(self) -> None:
        plan = dataclasses.replace(self._plans[0], seed=self._random.getrandbits(32), metadata=())
        client = client_of(plan, self._tally)
        faults = Faults(plan, client, self._left.append, self._ending)
        try:
            while not self._ending.is_set():
                await faults.one()
        finally:
            client.close()

    # Quiet

    async def _quiet(self) -> Sample:
        """A sample when nothing is left to be closed, or when it takes too long."""
        deadline = time.monotonic() + SETTLING
        before, since = self._server.sample(), time.monotonic()
        while time.monotonic() < min(deadline, since + QUIET):
            await asyncio.sleep(0.1)
            sample = self._server.sample()
            if sample.descriptors < before.descriptors:
                before, since = sample, time.monotonic()
        return self._server.sample()

    async def _ask_for_all(self) -> None:
        """No lock is left: each upload of the run answers HEAD at once, and not with 423."""
        plan = dataclasses.replace(self._plans[0], timeout=AT_ONCE)
        client = client_of(plan, self._tally)
        left = iter(set(self._left))

        async def ask() -> None:
            for url in left:
                outcome = await client.request("HEAD", url)
                if not isinstance(outcome, Reply):
                    self.complaints.append(f"HEAD {url}: {outcome.why}")
                elif outcome.status not in (200, 204, 404, 410):
                    self.complaints.append(f"HEAD {url}: {outcome.says}")

        try:
            await asyncio.gather(*(ask() for _ in range(4)))
        finally:
            client.close()


def _most(one: Sample, other: Sample) -> Sample:
    """The greater of both in each column."""
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return type(one)(*map(max, pairs))
