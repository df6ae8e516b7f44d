"""The load test as a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING

from .options import read
from .progress import NoProgress, bar, shown
from .runner import Unusable, run
from .tally import Tally

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine, Sequence

    from .plan import Plan

WRONG, USAGE, INTERRUPTED = 1, 2, 130  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    plan, values = read(sys.argv[1:] if arguments is None else arguments)
    tally = Tally()
    code = 0
    try:
        made = None if values.no_progress or not sys.stderr.isatty() else bar()
        in_a_fast_loop(_shown(made, plan, tally))
    except (NoProgress, Unusable) as error:
        print(f"load_test.py: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    _report(tally, values)
    return WRONG if tally.failed else code


def in_a_fast_loop(work: Coroutine[None, None, None]) -> None:
    """Run it on uvloop where there is one."""
    factory = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as factory  # type: ignore[assignment]  # noqa: PLC0415
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


async def interruptible(work: Coroutine[None, None, None]) -> None:
    """SIGTERM cancels it, as Ctrl-C does. Raises CancelledError then."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await work


async def _shown(made: object, plan: Plan, tally: Tally) -> None:
    async with shown(made, plan, tally):
        await run(plan, tally)


def _report(tally: Tally, values: argparse.Namespace) -> None:
    print(tally.as_text())
    if values.json is not None:
        values.json.write_text(json.dumps(tally.as_json(), indent=2) + "\n")
