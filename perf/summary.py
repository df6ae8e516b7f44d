"""From what was measured in each round to medians and ratios.

A ratio is the median of the ratios of values from the same round, not the ratio of medians: what
disturbs a whole round disturbs both.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT = "limit"
NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
Results = dict[str, Any]  # see compare.run
Rounds = dict[int, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """A server in a table. None is what was not, or cannot be, measured."""

    server: str
    median: float | None = None
    best: float | None = None
    of_limit: float | None = None
    ratio: float | None = None  # to the reference
    cpu: float | None = None  # seconds per GiB, or microseconds per request
    rss: float | None = None  # MiB
    errors: float = 0
    why: str = ""  # nothing was measured
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """One scenario on one file system."""

    scenario: str
    about: dict[str, Any]
    file_system: str
    limit: float | None
    rows: list[Row]


def tables(results: Results) -> list[Table]:
    """In the order in which the scenarios were measured."""
    found: dict[tuple[str, str], dict[str, Rounds]] = defaultdict(lambda: defaultdict(dict))
    whys: dict[tuple[str, str, str], str] = {}
    for record in results["records"]:
        key = (record["scenario"], record["file_system"])
        if "values" in record:
            found[key][record["server"]][record["round"]] = record["values"]
        else:
            found[key][record["server"]].update({})
            whys[(*key, record["server"])] = record["why"]
    return [
        _table(results, scenario, file_system, found, whys)
        for scenario, file_system in sorted(found, key=lambda key: _order(results, *key))
    ]


def _order(results: Results, scenario: str, file_system: str) -> tuple[int, int]:
    return list(results["scenarios"]).index(scenario), results["file_systems"].index(file_system)


def _table(
    results: Results,
    scenario: str,
    file_system: str,
    found: dict[tuple[str, str], dict[str, Rounds]],
    whys: dict[tuple[str, str, str], str],
) -> Table:
    about = results["scenarios"][scenario]
    servers = found[scenario, file_system]
    beside = found.get((about["beside"], file_system), {})
    reference = servers.get(results["reference"], {})
    rows = []
    for server in results["servers"]:
        if server in servers:
            why = whys.get((scenario, file_system, server), "")
            limit = beside.get(server, {}) if about["beside"] else servers.get(LIMIT, {})
            rows.append(_row(server, servers[server], limit, reference, about, why))
    return Table(scenario, about, file_system, _median(servers.get(LIMIT, {}), "value"), rows)


def _row(
    server: str, rounds: Rounds, limit: Rounds, reference: Rounds, about: dict[str, Any], why: str
) -> Row:
    if not rounds:
        return Row(server, why=why)
    return Row(
        server,
        median=_median(rounds, "value"),
        best=max(
            (values["value"] for values in rounds.values() if "value" in values), default=None
        ),
        of_limit=paired(rounds, limit),
        ratio=paired(rounds, reference),
        cpu=_median_of(map(_cpu, rounds.values())),
        rss=max((v["rss_mib"] for v in rounds.values() if "rss_mib" in v), default=None),
        errors=sum(values.get("errors", 0) for values in rounds.values()),
        extra={
            key: median for key in about["extra"] if (median := _median(rounds, key)) is not None
        },
    )


def paired(these: Rounds, those: Rounds) -> float | None:
    """The median of the ratios of rounds that both have."""
    both = these.keys() & those.keys()
    return _median_of(
        these[number]["value"] / those[number]["value"]
        for number in both
        if these[number].get("value") and those[number].get("value")
    )


def _cpu(values: dict[str, float]) -> float | None:
    if "cpu" not in values:
        return None
    if values.get("gib"):
        return values["cpu"] / values["gib"]
    return values["cpu"] / values["requests"] * 1e6 if values.get("requests") else None


def _median(rounds: Rounds, key: str) -> float | None:
    return _median_of(values.get(key) for values in rounds.values())


def _median_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def cpu_unit(about: dict[str, Any]) -> str:
    return "s/GiB" if about["unit"] == "GB/s" else "µs each"
