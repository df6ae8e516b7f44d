"""The fuzz as a program."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiotus_server.arguments import converted
from scripts.load.main import INTERRUPTED, USAGE, WRONG, in_a_fast_loop
from scripts.load.options import Parser, add_flags, parse_count, parse_folder, parse_url
from scripts.soaking.findings import leaks, table
from scripts.soaking.process import Server, Trouble

from . import log
from .folder import Folder
from .fuzz import Fuzz
from .watch import VARIABLE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from scripts.soaking.process import Sample

# Silence that ends soon, and bodies that are pumped although they are small.
FLAGS = (
    *("--durability=none", "--read-timeout=2s", "--lock-timeout=2s", "--expires=1h"),
    *("--direct-from=16KiB", "--hooks=scripts.fuzzing.watch:hooks"),
)
# glibc: buffers of 64 KiB and more go back to the system at once, as asyncio's for each recv. Else
# they leave holes in the heap, and memory that nobody has looks like a leak.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# A sample is taken in a quiet moment behind each.
BATCHES = 10
LEAST = 1000  # requests of a batch, unless that leaves less than two
QUIET = 1.0  # seconds without a change
SETTLING = 15.0  # seconds in which the server may close what is left of the connections
SHOWN = 25  # findings


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="fuzz.py",
        usage="fuzz.py [OPTION ...] [-- FLAG_OF_THE_SERVER ...]",
        description="Start aiotus-server and send it requests that are bent, broken, cut, split "
        "and mixed up, and bytes that are none. The exit code is 1 for an answer of 500 or "
        "above, a connection or a lock that hangs, a byte, file or log line that must not be, 2 "
        "if the server did not start.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    count = converted(parse_count)
    add("--requests", type=count, default=10_000, metavar="N", help="default: 10000")
    add("--seed", type=int, metavar="N", help="default: a new one, which is printed")
    add("--first", type=int, default=0, metavar="N", help="number of the first; default: 0")
    add("--lanes", type=count, default=64, metavar="N", help="default: 64")
    add("--workers", type=count, metavar="N", help="processes of the server")
    add("--url", type=converted(parse_url), help="attack this server, which is not ours, instead")
    add(
        "--dir",
        type=converted(parse_folder),
        metavar="DIR",
        help="where it stores uploads; default: a new folder",
    )
    add("--json", type=Path, metavar="FILE", help="write the findings here too")
    add_flags(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    values = read(sys.argv[1:] if arguments is None else arguments)
    if values.seed is None:
        values.seed = random.randrange(10**6)
    print(f"seed: {values.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=values.dir) as name:
        return Program(values, Path(name).resolve()).run()


class Program:
    """One run in ``place``, a folder of its own."""

    def __init__(self, values: argparse.Namespace, place: Path) -> None:
        self._values = values
        self._samples: list[Sample] = []
        self._found: list[str] = []
        self._begun = time.monotonic()
        self._log = place / "log"
        self._folder: Folder | None = None
        self._server: Server | None = None
        if values.url is None:
            self._folder = Folder(place / "uploads")
            self._folder.lay()
            os.environ.update({**ALLOCATOR, VARIABLE: str(self._folder.root)})
            workers = [] if values.workers is None else [f"--workers={values.workers}"]
            flags = [*FLAGS, *workers, *values.flags]
            self._server = Server(self._folder.root, self._log, flags)
        self._fuzz = self._made(values.url if self._server is None else self._server.url)

    def _made(self, url: str) -> Fuzz:
        parts = urlsplit(url)
        return Fuzz(
            (parts.hostname or "", parts.port or 80),
            parts.path.rstrip("/"),
            seed=self._values.seed,
            lanes=self._values.lanes,
            folder=self._folder,
        )

    def run(self) -> int:
        trouble, code = "", 0
        try:
            in_a_fast_loop(self._run())
        except Trouble as error:
            trouble = str(error)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if trouble and not self._fuzz.ledger.kinds:
            print(f"fuzz.py: {trouble}", file=sys.stderr)
            return USAGE
        self._judge(trouble, interrupted=bool(code))
        self._report()
        return WRONG if self._found else code

    async def _run(self) -> None:
        if self._server is not None:
            await self._server.start()
        try:
            await self._fuzz.begin()
            await self._attack()
            await self._fuzz.end()
        finally:
            if self._server is not None:
                await self._server.end(signal.SIGTERM)

    async def _attack(self) -> None:
        first, end = self._values.first, self._values.first + self._values.requests
        batches = min(BATCHES, max(2, self._values.requests // LEAST))
        step = max(1, self._values.requests // batches)
        for begin in range(first, end, step):
            await self._fuzz.attack(range(begin, min(begin + step, end)))
            if self._server is not None:
                self._samples.append(await _quiet(self._server))
            if sys.stderr.isatty():
                print(f"\r{begin + step - first} of {end - first}", end="\r", file=sys.stderr)

    # Afterwards

    def _judge(self, trouble: str, *, interrupted: bool) -> None:
        self._found = [trouble] if trouble else []
        self._found += [str(finding) for finding in self._fuzz.ledger.findings]
        if self._log.exists():
            with self._log.open(errors="replace") as lines:
                complaints = log.complaints(lines)
            self._found += [f"{n} times in the log: {what}" for what, n in complaints.items()]
        if self._server is not None and not interrupted and not trouble:
            self._found += leaks(self._samples) if len(self._samples) > 1 else []

    def _report(self) -> None:
        ledger = self._fuzz.ledger
        seconds = time.monotonic() - self._begun
        print(f"attacks: {sum(ledger.kinds.values())} in {seconds:.0f} s, {_counted(ledger.kinds)}")
        print(f"answers: {sum(ledger.statuses.values())}, {_counted(ledger.statuses)}")
        print(f"good uploads meanwhile: {self._fuzz.good.counts['ok']}")
        if self._log.exists():
            with self._log.open(errors="replace") as lines:
                print(f"requests that aiohttp's parser refused: {log.refusals(lines)}")
        if self._samples:
            print("\n".join(["quiet moments", *table(self._samples)]))
        for found in self._found[:SHOWN]:
            print(found)
        print(f"found: {len(self._found) or 'nothing'} (seed {self._values.seed})")
        if self._values.json is not None:
            self._values.json.write_text(json.dumps(self._as_json(), indent=2) + "\n")

    def _as_json(self) -> dict[str, Any]:
        ledger = self._fuzz.ledger
        return {
            "seed": self._values.seed,
            "found": self._found,
            "attacks": dict(ledger.kinds),
            "answers": {str(status): count for status, count in sorted(ledger.statuses.items())},
        }


def _counted(counts: dict[Any, int]) -> str:
    return ", ".join(f"{name}: {counts[name]}" for name in sorted(counts))


async def _quiet(server: Server) -> Sample:
    """A sample when nothing is left to be closed, or when it takes too long."""
    deadline = time.monotonic() + SETTLING
    before, since = server.sample(), time.monotonic()
    while time.monotonic() < min(deadline, since + QUIET):
        await asyncio.sleep(0.1)
        sample = server.sample()
        if sample.descriptors < before.descriptors:
            before, since = sample, time.monotonic()
    return server.sample()
