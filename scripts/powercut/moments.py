"""When the power is cut."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from .crowd import CONCATENATION, Crowd
from .kinds import BULK, CHECKED, CHUNKED, DEFERRED, EMPTY, PLAIN, WHOLE, Kind
from .ledger import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .kernel import Kernel
    from .ledger import Entry, Ledger

SPELL = (0.1, 0.9)  # seconds of load before a cut
PATIENCE = 3.0  # seconds for an event that does not come
AMID = (0.05, 1.0)  # seconds after the beginning of an upload
SCENES_PLAYED = 10  # until one has the event that is waited for

# What one client alone does, and is told when the power goes.
SCENES: tuple[tuple[Kind | str, Event], ...] = (
    (CHECKED, Event.VERIFIED),
    (DEFERRED, Event.COMPLETED),
    (CONCATENATION, Event.COMPLETED),
    (PLAIN, Event.APPENDED),
    (CHECKED, Event.COMPLETED),
    (PLAIN, Event.DELETED),
    (WHOLE, Event.COMPLETED),
    (CONCATENATION, Event.CREATED),
    (CHUNKED, Event.APPENDED),
    (CHECKED, Event.REFUSED),
    (BULK, Event.COMPLETED),
    (PLAIN, Event.COMPLETED),
    (DEFERRED, Event.APPENDED),
    (CONCATENATION, Event.VERIFIED),
    (PLAIN, Event.CREATED),
    (WHOLE, Event.CREATED),
    (CHUNKED, Event.COMPLETED),
    (EMPTY, Event.COMPLETED),
    (CONCATENATION, Event.DELETED),
)

# What is cut in its middle: where the bytes of a body with a wrong checksum may have come.
_UNSURE = replace(
    CHECKED, shortest=3000, sizes=(3000, 12_345, 40_000, 300_000), slow=1.0, cut=0.0, wrong=0.7
)
SLOW = (_UNSURE, replace(BULK, slow=1.0), _UNSURE, replace(DEFERRED, slow=1.0), _UNSURE, PLAIN)


@dataclass(frozen=True, slots=True)
class PowerCut:
    """``entries`` is what had been acknowledged when it began; ``image`` what is left."""

    number: int
    moment: str
    at: float  # time.monotonic()
    image: Path
    entries: list[Entry]


class Moments:
    """Picks the moments, and has ``cut`` called with a name for each."""

    def __init__(
        self,
        crowd: Crowd,
        kernel: Kernel,
        ledger: Ledger,
        cut: Callable[[str], None],
        *,
        seed: int,
    ) -> None:
        self._crowd = crowd
        self._kernel = kernel
        self._ledger = ledger
        self._cut = cut
        self._dice = Random(seed)
        self._scenes = itertools.cycle(SCENES)
        self._events = itertools.cycle(Event)
        self._slow = itertools.cycle(SLOW)
        self._kinds = itertools.cycle(
            [self._alone, self._at_random, self._alone, self._at_event, self._amid]
        )

    async def next(self) -> None:
        """Afterwards there has been one more cut."""
        await asyncio.sleep(self._dice.uniform(*SPELL))
        await next(self._kinds)()

    async def _at_random(self) -> None:
        self._cut("in a crowd, at random")

    async def _at_event(self) -> None:
        """As soon as any client of the crowd is told so."""
        event = next(self._events)
        await asyncio.sleep(self._dice.uniform(0, 0.2))
        with self._cutting_at(event, 1.0, "in a crowd") as done:
            for _ in range(round(PATIENCE / 0.01)):
                if done:
                    break
                await asyncio.sleep(0.01)

    async def _alone(self) -> None:
        kind, event = next(self._scenes)
        name = kind.name if isinstance(kind, Kind) else kind
        async with self._crowd.paused():
            with self._kernel.resting(), self._cutting_at(event, 0.6, f"{name}, alone") as done:
                for _ in range(SCENES_PLAYED):
                    if done:
                        break
                    await self._crowd.alone(kind, delete=event is Event.DELETED)

    async def _amid(self) -> None:
        """While the kernel is busy with one upload, and the server is as well."""
        kind = next(self._slow)
        async with self._crowd.paused():
            upload = asyncio.create_task(self._crowd.alone(kind, hasty=False))
            await asyncio.wait([upload], timeout=self._dice.uniform(*AMID))
            self._cut(f"{kind.name}, alone, amid")
            upload.cancel()
            await asyncio.wait([upload])

    @contextmanager
    def _cutting_at(self, event: Event, chance: float, who: str) -> Iterator[list[bool]]:
        """Cut at one of these events, each having this chance, and else at the end of the block.
        The list has an element then."""
        done: list[bool] = []

        def watch(_: Entry, told: Event) -> None:
            if told is event and not done and self._dice.random() < chance:
                done.append(True)
                self._cut(f"{who}, at {event.value}")

        self._ledger.watch = watch
        try:
            yield done
        finally:
            self._ledger.watch = None
        if not done:
            self._cut(f"{who}, at rest")
