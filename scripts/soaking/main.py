"""The soak as a program."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiotus_server.arguments import converted
from scripts.load.main import INTERRUPTED, USAGE, WRONG, in_a_fast_loop
from scripts.load.options import Parser, add_flags, parse_count, parse_folder, parse_seconds
from scripts.load.tally import Tally

from .findings import MIB, leaks, summary, table
from .process import Server, Trouble, damage_in
from .soak import Soak

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# What a soak needs to come across: silence that ends, and uploads that expire.
FLAGS = ("--durability=none", "--read-timeout=5s", "--expires=60s", "--expires-sliding")


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="soak.py",
        usage="soak.py [OPTION ...] [-- FLAG_OF_THE_SERVER ...]",
        description="Start aiotus-server, load it for some time with good and bad clients, and "
        "report what it does not give back. The exit code is 1 for a leak, a wrong byte, a "
        "failed upload or a 500, 2 if the server did not start.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--time", type=converted(parse_seconds), default=600.0, metavar="TIME", help="default: 10m")
    add(
        "--clients",
        type=converted(parse_count),
        default=8,
        metavar="N",
        help="good ones; half as many bad ones come with them; default: 8",
    )
    add("--workers", type=converted(parse_count), metavar="N", help="processes of the server")
    add(
        "--kills",
        type=converted(parse_count),
        default=0,
        metavar="N",
        help="in the first half, end the server so often, by SIGKILL and SIGTERM in turn",
    )
    add(
        "--dir",
        type=converted(parse_folder),
        metavar="DIR",
        help="where it stores uploads; default: a new folder",
    )
    add("--seed", type=int, default=1, metavar="N", help="default: 1")
    add("--json", type=Path, metavar="FILE", help="write the findings here too")
    add_flags(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    values = read(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=values.dir) as folder:
        return _soak(values, Path(folder))


def _soak(values: argparse.Namespace, folder: Path) -> int:
    workers = [] if values.workers is None else [f"--workers={values.workers}"]
    (folder / "uploads").mkdir()
    server = Server(folder / "uploads", folder / "log", [*FLAGS, *workers, *values.flags])
    tally, trouble, code = Tally(), "", 0
    soak = Soak(
        server,
        tally,
        seconds=values.time,
        workers=values.clients,
        kills=values.kills,
        seed=values.seed,
    )
    try:
        in_a_fast_loop(_run(server, soak))
    except Trouble as error:
        trouble = str(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if trouble and not tally.statuses:
        print(f"soak.py: {trouble}", file=sys.stderr)
        return USAGE
    found = _findings(soak, tally, trouble, interrupted=bool(code))
    _report(values, soak, tally, found, server)
    return WRONG if found else code


async def _run(server: Server, soak: Soak) -> None:
    try:
        await server.start()
        await soak.run()
    finally:
        await server.end(signal.SIGTERM)


def _findings(soak: Soak, tally: Tally, trouble: str, *, interrupted: bool) -> list[str]:
    found = [trouble] if trouble else []
    found += [
        f"{tally.counts[name]} {name} uploads" for name in ("failed", "wrong") if tally.counts[name]
    ]
    if tally.statuses[500]:
        found.append(f"{tally.statuses[500]} answers were 500")
    if soak.complaints:
        found.append(f"{len(soak.complaints)} uploads did not answer at the end")
    found += damage_in(soak.folder)
    return found if interrupted or trouble else [*found, *leaks(soak.samples)]


def _report(
    values: argparse.Namespace, soak: Soak, tally: Tally, found: list[str], server: Server
) -> None:
    print(tally.as_text())
    print("\nquiet moments")
    print("\n".join(table(soak.samples)))
    if soak.most is not None:
        most = soak.most
        print(
            f"most under load: {most.rss / MIB:.1f} MiB, {most.descriptors} descriptors, "
            f"{most.threads} threads, {most.locks} locks"
        )
    faults = {name: n for name, n in sorted(tally.counts.items()) if name.startswith("fault ")}
    print(", ".join(f"{name.removeprefix('fault ')}: {n}" for name, n in faults.items()))
    print(*soak.complaints[:20], sep="\n")
    if found:
        print("the last words of the server:")
        print("\n".join(server.log.read_text(errors="replace").splitlines()[-40:]))
    print(f"found: {'; '.join(found) or 'nothing'}")
    if values.json is not None:
        values.json.write_text(json.dumps(_as_json(soak, tally, found), indent=2) + "\n")


def _as_json(soak: Soak, tally: Tally, found: list[str]) -> dict[str, Any]:
    samples = [asdict(sample) for sample in soak.samples]
    return {
        "found": found,
        "samples": samples,
        "summary": summary(soak.samples),
        "most_under_load": asdict(soak.most) if soak.most else None,
        "load": tally.as_json(),
    }
