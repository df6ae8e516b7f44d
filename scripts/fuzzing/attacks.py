"""Attacks: what is sent to the server, and what must come of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .bytewise import Bytewise, garbage
from .delivery import Delivery, Way, split
from .exchanges import Exchanges
from .structure import Structure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .exchanges import Aim
    from .message import Message

# Seconds to wait for an answer that has to come unless the connection ends.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Attack:
    """``deliveries`` go out at the same time, on connections of their own.

    single: one request and nothing else, so a refusal speaks of all that was sent.
    certain: where the requests end is certain; then a body is never taken for a request.
    below: the path is below the prefix, so that every answer of ours has Tus-Resumable.
    probed: the last request is OPTIONS, which is answered if the connection goes on.
    headed: the first request is HEAD, to which no answer has a body.
    must: the status that has to come, unless the connection was cut by us.
    joined: what the final upload must hold, if it is created.
    """

    kind: str
    deliveries: tuple[Delivery, ...]
    single: bool = False
    certain: bool = False
    below: bool = False
    probed: bool = False
    headed: bool = False
    must: int | None = None
    joined: bytes | None = None

    @property
    def sent(self) -> bytes:
        return b"".join(delivery.sent for delivery in self.deliveries)


class Attacks:
    """Makes attack number ``number`` of the ``seed``; the same for the same ``aim``."""

    def __init__(self, seed: int, number: int, aim: Aim) -> None:
        self.chance = self.chance_of(seed, number)
        self._aim = aim
        self._exchanges = Exchanges(self.chance, aim, number)

    @staticmethod
    def chance_of(seed: int, number: int) -> random.Random:
        return random.Random(f"{seed}/{number}")

    def any(self) -> Attack:
        kinds: dict[Callable[[], Attack], int] = {
            self.bent: 42,
            self.mutated: 26,
            self.probed: 8,
            self.joined: 5,
            self.valid: 5,
            self.left_early: 5,
            self.rivals: 4,
            self.garbage: 4,
            self.silent: 1,
        }
        return self.chance.choices(list(kinds), list(kinds.values()))[0]()

    def bent(self) -> Attack:
        """A request with one, two or three things wrong."""
        message = self._exchanges.any()
        structure = Structure(self.chance, self._aim)
        for _ in range(self.chance.choice([1, 1, 1, 2, 2, 3])):
            structure.bend(message)
        certain = structure.framed and message.line is None
        return Attack(
            "bent",
            (self._delivery(message.encode()),),
            single=certain,
            certain=certain,
            below=self._is_below(message),
            headed=certain and message.method == b"HEAD",
        )

    def mutated(self) -> Attack:
        """The bytes of up to three exchanges, with some of them changed."""
        count = self.chance.choice([1, 1, 2, 3])
        exchanges = [self._exchanges.any().encode() for _ in range(count)]
        data = Bytewise(self.chance, self._exchanges.any().encode()).mutate(b"".join(exchanges))
        return Attack("mutated", (self._delivery(data, count),))

    def probed(self) -> Attack:
        """A request, good or bent, and a good one behind it."""
        message = self._exchanges.any()
        structure = Structure(self.chance, self._aim)
        if self.chance.random() < 0.7:
            structure.bend(message)
        certain = structure.framed and message.line is None
        data = message.encode() + self._exchanges.discover().encode()
        return Attack(
            "probed",
            (replace(self._delivery(data, 2), patience=PATIENCE),),
            certain=certain,
            probed=certain,
            below=self._is_below(message),
            headed=certain and message.method == b"HEAD",
        )

    def valid(self) -> Attack:
        """Nothing is wrong but the way in which it comes."""
        message = self._exchanges.append()
        whole = self._delivery(message.encode())
        must = None
        if whole.way is Way.WAIT and b"checksum" not in message.encode().lower():
            must = 204
        return Attack("valid", (whole,), single=True, certain=True, below=True, must=must)

    def joined(self) -> Attack:
        parts = self._exchanges.parts_to_join()
        message = self._exchanges.join(parts)
        return Attack(
            "joined",
            (self._delivery(message.encode()),),
            single=True,
            certain=True,
            below=True,
            joined=b"".join(part.data for part in parts) if parts else None,
        )

    def left_early(self) -> Attack:
        """A client that goes in the middle of its request."""
        data = self._some_append()
        data = data[: self.chance.randint(1, len(data))]
        way = self.chance.choice([Way.RESET, Way.HALF])
        return Attack("left early", (Delivery(split(self.chance, data), way),))

    def rivals(self) -> Attack:
        """Two clients on one upload at the same time."""
        data = self._some_append()
        half = len(data) // 2
        first = Delivery((data[:half], 0.05, data[half:]), Way.WAIT)
        other = self.chance.choice(
            [self._exchanges.append, self._exchanges.inspect, self._exchanges.terminate]
        )
        second = Delivery((self.chance.choice([0.0, 0.01, 0.03]), other().encode()), Way.WAIT)
        return Attack("rivals", (first, second), below=True)

    def garbage(self) -> Attack:
        return Attack("garbage", (self._delivery(garbage(self.chance)),))

    def silent(self) -> Attack:
        """A body that does not go on. The server has to end it."""
        message = self._exchanges.append()
        message.remove(b"Expect")
        data = message.encode()
        head = len(data) - len(message.body)
        if len(message.body) < 2:
            return Attack("silent", (Delivery((data,), Way.WAIT),))
        data = data[: self.chance.randint(head, len(data) - 1)]
        return Attack("silent", (Delivery((data,), Way.HANG),), below=True)

    # Helpers

    def _some_append(self) -> bytes:
        """With a body, if there is room for one."""
        messages: Sequence[Message] = [self._exchanges.append() for _ in range(3)]
        return max(messages, key=lambda message: len(message.body)).encode()

    def _delivery(self, data: bytes, answers: int = 1) -> Delivery:
        way = self.chance.choices([Way.WAIT, Way.HALF, Way.RESET], [90, 5, 5])[0]
        return Delivery(split(self.chance, data), way, answers)

    def _is_below(self, message: Message) -> bool:
        prefix = self._aim.prefix
        if message.line is not None or message.method == b"CONNECT":
            return False  # the target of CONNECT is no path
        return message.target == prefix or message.target.startswith(prefix + b"/")
