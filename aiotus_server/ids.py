"""Ids of uploads, which nobody can guess."""

from __future__ import annotations

import os

_BYTES = 16
_AT_ONCE = 256

_fresh: list[str] = []
# Else a child process would make the same ones as its parent.
os.register_at_fork(after_in_child=_fresh.clear)


def random_id() -> str:
    """128 random bits, 32 characters. The kernel is asked for many at once, since each time the GIL
    is let go, and whoever gets it keeps it for a while."""
    try:
        return _fresh.pop()
    except IndexError:
        text = os.urandom(_BYTES * _AT_ONCE).hex()
        size = 2 * _BYTES
        _fresh.extend(text[start : start + size] for start in range(size, len(text), size))
        return text[:size]
