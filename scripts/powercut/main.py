"""The power cuts as a program."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiotus_server import Durability
from aiotus_server.arguments import converted
from scripts.load.main import INTERRUPTED, USAGE, WRONG, in_a_fast_loop, interruptible
from scripts.load.options import Parser, add_flags, parse_count, parse_folder
from scripts.soaking.process import COMMAND, Trouble

from .disks import FILE_SYSTEMS, Disk, DiskTrouble, FileSystem, isolate
from .report import as_json, as_text
from .run import Findings, Run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

UNABLE = 3  # exit code: this machine has no such disks


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="power_cut.py",
        usage="power_cut.py [OPTION ...] [-- FLAG_OF_THE_SERVER ...]",
        description="Start aiotus-server on a disk of its own, load it, cut the power again and "
        "again, and check on each copy of the disk what the level of durability promises. The "
        "exit code is 1 if a promise was broken, 2 if the server did not start, 3 if this "
        "machine cannot do it. It needs root and loop devices.",
        allow_abbrev=False,
    )
    _add_options(parser)
    values = parser.parse_args(arguments)
    if values.server_command is not None and values.durability:
        parser.error("--durability is for aiotus-server: say what the other promises by --promise")
    return values


def _add_options(parser: argparse.ArgumentParser) -> None:
    levels = [level.value for level in Durability]
    add = parser.add_argument
    add(
        "--cuts",
        type=converted(parse_count),
        default=200,
        metavar="N",
        help="of each level on each file system; default: 200",
    )
    add(
        "--durability",
        choices=levels,
        action="append",
        help="only this level; repeatable; default: all",
    )
    add(
        "--file-system",
        choices=list(FILE_SYSTEMS),
        action="append",
        help="of the disk; repeatable; default: ext4",
    )
    add("--promise", choices=levels, help="what is checked; default: what the level promises")
    add(
        "--server-command",
        metavar="COMMAND",
        help="another server, with {port} and {dir} where it wants these; uploads are created at "
        "/files/",
    )
    add(
        "--dir",
        type=converted(parse_folder),
        metavar="DIR",
        help="where the disk's file is; default: a new folder",
    )
    add("--seed", type=int, default=1, metavar="N", help="default: 1")
    add("--json", type=Path, metavar="FILE", help="write the findings here too")
    add_flags(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    values = read(sys.argv[1:] if arguments is None else arguments)
    found: list[dict[str, Any]] = []
    code = 0
    try:
        isolate()
        for name in values.file_system or ["ext4"]:
            for level in _levels(values):
                code = max(code, _run(values, FILE_SYSTEMS[name], level, found))
    except DiskTrouble as error:
        print(f"power_cut.py: {error}", file=sys.stderr)
        return UNABLE
    except Trouble as error:
        print(f"power_cut.py: {error}", file=sys.stderr)
        return USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        code = code or INTERRUPTED
    if values.json is not None:
        values.json.write_text(json.dumps(found, indent=2) + "\n")
    return code


def _levels(values: argparse.Namespace) -> list[Durability | None]:
    """None for a server that has none."""
    if values.server_command is not None:
        return [None]
    return [Durability(name) for name in values.durability or [d.value for d in Durability]]


def _run(
    values: argparse.Namespace,
    system: FileSystem,
    level: Durability | None,
    found: list[dict[str, Any]],
) -> int:
    promise = Durability(values.promise) if values.promise else level or Durability.NONE
    title = f"{system.name}, {f'--durability {level.value}' if level else values.server_command}"
    title += f", checked for {promise.value}"
    with (
        tempfile.TemporaryDirectory(prefix="power-cut-", dir=values.dir) as folder,
        Disk(Path(folder), system) as disk,
    ):
        run = Run(disk, _command(values, level), promise, cuts=values.cuts, seed=values.seed)
        try:
            in_a_fast_loop(interruptible(run.run(_progress)))
        finally:
            print(as_text(title, run.findings), end="\n\n", flush=True)
            found.append({"run": title, **as_json(run.findings)})
    return WRONG if run.findings.violations else 0


def _progress(findings: Findings) -> None:
    if sys.stderr.isatty():
        print(f"{findings.cuts} cuts, {len(findings.violations)} violations", file=sys.stderr)


def _command(values: argparse.Namespace, level: Durability | None) -> list[str]:
    if level is None:
        return [*shlex.split(values.server_command), *values.flags]
    return [*COMMAND, "--durability", level.value, *values.flags]
