"""What a run has found, for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Findings, Violation

COLUMNS = ("checked", "there", "gone", "read", "resumed", "downloaded")
SHOWN = 3  # violations of each sort
FAULTS = {"cut rst": "resets", "cut fin": "hang-ups", "cut silent": "silences"}


def as_text(title: str, findings: Findings) -> str:
    lines = [title, *_load(findings), "", *_table(findings), "", *_violations(findings)]
    if findings.violations and findings.server_log.strip():
        lines += ["", "the last words of the server under load:"]
        lines += findings.server_log.splitlines()[-10:]
    return "\n".join(lines)


def as_json(findings: Findings) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {}
    for (kind, what), count in sorted(findings.counts.items()):
        kinds.setdefault(kind, {})[what] = count
    return {
        "cuts": findings.cuts,
        "moments": dict(findings.moments),
        "uploads": kinds,
        "violations": [dataclasses.asdict(violation) for violation in findings.violations],
        "load": findings.tally.as_json(),
    }


def _load(findings: Findings) -> list[str]:
    counts = findings.tally.counts
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(findings.tally.statuses.items()))
    faults = ", ".join(f"{counts[name]} {word}" for name, word in FAULTS.items())
    moments = [f"           {n} x {moment}" for moment, n in sorted(findings.moments.items())]
    return [
        f"cuts       {findings.cuts}",
        *moments,
        f"load       {counts['sent']:,} bytes sent; {faults}; answers {statuses or 'none'}",
    ]


def _table(findings: Findings) -> list[str]:
    """How often an upload of a kind was looked at after a cut, and what was found."""
    kinds = sorted({kind for kind, _ in findings.counts})
    rows = [f"{'uploads':<20}" + "".join(f"{column:>12}" for column in COLUMNS)]
    for kind in kinds:
        numbers = (findings.counts[kind, column] for column in COLUMNS)
        rows.append(f"{kind:<20}" + "".join(f"{number:>12,}" for number in numbers))
    return rows


def _violations(findings: Findings) -> list[str]:
    found = Counter((violation.what, violation.kind) for violation in findings.violations)
    lines = [f"violations {len(findings.violations)}"]
    for (what, kind), count in found.most_common():
        same = [v for v in findings.violations if (v.what, v.kind) == (what, kind)]
        uploads = len({violation.upload for violation in same})
        lines.append(f"  {count} x {what} ({kind}, {uploads} of them)")
        for violation in same[:SHOWN]:
            lines += _described(violation)
    return lines


def _described(violation: Violation) -> list[str]:
    lines = [f"      cut {violation.cut}, {violation.moment}: {violation.detail}"]
    return lines + [f"          {event}" for event in violation.history[-6:]]
