"""Hooks that break the server which loads them, for the crash test to find.

The name of the object says what it is that the server does wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiotus_server import Hooks, web
from aiotus_server.stores import marks
from scripts.crashing import witness

if TYPE_CHECKING:
    from aiotus_server import HookEvent


def __getattr__(name: str) -> Hooks:
    if name not in _SABOTAGES:
        raise AttributeError(name)
    broken = Hooks()
    broken.post_finish(witness.tell)
    _SABOTAGES[name](broken)
    return broken


def _forget_events(hooks: Hooks) -> None:
    """What was about to be told in a kill is not told in the next start."""

    async def nothing(*arguments: object) -> None:
        return None

    async def slowly(event: HookEvent) -> None:
        await asyncio.sleep(0.2)
        await witness.tell(event)

    web.recover = nothing  # type: ignore[attr-defined, assignment]
    hooks.post_finish[:] = [slowly]


def _keep_unverified_bytes(hooks: Hooks) -> None:
    """Nothing notes where a body with a checksum begins."""
    marks.put = lambda *arguments: None


def _lose_bytes(hooks: Hooks) -> None:
    """Each start finds the files a byte shorter, as if the last one had not been written."""
    root = Path(sys.argv[sys.argv.index("--dir") + 1])
    for path in root.glob("??/*[!o]"):
        if size := path.stat().st_size:
            os.truncate(path, size - 1)


_SABOTAGES = {
    "forgets_events": _forget_events,
    "keeps_unverified_bytes": _keep_unverified_bytes,
    "loses_bytes": _lose_bytes,
}
