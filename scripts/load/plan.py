"""What a load consists of, and what chance decides in it."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .content import MASK, mix
from .http import Cut
from .sizes import Sizes, parse_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """``chunk`` is in bytes, None for everything in one PATCH; rates and shares are
    probabilities; ``longest_pause`` between two attempts is in seconds. ``atomic`` when a body with
    a checksum must count whole or not at all: the protocol leaves open what a broken one does."""

    url: str
    uploads: int = 10
    sizes: Sizes = field(default_factory=lambda: parse_sizes("10MiB"))
    chunk: int | None = None
    concurrency: int = 4
    with_upload: bool = False
    defer_length: bool = False
    kill_rate: float = 0.0
    cuts: tuple[Cut, ...] = tuple(Cut)
    checksum: str | None = None
    trailer: bool = False
    atomic: bool = False
    wrong_checksums: float = 0.0
    parallel: int = 1
    rate: int | None = None
    retries: int = 10
    longest_pause: float = 2.0
    seed: int = 1
    timeout: float = 30.0
    metadata: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    verify_tls: bool = True
    chunked: bool = False
    verify: bool = True
    folder: Path | None = None
    delete: bool = False

    def length_of(self, index: int) -> int:
        """Of upload number ``index``."""
        quantile = (mix(self.seed * 7919 & MASK ^ mix(index)) + 0.5) / 2**64
        return self.sizes.of(min(max(quantile, 1e-12), 1 - 1e-12))

    @property
    def metadata_header(self) -> str:
        pairs = ((key, base64.b64encode(value.encode()).decode()) for key, value in self.metadata)
        return ",".join(f"{key} {value}".strip() for key, value in pairs)


@dataclass(frozen=True, slots=True)
class Fate:
    """What will become of one request with a body: cut after ``cut_at`` bytes, or sent with a
    checksum that is not that of its bytes, or neither."""

    cut: Cut | None = None
    cut_at: int = 0
    wrong: bool = False


class Dice:
    """Chance, the same for the same seed and upload."""

    def __init__(self, plan: Plan, index: int, part: int = 0) -> None:
        self._plan = plan
        self._random = random.Random(f"{plan.seed}:{index}:{part}")

    def fate_of(self, size: int) -> Fate:
        """Of a request with ``size`` bytes."""
        plan = self._plan
        if self._random.random() < plan.kill_rate:
            return Fate(self._random.choice(plan.cuts), self._random.randint(0, size))
        wrong = bool(plan.checksum and size) and self._random.random() < plan.wrong_checksums
        return Fate(wrong=wrong)

    def pause(self, attempt: int) -> float:
        """Seconds to wait before the attempt after ``attempt`` that came to nothing."""
        longest = self._plan.longest_pause
        return min(longest, 0.05 * 2.0 ** min(attempt, 20)) * self._random.uniform(0.5, 1.0)
