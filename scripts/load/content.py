"""The bytes of uploads: any range at any time, without keeping or computing them.

Each stripe of an upload is a window into one block of random bytes, at a place that depends on
the seed, the upload and the stripe. So a byte that is wrong, missing, doubled, or another
upload's does not compare equal, and giving out a range costs no copy. No byte is zero: a hole in
a file reads as zeros.
"""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STRIPE = 1024 * 1024  # bytes
BLOCK = 4 * STRIPE
MASK = 2**64 - 1


def mix(number: int) -> int:
    """64 bits in which those of ``number`` are no longer to be seen (splitmix64)."""
    number = (number + 0x9E37_79B9_7F4A_7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D0_49BB_1331_11EB) & MASK
    return number ^ (number >> 31)


@cache
def _block() -> bytes:
    """One stripe longer than the places at which a window may begin."""
    block = random.Random(1080).randbytes(BLOCK).replace(b"\0", b"\1")
    return block + block[:STRIPE]


class Content:
    """What upload number ``index`` of the load with this ``seed`` holds, from its byte ``start``
    on; it has no end."""

    def __init__(self, seed: int, index: int, start: int = 0) -> None:
        self._start = start
        self._key = mix(mix(seed & MASK) ^ index)
        self._block = memoryview(_block())

    def pieces(self, begin: int, end: int, size: int = STRIPE) -> Iterator[memoryview]:
        """The bytes from ``begin`` up to ``end``, at most ``size`` at once."""
        begin, end = begin + self._start, end + self._start
        while begin < end:
            stripe, inside = divmod(begin, STRIPE)
            take = min(size, STRIPE - inside, end - begin)
            at = mix(self._key ^ stripe) % BLOCK + inside
            yield self._block[at : at + take]
            begin += take

    def difference(self, begin: int, data: bytes) -> int | None:
        """Where the first byte of ``data`` is that is not this content's from ``begin`` on."""
        at = 0
        for piece in self.pieces(begin, begin + len(data)):
            expected, found = bytes(piece), data[at : at + len(piece)]
            if expected != found:
                pairs = zip(expected, found, strict=True)
                return begin + at + next(n for n, (a, b) in enumerate(pairs) if a != b)
            at += len(piece)
        return None
