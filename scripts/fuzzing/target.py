"""An upload under attack, and what must hold of it all the time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .delivery import Way
from .honest import Honest, Wrong

if TYPE_CHECKING:
    import random

    from .attacks import Attack
    from .judging import Judgement

# Seconds in which what was sent by a client that is gone has been dealt with.
LATE = 1.5
# More than this is not sent to complete what an attack has given a large length.
MOST_MISSING = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that attack ``number`` (-1: a good client) had stored from ``start`` to ``stop`` out of
    ``sent``: exactly these if ``exact``, else some of them in their order, in one piece unless
    they came in ``chunks``."""

    number: int
    start: int
    stop: int
    sent: bytes
    exact: bool = False
    chunks: bool = False

    def check(self, stored: bytes) -> None:
        data = stored[self.start : self.stop]
        if self.exact:
            right = data == self.sent
        elif self.chunks:
            left = iter(self.sent)
            right = all(byte in left for byte in data)
        else:
            right = data in self.sent
        if not right:
            place = f"{self.start} to {self.stop}, seen behind attack {self.number},"
            raise Wrong(f"the bytes {place} are not from what was sent")


class Target:
    """``offset`` and ``length`` are what the server told last. Raises Wrong wherever it told
    something else than it should."""

    def __init__(self, honest: Honest, path: str, length: int | None) -> None:
        self.path = path
        self.offset = 0
        self.length = length
        self.gone = False
        # Sent, and not answered: until then some of it may be stored at any moment.
        self._late, self._late_until = b"", 0.0
        self._honest = honest
        self._stretches: list[Stretch] = []

    @property
    def complete(self) -> bool:
        return self.offset == self.length

    @property
    def settled(self) -> bool:
        """Whether nothing that was sent can still come."""
        return not self._late or asyncio.get_running_loop().time() > self._late_until

    async def catch_up(self) -> None:
        """Before the next attack: see what the last reset has left."""
        if self._late and self.settled:
            await self._look(-1, b"", chunks=True, refused=False)
            self._late = b""

    async def settle(self, number: int, attack: Attack, judgement: Judgement) -> None:
        """Behind an attack: find out what it has done."""
        reset = any(delivery.way is Way.RESET for delivery in attack.deliveries)
        # HEAD does not wait for a body under a checksum.
        unseen = not judgement.answered and b"checksum" in attack.sent.lower()
        if reset or unseen:
            self._late += attack.sent
            self._late_until = asyncio.get_running_loop().time() + LATE
        if reset:
            await asyncio.sleep(LATE / 10)
        chunks = not attack.single or b"chunked" in attack.sent.lower()
        await self._look(number, attack.sent, chunks=chunks, refused=judgement.refused)

    async def _look(self, number: int, sent: bytes, *, chunks: bool, refused: bool) -> None:
        state = await self._honest.state(self.path)
        if state is None:
            self.gone = True
            if b"DELETE" not in self._late + sent:
                raise Wrong(f"{self.path} is gone, and nothing asked for that")
            return
        before = self.offset, self.length
        if refused and not self._late and state != before:
            raise Wrong(f"a refused request changed {self.path} from {before} to {state}")
        offset, length = state
        if offset < self.offset:
            raise Wrong(f"the offset of {self.path} went back from {self.offset} to {offset}")
        if length != self.length and self.length is not None:
            raise Wrong(f"the length of {self.path} went from {self.length} to {length}")
        if offset > self.offset:
            source = self._late + sent
            chunks = chunks or bool(self._late)
            self._stretches.append(Stretch(number, self.offset, offset, source, chunks=chunks))
        self.offset, self.length = offset, length

    async def append(self, data: bytes) -> None:
        """What a good client sends in between."""
        await self._honest.append(self.path, self.offset, data)
        end = self.offset + len(data)
        self._stretches.append(Stretch(-1, self.offset, end, data, exact=True))
        self.offset = end

    async def complete_and_check(self, chance: random.Random) -> None:
        """Send what is missing, and compare all that is stored. If that is too much, nothing."""
        if not self.settled:
            await asyncio.sleep(2 * LATE)
        await self.catch_up()
        if self.gone:
            return
        if self.length is None:
            data = chance.randbytes(chance.randint(0, 100))
            length = self.offset + len(data)
            await self._honest.append(self.path, self.offset, data, length)
            self._stretches.append(Stretch(-1, self.offset, length, data, exact=True))
            self.offset = self.length = length
        missing = self.length - self.offset
        if missing > MOST_MISSING:
            return
        if missing:
            await self.append(chance.randbytes(missing))
        stored = await self._honest.bytes_of(self.path)
        if len(stored) != self.length:
            raise Wrong(f"{self.path} has {len(stored)} bytes instead of {self.length}")
        for stretch in self._stretches:
            stretch.check(stored)
