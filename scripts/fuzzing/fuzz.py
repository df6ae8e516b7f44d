"""The fuzz itself: attacks in lanes, uploads that are left alone beside them, and a last look."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import TYPE_CHECKING

from scripts.load.job import Job
from scripts.load.plan import Plan
from scripts.load.runner import client_of
from scripts.load.sizes import parse_sizes
from scripts.load.tally import Tally

from .honest import Honest, Wrong
from .lane import Finding, Lane, Ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator

    from .folder import Folder

KIB = 1024
SLEEPERS = 12
AT_ONCE = 2.0  # seconds in which HEAD must be answered when nothing else goes on
PAUSE = 0.05  # seconds between two requests of a good client that goes on all the time


@dataclasses.dataclass(frozen=True, slots=True)
class Sleeper:
    """An upload that nobody touches until the end."""

    path: str
    data: bytes
    length: int | None


class Fuzz:
    """Attacks the server at ``address``, which has uploads below ``prefix`` (without a slash at
    its end). What is found is in ``ledger.findings``; ``good`` tells of the good clients.

    ``folder`` is the server's, if it is at hand.
    """

    def __init__(
        self,
        address: tuple[str, int],
        prefix: str,
        *,
        seed: int,
        lanes: int = 16,
        good: int = 2,
        folder: Folder | None = None,
    ) -> None:
        origin = "http://{}:{}".format(*address)
        self.ledger = Ledger(Counter(), Counter())
        self.good = Tally()
        self._honest = Honest(origin, prefix)
        self._lanes = [Lane(self._honest, address, seed, self.ledger) for _ in range(lanes)]
        self._good = good
        self._seed = seed
        self._folder = folder
        self._sleepers: list[Sleeper] = []
        self._stopped = False
        self._indices = iter(range(1, 10**9))
        self._plan = Plan(
            f"{origin}{prefix}/",
            seed=seed,
            sizes=parse_sizes("uniform:1KiB-600KiB"),
            chunk=64 * KIB,
            retries=0,
            rate=2048 * KIB,
            timeout=20.0,
        )

    async def begin(self) -> None:
        """Upload what is to be there still, as it is, when all is over."""
        chance = random.Random(self._seed)
        for number in range(SLEEPERS):
            data = chance.randbytes(chance.choice([0, 10, 5000, 100_000]))
            missing = (None, 0, 700)[number % 3]
            length = None if missing is None else len(data) + missing
            path = await self._honest.create(length, data, partial=bool(number % 2))
            self._sleepers.append(Sleeper(path, data, length))

    async def attack(self, numbers: Iterable[int]) -> None:
        """All of them; good clients upload meanwhile."""
        left = iter(numbers)
        good = [asyncio.ensure_future(self._be_good()) for _ in range(self._good)]
        try:
            await asyncio.gather(*(self._run(lane, left) for lane in self._lanes))
        finally:
            self._stopped = True
            await asyncio.gather(*good)

    async def end(self) -> None:
        """Everything that must be there is there and as it was, and no lock is left."""
        for lane in self._lanes:
            await lane.finish()
        await self._each(self._wake(sleeper) for sleeper in self._sleepers)
        await self._each(self._ask(path) for path in sorted(self._all_paths()))
        for complaint in self._of_folder():
            self._found(complaint)
        for error in self.good.errors:
            self._found(f"a good client failed: {error}")
        self._honest.close()

    async def _run(self, lane: Lane, numbers: Iterator[int]) -> None:
        for number in numbers:
            await lane.attack(number)

    async def _be_good(self) -> None:
        """Upload, compare, remove, until the attacks are over."""
        self._stopped = False
        client = client_of(self._plan, self.good)
        try:
            while not self._stopped:
                job = Job(self._plan, client, next(self._indices))
                await job.upload()
                if job.ok:
                    await job.verify()
                if job.ok:
                    await job.remove()
                await asyncio.sleep(PAUSE)
        finally:
            client.close()

    # The last look

    async def _each(self, checks: Iterable[Awaitable[None]]) -> None:
        for check in checks:
            try:
                await check
            except Wrong as wrong:
                self._found(str(wrong))

    async def _wake(self, sleeper: Sleeper) -> None:
        state = await self._honest.state(sleeper.path)
        if state != (len(sleeper.data), sleeper.length):
            raise Wrong(f"{sleeper.path} was not touched, and is {state}")
        rest = bytes((sleeper.length or len(sleeper.data)) - len(sleeper.data))
        length = len(sleeper.data) if sleeper.length is None else None
        await self._honest.append(sleeper.path, len(sleeper.data), rest, length)
        if await self._honest.bytes_of(sleeper.path) != sleeper.data + rest:
            raise Wrong(f"{sleeper.path} was not touched, and has other bytes")

    async def _ask(self, path: str) -> None:
        """No lock is left on it. That it is gone is nothing that must not be, here."""
        try:
            async with asyncio.timeout(AT_ONCE):
                await self._honest.state(path)
        except TimeoutError:
            raise Wrong(f"HEAD of {path} was not answered within {AT_ONCE} s") from None

    def _all_paths(self) -> Iterator[str]:
        yield from self.ledger.left
        for lane in self._lanes:
            yield from lane.paths
        if self._folder is not None:
            yield from (f"{self._honest.prefix}/{up.upload_id}" for up in self._folder.uploads())

    def _of_folder(self) -> Iterator[str]:
        if self._folder is None:
            return
        yield from self._folder.complaints()
        known = {path.rpartition("/")[2] for path in self.ledger.left}
        for upload in self._folder.uploads():
            if upload.attack in self.ledger.refused and upload.upload_id not in known:
                yield f"{upload.upload_id} is there, but attack {upload.attack} was refused"

    def _found(self, what: str) -> None:
        self.ledger.findings.append(Finding(-1, what))
