"""How long uploads are: one length for all, or a distribution.

A distribution turns a number between 0 and 1 into a length, so that the length of an upload
follows from the seed and the upload's number alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from aiotus_server.arguments import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = (
    "10MiB, uniform:1MiB-100MiB, lognormal:MEDIAN,SIGMA[,MAX] such as lognormal:5MiB,1.5, or "
    "zipf:MIN-MAX,EXPONENT such as zipf:1KiB-1GiB,1.1"
)
LARGEST = 1024**4  # bytes; the tail of a distribution is cut here unless it says where


@dataclass(frozen=True, slots=True)
class Sizes:
    """``of(u)`` is the length, in bytes, at the quantile ``u``, 0 < u < 1."""

    text: str
    of: Callable[[float], int]


def parse_sizes(text: str) -> Sizes:
    """Raises ValueError with a sentence."""
    kind, colon, rest = text.partition(":")
    if not colon:
        size = parse_size(text)
        return Sizes(text, lambda _: size)
    parse = {"uniform": _uniform, "lognormal": _lognormal, "zipf": _zipf}.get(kind)
    if parse is None:
        raise ValueError(f"{text!r} is not a size or a distribution: {FORMS}")
    return Sizes(text, parse(rest))


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    smallest, largest = parse_size(low), parse_size(high) if dash else -1
    if not smallest <= largest:
        raise ValueError(f"{text!r} is not a range of sizes such as 1MiB-100MiB")
    return smallest, largest


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 100:
        raise ValueError(f"{text!r} is not a number between 0 and 100")
    return number


def _uniform(text: str) -> Callable[[float], int]:
    low, high = _range(text)
    return lambda u: low + int(u * (high - low + 1))


def _lognormal(text: str) -> Callable[[float], int]:
    """Most files are small and few are very large: what uploads usually look like."""
    median, _, rest = text.partition(",")
    sigma, _, largest = rest.partition(",")
    middle, spread = parse_size(median), _number(sigma)
    most = parse_size(largest) if largest else LARGEST
    normal = NormalDist(0, spread)
    return lambda u: min(most, round(middle * math.exp(normal.inv_cdf(u))))


def _zipf(text: str) -> Callable[[float], int]:
    """The share of uploads longer than x falls as x to the power of -EXPONENT."""
    bounds, _, exponent = text.partition(",")
    low, high = _range(bounds)
    power = _number(exponent)
    low = max(low, 1)
    tail = (low / high) ** power
    return lambda u: min(high, int(low * (1 - u * (1 - tail)) ** (-1 / power)))
