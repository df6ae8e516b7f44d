"""``python -m perf compare``: this server beside others, under the same load.

In each round every server has its turn, in another order each time, freshly started on a fresh
folder. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import certificate, machine, peers, report
from .client import Endpoint
from .running import Missing, Server
from .scenarios import SCENARIOS, Bench, Scenario, Subject, Values
from .scenarios.base import settle
from .source import Source
from .summary import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUICK = {"rounds": 2, "scale": 0.25, "seconds": 2.0, "uploads": 50_000}
THOROUGH = {"rounds": 5, "scale": 1.0, "seconds": 4.0, "uploads": 1_000_000}


def main() -> int:
    """The exit code: 1 if there is a server of which nothing could be measured."""
    options = _parse()
    if options.list:
        _say_what_there_is()
        return 0
    if options.redraw:
        results = json.loads((options.output / "results.json").read_text())
    else:
        results = run(options)
    for path in report.write(results, options.output):
        say(str(path))
    measured = {record["server"] for record in results["records"] if "values" in record}
    silent = {record["server"] for record in results["records"]} - measured
    for server in sorted(silent):
        say(f"nothing could be measured of {server}")
    return 1 if silent else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m perf compare", description=__doc__)
    add = parser.add_argument
    usual = [name for name, peer in peers.PEERS.items() if not peer.asked_for]
    add("--servers", type=_words, default=usual, help="names, or name=URL; commas")
    add("--scenarios", type=_words, default=list(SCENARIOS), help="names, with commas")
    add("--rounds", type=int, help="how often each is measured (5)")
    add(
        "--folder",
        type=Path,
        action="append",
        help="where data is stored: the file system under test (.); again: small uploads there too",
    )
    add("--reference", default="tusd", help="the server that others are compared with")
    add("--quick", action="store_true", help="2 rounds, a quarter of the bytes, 50,000 uploads")
    add("--scale", type=float, help="part of the bytes and numbers (1)")
    add("--seconds", type=float, help="how long requests are counted (4)")
    add("--uploads", type=int, help="how many make a full store (1,000,000)")
    add("--output", type=Path, default=Path("perf-results"), help="where results go (perf-results)")
    add("--cache", type=Path, default=Path.home() / ".cache" / "aiotus-perf", help="for peers")
    add("--redraw", action="store_true", help="tables and chart again, from results.json")
    add("--list", action="store_true", help="say what there is, and measure nothing")
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else THOROUGH).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        peers.names(options.servers)
    except ValueError as error:
        parser.error(str(error))
    if unknown := set(options.scenarios) - SCENARIOS.keys():
        parser.error(
            f"no scenario is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}"
        )
    for name in QUICK:
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be more than 0")
    for folder in options.folder or ():
        if not folder.is_dir():
            parser.error(f"--folder: {folder} is not a folder")
    options.folder = [folder.absolute() for folder in options.folder or [Path()]]
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _say_what_there_is() -> None:
    for peer in peers.PEERS.values():
        say(f"{peer.name:14} {peer.title}: {peer.note}")
    for scenario in SCENARIOS.values():
        say(f"{scenario.name:14} {scenario.title}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and give what ``report.write`` takes. The data is removed at the very end: ext4
    does not use an inode again for minutes after its file went, and creation would suffer."""
    # For servers with a thousand connections, which inherit it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = _outset(options)
    subjects = _prepare(options, results)
    with ExitStack() as stack:
        works = []
        for folder in options.folder:
            work = Path(tempfile.mkdtemp(prefix="perf-", dir=folder))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            works.append(work)
        bench = Bench(
            source=Source(),
            scale=options.scale,
            seconds=options.seconds,
            uploads=options.uploads,
            tls=certificate.make(works[0]) if "tls" in options.scenarios else None,
        )
        for number, work in enumerate(works):
            records = _measure_all(options, subjects, bench, work, first=number == 0)
            results["records"].extend(records)
    return results


def _outset(options: argparse.Namespace) -> dict[str, Any]:
    chosen = [SCENARIOS[name] for name in SCENARIOS if name in options.scenarios]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine.describe(options.folder),
        "file_systems": [machine.file_system(folder) for folder in options.folder],
        "rounds": options.rounds,
        "scale": options.scale,
        "seconds": options.seconds,
        "uploads": options.uploads,
        "reference": options.reference,
        "servers": {LIMIT: {"title": "limit", "version": "", "note": "", "ours": False}},
        "missing": {},
        "scenarios": {scenario.name: _about(scenario) for scenario in chosen},
        "records": [],
    }


