"""What runs have found, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter

    from .run import Findings

SHOWN = 10  # complaints


def add(to: Findings, found: Findings) -> None:
    """The counts; complaints stay with their run."""
    to.kills += found.kills
    to.uploads += found.uploads
    to.notes += found.notes
    to.tally.counts += found.tally.counts
    to.tally.statuses += found.tally.statuses
    to.complete += found.complete
    to.told_again += found.told_again
    to.looks += found.looks


def as_text(found: Findings) -> str:
    tally = found.tally
    load = (
        f"{tally.counts['sent']:,} bytes sent, {tally.counts['retries']} retries, "
        f"{tally.counts['refused checksums']} wrong checksums refused"
    )
    lines = [
        f"kills      {found.kills.total()}: {_counts({w.value: n for w, n in found.kills.items()})}",
        f"uploads    {found.complete} complete: {_counts(found.uploads)}",
        f"events     {found.told_again} told again",
        f"verify     {found.looks} times; notes: {_counts(found.notes)}",
        f"load       {load}; answers {_counts(tally.statuses)}",
    ]
    complaints = found.complaints[:SHOWN]
    if more := len(found.complaints) - len(complaints):
        complaints.append(f"… and {more} more")
    return "\n".join([*lines, *complaints])


def as_json(found: Findings) -> dict[str, Any]:
    return {
        "kills": {way.value: count for way, count in found.kills.items()},
        "uploads": dict(found.uploads),
        "complete": found.complete,
        "told_again": found.told_again,
        "looks": found.looks,
        "notes": dict(found.notes),
        "complaints": found.complaints,
        "load": found.tally.as_json(),
    }


def _counts(counts: Counter[Any] | dict[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "none"
