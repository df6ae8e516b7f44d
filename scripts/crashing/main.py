"""The crash test as a program."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aiotus_server import Durability
from aiotus_server.arguments import converted
from scripts.load.main import INTERRUPTED, USAGE, WRONG, in_a_fast_loop, interruptible
from scripts.load.options import Parser, add_flags, parse_count, parse_folder
from scripts.soaking.process import Trouble

from .report import add, as_json, as_text
from .run import Findings, Run, Setting, trouble_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

WORKERS = (1, 2)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="crash_test.py",
        usage="crash_test.py [OPTION ...] [-- FLAG_OF_THE_SERVER ...]",
        description="Start aiotus-server under load, kill it at random instants and start it "
        "again. Every upload must end whole and right, no offset that was acknowledged may be "
        "lost, the application must be told of every end, and a verification must find no "
        "damage. The exit code is 1 if it is not so, 2 if the server did not start. What runs "
        "leave that have found something is kept.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    count = converted(parse_count)
    levels = [level.value for level in Durability]
    add("--kills", type=count, default=1000, metavar="N", help="default: 1000")
    add("--batch", type=count, default=30, metavar="N", help="in each run; default: 30, or fewer")
    add("--clients", type=count, default=8, metavar="N", help="default: 8")
    add(
        "--workers",
        type=count,
        action="append",
        metavar="N",
        help="processes of the server; repeatable, run by run; default: 1 and 2",
    )
    add(
        "--durability",
        choices=levels,
        action="append",
        help="repeatable, run by run; default: all levels",
    )
    add("--seed", type=int, metavar="N", help="of the first run; default: a new one")
    add(
        "--dir",
        type=converted(parse_folder),
        metavar="DIR",
        help="where uploads are stored; default: a new folder",
    )
    add("--json", type=Path, metavar="FILE", help="write the findings here too")
    add_flags(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    values = read(sys.argv[1:] if arguments is None else arguments)
    if values.seed is None:
        values.seed = random.randrange(10**6)
    total, code = Findings(), 0
    try:
        for setting in settings(values):
            code = max(code, _run(values, setting, total))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        code = code or INTERRUPTED
    print(f"\nall runs\n{as_text(total)}")
    print(f"found: {f'{len(total.complaints)} complaints' if total.complaints else 'nothing'}")
    if values.json is not None:
        values.json.write_text(json.dumps(as_json(total), indent=2) + "\n")
    return code


def settings(values: argparse.Namespace) -> Iterator[Setting]:
    """One for each run. All workers meet all levels."""
    workers = values.workers or WORKERS
    levels = [Durability(name) for name in values.durability or [d.value for d in Durability]]
    turns = list(itertools.product(levels, workers))
    batch = min(values.batch, math.ceil(values.kills / len(turns)))  # so that all have a turn
    for number, begin in enumerate(range(0, values.kills, batch)):
        level, count = turns[number % len(turns)]
        kills = min(batch, values.kills - begin)
        yield Setting(
            values.seed + number, kills, count, level, values.clients, tuple(values.flags)
        )


def _run(values: argparse.Namespace, setting: Setting, total: Findings) -> int:
    print(f"{setting}:", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=values.dir))
    run = Run(folder, setting)
    found, trouble = run.findings, None
    try:
        in_a_fast_loop(interruptible(run.run()))
    except (Trouble, BaseExceptionGroup) as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        found.complaints.append(str(trouble))
    finally:
        print(as_text(found), flush=True)
        add(total, found)
        total.complaints += [f"{setting}: {text}" for text in found.complaints]
        if found.complaints:
            print(f"what is left is in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    if trouble is not None and not found.tally.statuses:
        return USAGE
    return WRONG if found.complaints else 0
