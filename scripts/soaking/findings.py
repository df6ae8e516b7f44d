"""What was seen, judged: a table, a slope, and what counts as a leak.

A leak is what the server holds at the last quiet moment above what it held at the first one,
after it had warmed up, and above these allowances for each process:

* descriptors: 8. They are not pooled without a bound, so any growth beyond noise is one.
* threads: 8. Pools start their threads when they are first needed.
* locks: 2. A sweep that is just at work holds one.
* RSS: 24 MiB and a tenth. Allocators keep pages, and caches fill up; what grows without a bound
  gets over this in a run that is long enough, and its slope tells before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .process import Sample

MIB = 1024 * 1024
DESCRIPTORS, THREADS, LOCKS, RSS, RSS_SHARE = 8, 8, 2, 24 * MIB, 0.1
COLUMNS: dict[str, Callable[[Sample], float]] = {
    "processes": lambda sample: sample.processes,
    "RSS, MiB": lambda sample: sample.rss / MIB,
    "descriptors": lambda sample: sample.descriptors,
    "threads": lambda sample: sample.threads,
    "locks": lambda sample: sample.locks,
}
SUMMARY = {"first": ">13.1f", "last": ">13.1f", "most": ">13.1f", "a minute": ">+13.2f"}


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Per minute, by least squares. Of fewer than two samples: 0."""
    if len(samples) < 2:
        return 0.0
    minutes = [sample.at / 60 for sample in samples]
    values = [value(sample) for sample in samples]
    middle, mean = sum(minutes) / len(minutes), sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in minutes)
    pairs = zip(minutes, values, strict=True)
    return sum((x - middle) * (y - mean) for x, y in pairs) / spread if spread else 0.0


def leaks(samples: Sequence[Sample]) -> list[str]:
    """A sentence for each kind of thing that the server did not give back."""
    if len(samples) < 2:
        return ["the run was too short to tell of leaks"]
    first, last = samples[0], samples[-1]
    processes = max(first.processes, 1)
    found = []
    if last.processes != first.processes:
        found.append(f"processes: {first.processes} at first, {last.processes} at last")
    if last.descriptors > first.descriptors + DESCRIPTORS * processes:
        found.append(f"descriptors: {first.descriptors} at first, {last.descriptors} at last")
    if last.threads > first.threads + THREADS * processes:
        found.append(f"threads: {first.threads} at first, {last.threads} at last")
    if last.locks > first.locks + LOCKS * processes:
        found.append(f"locks: {first.locks} at first, {last.locks} at last")
    if last.rss > first.rss * (1 + RSS_SHARE) + RSS * processes:
        found.append(f"RSS: {first.rss / MIB:.0f} MiB at first, {last.rss / MIB:.0f} MiB at last")
    return found


def summary(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """For each column: the first value, the last one, the greatest, and the growth ``a minute``."""
    return {
        name: {
            "first": value(samples[0]),
            "last": value(samples[-1]),
            "most": max(map(value, samples)),
            "a minute": slope(samples, value),
        }
        for name, value in COLUMNS.items()
        if samples
    }


def table(samples: Sequence[Sample]) -> list[str]:
    """The quiet moments, and the growth from each minute to the next."""
    rows = [f"{'second':>8}" + "".join(f"{name:>13}" for name in COLUMNS)]
    for sample in samples:
        values = [f"{value(sample):>13.1f}".replace(".0", "  ") for value in COLUMNS.values()]
        rows.append(f"{sample.at:>8.1f}" + "".join(values))
    for what, form in SUMMARY.items():
        cells = (format(column[what], form) for column in summary(samples).values())
        rows.append(f"{what:>8}" + "".join(cells))
    return rows
