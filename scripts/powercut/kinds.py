"""What kinds of uploads there are, and in what steps chance sends one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scripts.load.http import Cut

if TYPE_CHECKING:
    from random import Random

KIB, MIB = 1024, 1024 * 1024

# Of one PATCH. Most begin and end within a block of the disk; from 1 MiB on the server takes a
# body from the socket in threads.
SMALL = (1, 1, 7, 100, 100, 511, 3000, 3072, 4096, 5001, 8192, 12_345)
LARGE = (MIB + 1, 3 * MIB + 100, 7_654_321, 16 * MIB, 24 * MIB)
MIXED = (*SMALL, 40_000, 65_537, 300_000, MIB, 2 * MIB + 77)
SLOW_FROM = 1000  # bytes; shorter bodies are never slow
SLOW = (0.2, 0.8)  # seconds that a slow body takes


@dataclass(frozen=True, slots=True)
class Step:
    """One body of ``size`` bytes, on purpose with other bytes than its checksum is of if
    ``wrong``, taking ``seconds``, broken off after ``cut_at`` bytes if ``cut`` says how."""

    size: int
    checksum: bool = False
    wrong: bool = False
    chunked: bool = False
    seconds: float = 0.0
    cut: Cut | None = None
    cut_at: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """Lengths from ``shortest`` to ``longest``; all that follows ``sizes`` are probabilities."""

    name: str
    shortest: int
    longest: int
    sizes: tuple[int, ...] = MIXED
    checksum: float = 0.0
    wrong: float = 0.0  # of those with a checksum
    chunked: float = 0.0
    slow: float = 0.0
    cut: float = 0.15
    with_upload: float = 0.0
    deferred: float = 0.0

    def within(self, offer: frozenset[str]) -> Kind:
        """As much of it as a server with these extensions can do."""
        return replace(
            self,
            checksum=self.checksum if "checksum" in offer else 0.0,
            with_upload=self.with_upload if "creation-with-upload" in offer else 0.0,
            deferred=self.deferred if "creation-defer-length" in offer else 0.0,
        )

    def length(self, dice: Random) -> int:
        """Short ones are as frequent as long ones of ten times the size."""
        if not self.longest:
            return 0
        factor: float = (self.longest / self.shortest) ** dice.random()
        return round(self.shortest * factor)

    def step(self, dice: Random, room: int, *, hasty: bool = False) -> Step:
        """The next body of an upload that still lacks ``room`` bytes. A ``hasty`` one is neither
        slow nor broken off."""
        size = min(room, dice.choice(self.sizes))
        checksum = dice.random() < self.checksum
        cut = None if hasty or dice.random() >= self.cut else dice.choice(tuple(Cut))
        slow = not hasty and size >= SLOW_FROM and dice.random() < self.slow
        return Step(
            size,
            checksum,
            checksum and size > 0 and dice.random() < self.wrong,
            dice.random() < self.chunked,
            dice.uniform(*SLOW) if slow else 0.0,
            cut,
            dice.randint(0, size),
        )


PLAIN = Kind("small appends", 1, 40_000, SMALL, slow=0.1)
BULK = Kind("large", 2 * MIB, 30 * MIB, LARGE, slow=0.3)
CHUNKED = Kind("chunked", 1, 3 * MIB, chunked=1, slow=0.2)
CHECKED = Kind("checksum", 10, 5 * MIB, checksum=0.9, wrong=0.3, chunked=0.3, slow=0.4)
WHOLE = Kind("with upload", 1, MIB, with_upload=1, checksum=0.3, wrong=0.1)
DEFERRED = Kind("deferred length", 1, 2 * MIB, deferred=1, chunked=0.3, checksum=0.2)
EMPTY = Kind("empty", 0, 0)
PARTIAL = Kind("partial", 1, 400_000, checksum=0.4, wrong=0.1, with_upload=0.3, slow=0.1)
FINAL, WAITING = "final", "unfinished final"  # kinds of entries that are not sent
