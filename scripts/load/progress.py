"""The progress bar."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .plan import Plan
    from .tally import Tally

INTERVAL = 0.2  # seconds between two looks at the tally
COUNTED = 100_000  # uploads; of more the sum of the lengths is not computed


class NoProgress(Exception):
    """rich is not installed."""


def bar() -> Any:
    """Raises NoProgress."""
    try:
        from rich import progress  # noqa: PLC0415  it may be missing
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        raise NoProgress(
            "the progress bar needs rich: pip install rich, or --no-progress"
        ) from None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@asynccontextmanager
async def shown(made: Any, plan: Plan, tally: Tally) -> AsyncIterator[None]:
    """While the block runs; ``made`` is what ``bar`` gave, or None."""
    if made is None:
        yield
        return
    total = sum(map(plan.length_of, range(plan.uploads))) if plan.uploads <= COUNTED else None
    task = made.add_task("", total=total)

    async def look() -> None:
        while True:
            counts = tally.counts
            done = counts["ok"] + counts["failed"] + counts["wrong"] + counts["unverified"]
            verifying = ", verifying" if done == plan.uploads and plan.verify else ""
            text = f"{done}/{plan.uploads} uploads{verifying}"
            made.update(task, completed=counts["bytes"], description=text)
            await asyncio.sleep(INTERVAL)

    with made:
        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