def _about(scenario: Scenario) -> dict[str, Any]:
    return {
        "title": scenario.title,
        "unit": scenario.unit,
        "limit_title": scenario.limit_title,
        "beside": scenario.beside,
        "charted": scenario.charted,
        "extra": dict(scenario.extra),
    }


def _prepare(options: argparse.Namespace, results: dict[str, Any]) -> dict[str, Subject]:
    """Installs what is not there yet; says what cannot be had."""
    subjects = {}
    for name in options.servers:
        try:
            subjects[name], results["servers"][name.partition("=")[0]] = _subject(name, options)
        except Missing as missing:
            say(f"{name} is left out: {missing}")
            results["missing"][name] = str(missing)
    return {name.partition("=")[0]: subject for name, subject in subjects.items()}


def _subject(name: str, options: argparse.Namespace) -> tuple[Subject, dict[str, Any]]:
    if "=" in name:
        title, _, url = name.partition("=")
        return Subject(None, Server(endpoint_of(url))), _server(title, "", "by its URL")
    peer = peers.PEERS[name]
    launch = peer.prepare(options.cache)
    say(f"{name}: {launch.version}")
    about = _server(peer.title, launch.version, peer.note, ours=peer.ours)
    return Subject(launch, ours=peer.ours), about


def _server(title: str, version: str, note: str, *, ours: bool = False) -> dict[str, Any]:
    return {"title": title, "version": version, "note": note, "ours": ours}


def endpoint_of(url: str) -> Endpoint:
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    return Endpoint(name, int(port or 80), f"/{path}")


def _measure_all(
    options: argparse.Namespace,
    subjects: dict[str, Subject],
    bench: Bench,
    work: Path,
    *,
    first: bool,
) -> Iterator[dict[str, Any]]:
    """A record for each measurement in one file system; all scenarios in the first only."""
    kind = machine.file_system(work)
    for scenario, number, server in _turns(options, list(subjects)):
        if not (first or scenario.everywhere) or not _applies(scenario, subjects.get(server)):
            continue
        folder = work / f"{scenario.name}-{number}-{server}"
        record = {
            "scenario": scenario.name,
            "file_system": kind,
            "round": number,
            "server": server,
            **_measure(scenario, subjects.get(server), folder, bench),
        }
        if not scenario.kept or kind == "tmpfs":
            shutil.rmtree(folder, ignore_errors=True)
        settle()
        say(_line(record, scenario))
        yield record


def _applies(scenario: Scenario, subject: Subject | None) -> bool:
    """``subject`` is None for the limit."""
    if subject is None:
        return scenario.limit is not None
    return subject.ours or not scenario.ours_only


def _turns(
    options: argparse.Namespace, servers: Sequence[str]
) -> Iterator[tuple[Scenario, int, str]]:
    """Scenarios of a group in the same rounds; each round begins with another server."""
    chosen = [scenario for scenario in SCENARIOS.values() if scenario.name in options.scenarios]
    for group in dict.fromkeys(scenario.group for scenario in chosen):
        for number in range(options.rounds):
            for scenario in chosen:
                if scenario.group == group:
                    turns = [LIMIT, *servers]
                    shift = number % len(turns)
                    for server in turns[shift:] + turns[:shift]:
                        yield scenario, number, server


def _measure(
    scenario: Scenario, subject: Subject | None, folder: Path, bench: Bench
) -> dict[str, Values | str]:
    """``values``, or ``why`` there are none."""
    try:
        if subject is None:
            assert scenario.limit is not None
            return {"values": scenario.limit(folder, bench)}
        return {"values": scenario.measure(subject, folder, bench)}
    except Exception as error:  # whatever a server does must not end the run
        return {"why": str(error) or type(error).__name__}


def _line(record: dict[str, Any], scenario: Scenario) -> str:
    values = record.get("values")
    if values is None:
        what = record["why"]
    else:
        shown = {key: report.number(value) for key, value in values.items()}
        value = shown.pop("value", "")
        what = f"{value} {scenario.unit}; {' '.join(f'{k}={v}' for k, v in shown.items())}"
    return (
        f"{record['scenario']} {record['file_system']} round {record['round'] + 1}"
        f" {record['server']}: {what}"
    )


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
