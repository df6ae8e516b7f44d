"""The clients: they upload one thing after another, and resume whatever breaks."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scripts.load.content import Content, mix
from scripts.load.http import Reply
from scripts.load.job import Job
from scripts.load.plan import Plan
from scripts.load.runner import at_once, client_of
from scripts.load.sizes import parse_sizes
from scripts.load.transfer import PASSING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripts.load.client import Client
    from scripts.load.tally import Tally

KIB, MIB = 1024, 1024 * 1024
VERIFIED_AT_ONCE = 4
DELETED = 8  # one upload of so many, when it is complete
PAUSE = 0.05  # seconds
GONE = (404, 410)


def kinds(url: str, seed: int) -> dict[str, Plan]:
    """They take turns. Slow ones are in the middle of a body when the kill comes; a body with a
    checksum, which counts whole or not at all, must get through between two kills."""
    base = Plan(
        url,
        seed=seed,
        sizes=parse_sizes("lognormal:256KiB,1.5,4MiB"),
        kill_rate=0.03,
        retries=2000,
        longest_pause=0.1,
        timeout=20.0,
        atomic=True,
    )
    change = dataclasses.replace
    checked = change(base, chunk=256 * KIB, checksum="sha1", wrong_checksums=0.05)
    return {
        "plain": change(base, rate=6 * MIB),
        "large": change(base, sizes=parse_sizes("uniform:1MiB-8MiB"), rate=24 * MIB),
        "small appends": change(base, chunk=48 * KIB),
        "chunked": change(base, chunked=True, rate=6 * MIB),
        "checksum": change(checked, chunk=512 * KIB, rate=3 * MIB),
        "checksum trailer": change(checked, chunked=True, trailer=True),
        "parallel parts": change(base, parallel=3, rate=4 * MIB),
        "parts with a checksum": change(checked, parallel=3, rate=6 * MIB),
        "deferred length": change(base, defer_length=True, chunk=200 * KIB, rate=6 * MIB),
        "with upload": change(base, with_upload=True, sizes=parse_sizes("zipf:1-256KiB,0.3")),
        "with upload, checksum": change(checked, with_upload=True),
        "empty": change(base, sizes=parse_sizes("0")),
    }


class Crowd:
    """``clients`` of the server at ``url``. ``jobs`` are the uploads that they brought to an
    end, by the number that is the name of each, ``counts`` how many of each kind; ``deleted``
    has the ids of those that they removed. What went wrong is in ``tally``."""

    def __init__(self, url: str, tally: Tally, *, seed: int, clients: int) -> None:
        self.jobs: dict[int, Job] = {}
        self.deleted: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._tally = tally
        self._clients = clients
        self._kinds = kinds(url, seed)
        self._names = list(self._kinds)
        self._numbers = itertools.count(1)
        self._ending = False

    def expected(self, number: int) -> tuple[Content, int]:
        """The bytes of an upload, and its length."""
        return Content(self._seed, number), self._plan_of(number).length_of(number)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While the block runs; then they bring to an end what they have begun."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._work())
            try:
                yield
            finally:
                self._ending = True

    async def verify(self) -> None:
        """All that is there must be what was sent."""
        await at_once(VERIFIED_AT_ONCE, Job.verify, list(self.jobs.values()))

    async def _work(self) -> None:
        clients = {name: client_of(plan, self._tally) for name, plan in self._kinds.items()}
        try:
            while not self._ending:
                number = next(self._numbers)
                await self._upload(number, clients[self._name_of(number)])
        finally:
            for client in clients.values():
                client.close()

    async def _upload(self, number: int, client: Client) -> None:
        job = Job(self._plan_of(number), client, number)
        await job.upload()
        if not job.ok:
            return
        self.counts[self._name_of(number)] += 1
        if mix(number) % DELETED:
            self.jobs[number] = job
        else:
            await self._delete(job.url, client)

    async def _delete(self, url: str, client: Client) -> None:
        self.counts["deleted"] += 1
        self.deleted.add(url.rpartition("/")[2])
        for method, statuses in (("DELETE", (204, *GONE)), ("HEAD", GONE)):
            reply = await self._answer(client, method, url)
            if reply.status not in statuses:
                self._tally.counts["wrong"] += 1
                self._tally.error(f"{method} of {url}, which is removed: {reply.says}")

    async def _answer(self, client: Client, method: str, url: str) -> Reply:
        while True:
            outcome = await client.request(method, url)
            if isinstance(outcome, Reply) and outcome.status not in PASSING:
                return outcome
            await asyncio.sleep(PAUSE)

    def _name_of(self, number: int) -> str:
        return self._names[number % len(self._names)]

    def _plan_of(self, number: int) -> Plan:
        plan = self._kinds[self._name_of(number)]
        return dataclasses.replace(plan, metadata=(("filename", str(number)),))
