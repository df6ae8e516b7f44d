"""One upload after another by one client, from creation to end, as chance wants it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .kinds import FINAL, PARTIAL, WAITING, Kind, Step
from .sender import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .ledger import Entry
    from .sender import Sender, Setting

PAUSES = (0.0, 0.0, 0.0, 0.02, 0.1, 0.3)  # seconds between two requests of an upload
JOINING = 100  # times that an unfinished final is asked for before it must be whole
NO_HEADERS: Mapping[str, str] = {}


class Uploader:
    """It uses the extensions that are offered. A ``hasty`` one makes no pauses and
    breaks nothing off. All methods raise Refused; of the uploads in hand nothing is expected any
    more then."""

    def __init__(self, setting: Setting, sender: Sender, *, hasty: bool) -> None:
        self._sender = sender
        self._ledger = setting.ledger
        self._dice = setting.dice
        self._offer = setting.offer
        self._hasty = hasty

    async def upload(self, kind: Kind) -> Entry:
        """All of a new one."""
        kind = kind.within(self._offer)
        entry = self._ledger.begin(kind.name, kind.length(self._dice))
        entry.declared = self._dice.random() >= kind.deferred
        with self._in_hand([entry]):
            await self._create(entry, kind)
            await self._finish(entry, kind)
        return entry

    async def concatenate(self) -> Entry:
        """Partial uploads, then the final; or the other way round."""
        kind = PARTIAL.within(self._offer)
        unfinished = "concatenation-unfinished" in self._offer and self._dice.random() < 0.5
        lengths = [kind.length(self._dice) for _ in range(self._dice.randint(2, 4))]
        final = self._ledger.begin(WAITING if unfinished else FINAL, sum(lengths))
        starts = [sum(lengths[:number]) for number in range(len(lengths))]
        parts = [
            self._ledger.begin(kind.name, length, like=final, start=start)
            for length, start in zip(lengths, starts, strict=True)
        ]
        with self._in_hand([final, *parts]):
            for part in parts:
                await self._create(part, kind, {"Upload-Concat": "partial"})
            if unfinished:
                whole = all(part.complete for part in parts)
                await self._sender.join(final, parts, now=whole)
            for part in parts:
                await self._finish(part, kind)
            await self._join(final, parts)
        return final

    async def delete(self, entry: Entry) -> None:
        with self._in_hand([entry]):
            await self._sender.delete(entry)

    async def _join(self, final: Entry, parts: Sequence[Entry]) -> None:
        """Until it is whole. Its parts may then go, and it must not matter."""
        if not final.path:
            await self._sender.join(final, parts, now=True)
        for _ in range(JOINING):
            if final.complete:
                break
            await self._sender.ask(final)
            await asyncio.sleep(0 if final.complete else 0.02)
        else:
            raise Refused(f"upload {final.number} ({final.kind}) does not become whole")
        if self._dice.random() < 0.4:
            for part in parts:
                await self._sender.delete(part)

    async def _create(
        self, entry: Entry, kind: Kind, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        first = None
        if entry.length and self._dice.random() < kind.with_upload:
            first = kind.step(self._dice, entry.length, hasty=True)
        await self._sender.create(entry, first, headers)

    async def _finish(self, entry: Entry, kind: Kind) -> None:
        while not entry.complete:
            await self._pause()
            room = entry.length - entry.offset
            step = kind.step(self._dice, room, hasty=self._hasty) if room else Step(0)
            await self._sender.append(entry, step, declare=self._declares(entry, step))

    def _declares(self, entry: Entry, step: Step) -> bool:
        """A deferred length: early, with the last byte, or after it and alone."""
        if entry.declared:
            return False
        last = entry.offset + step.size == entry.length
        return not step.size or self._dice.random() < (0.5 if last else 0.1)

    async def _pause(self) -> None:
        if not self._hasty:
            await asyncio.sleep(self._dice.choice(PAUSES))

    @contextmanager
    def _in_hand(self, entries: Sequence[Entry]) -> Iterator[None]:
        for entry in entries:
            entry.busy = True
        try:
            yield
        except BaseException:
            for entry in entries:
                entry.deleting = True
            raise
        finally:
            for entry in entries:
                entry.busy = False
