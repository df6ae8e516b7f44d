"""One attack after the other, each judged before the next."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .attacks import Attacks
from .delivery import deliver
from .exchanges import Aim, Part
from .honest import Wrong, path_of
from .judging import Judgement
from .target import Target

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Iterator

    from .answers import Answer
    from .attacks import Attack
    from .delivery import Delivery
    from .honest import Honest

KIB = 1024
# How many attacks one upload is for.
ENOUGH = 12
MOST_SHOWN = 1500  # bytes of an attack in a finding
_run = re.compile(rb"(.)\1{60,}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, the attack behind which it was seen, and those before it on the same upload."""

    number: int
    what: str
    attack: Attack | None = None
    before: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.attack is None:
            return f"attack {self.number}: {self.what}"
        sent = "; ".join(map(_told, self.attack.deliveries))
        before = f", behind {', '.join(map(str, self.before))}" if self.before else ""
        return f"attack {self.number} ({self.attack.kind}{before}): {self.what}\n    {sent}"


def _told(delivery: Delivery) -> str:
    """The bytes, with what is long and always the same cut short, and how they came."""
    steps = [step for step in delivery.steps if step != 0.0]
    pieces = ("in one piece" if len(steps) == 1 else f"in {len(steps)} steps") + ", then"
    sent = _run.sub(lambda run: b"<%d times %b>" % (len(run[0]), run[1]), delivery.sent)
    return f"{pieces} {delivery.way.value}: {sent[:MOST_SHOWN]!r}"


@dataclass
class Ledger:
    """What all lanes have seen. ``left`` are paths of uploads that are there or may be,
    ``refused`` the numbers of attacks that must have created nothing."""

    statuses: Counter[int]
    kinds: Counter[str]
    findings: list[Finding] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)


class Lane:
    """Has an upload to attack, some partials, and a bait, all of its own."""

    def __init__(self, honest: Honest, address: tuple[str, int], seed: int, ledger: Ledger) -> None:
        self._honest = honest
        self._address = address
        self._seed = seed
        self._ledger = ledger
        self._target: Target | None = None
        self._before: list[int] = []  # the attacks on this target
        self._parts: list[Part] = []
        self._bait = ""

    async def attack(self, number: int) -> None:
        """Number ``number``. What is wrong goes into the ledger."""
        attack: Attack | None = None
        try:
            aim = await self._aim(number)
            attacks = Attacks(self._seed, number, aim)
            attack = attacks.any()
            if self._target is not None and not self._target.settled:
                attack = replace(attack, must=None)
            await self._carry_out(number, attack)
            await self._go_on(attacks.chance)
        except Wrong as wrong:
            self._found(number, str(wrong), attack)
            self._target = None
        self._before.append(number)

    async def finish(self) -> None:
        """The last upload is completed and compared too."""
        try:
            await self._go_on(None)
        except Wrong as wrong:
            self._ledger.findings.append(Finding(-1, str(wrong)))

    # What is attacked

    async def _aim(self, number: int) -> Aim:
        chance = Attacks.chance_of(self._seed, -number - 1)
        if self._target is not None:
            await self._target.catch_up()
        if self._target is None or self._target.gone:
            self._target = await self._new_target(chance)
            self._before = []
        while len(self._parts) < 2:
            self._parts.append(await self._new_part(chance))
        if not self._bait:
            self._bait = await self._honest.create(10, b"bait")
        target = self._target
        return Aim(
            self._honest.prefix.encode(),
            "{}:{}".format(*self._address).encode(),
            target.path.encode(),
            target.offset,
            target.length,
            tuple(self._parts),
            self._bait.encode(),
        )

    async def _new_target(self, chance: random.Random) -> Target:
        most = chance.choice([0, 9, 300, 300, 70 * KIB, 70 * KIB, 2048 * KIB])
        length = None if chance.random() < 0.25 else chance.randint(0, most)
        path = await self._honest.create(length, partial=chance.random() < 0.2)
        target = Target(self._honest, path, length)
        if length and chance.random() < 0.7:
            await target.append(chance.randbytes(chance.randint(0, length)))
        return target

    async def _new_part(self, chance: random.Random) -> Part:
        data = chance.randbytes(chance.choice([0, 1, 500, 5000, 100_000]))
        path = await self._honest.create(len(data), data, partial=True)
        return Part(path.encode(), data)

    # An attack, and what it has done

    async def _carry_out(self, number: int, attack: Attack) -> None:
        outcomes = await asyncio.gather(*(deliver(*self._address, d) for d in attack.deliveries))
        judgement = Judgement(attack, outcomes)
        ledger = self._ledger
        ledger.kinds[attack.kind] += 1
        ledger.statuses.update(answer.status for answer in judgement.answers)
        for complaint in judgement.complaints:
            self._found(number, complaint, attack)
        if judgement.refused and not judgement.locations:
            ledger.refused.add(number)
        assert self._target is not None
        await self._target.settle(number, attack, judgement)
        await self._check_beside(attack)
        for answer in judgement.answers:
            await self._check_created(number, attack, answer)

    async def _check_beside(self, attack: Attack) -> None:
        """What was not attacked is as it was."""
        if self._bait.encode() in attack.sent:
            state = await self._honest.state(self._bait)
            if state != (4, 10):
                if attack.certain:
                    raise Wrong(f"a body was taken for a request: the bait is {state}")
                self._bait = ""
        if b"DELETE" in attack.sent:
            for part in list(self._parts):
                if await self._honest.state(part.path.decode()) is None:
                    self._parts.remove(part)

    async def _check_created(self, number: int, attack: Attack, answer: Answer) -> None:
        location = answer.get("location")
        if location is None:
            if answer.status == 201:
                raise Wrong("an upload was created without a Location")
            return
        path = path_of(location)
        state = await self._honest.state(path)
        if state is None:
            if b"DELETE" not in attack.sent:
                raise Wrong(f"{path} was created, and is not there")
            return
        if state[0] == state[1]:
            data = await self._honest.bytes_of(path)
            if attack.joined is not None and data != attack.joined:
                raise Wrong(f"the final {path} is not made of its parts")
        if number % 20:
            await self._honest.remove(path)
        else:
            self._ledger.left.add(path)

    # Afterwards

    async def _go_on(self, chance: random.Random | None) -> None:
        """Once the upload has been attacked enough, or at the end, compare all of its bytes."""
        target = self._target
        if target is None:
            return
        if target.gone:
            self._target = None
        elif chance is None or len(self._before) >= ENOUGH:
            self._target = None
            await target.complete_and_check(chance or Attacks.chance_of(self._seed, 0))
            if chance is not None and chance.random() < 0.9:
                await self._honest.remove(target.path)
            else:
                self._ledger.left.add(target.path)

    def _found(self, number: int, what: str, attack: Attack | None) -> None:
        finding = Finding(number, what, attack, tuple(self._before))
        self._ledger.findings.append(finding)

    @property
    def paths(self) -> Iterator[str]:
        """Of what it has made, and goes on to use."""
        if self._target is not None:
            yield self._target.path
        yield from (part.path.decode() for part in self._parts)
        if self._bait:
            yield self._bait
