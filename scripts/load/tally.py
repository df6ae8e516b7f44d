"""What happened: counts, times and errors, in bounded memory however long it goes on."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

ERRORS_KEPT = 20
PRECISION = 100  # buckets of time per factor e: each is 1 % wide


class Times:
    """Durations in seconds; a percentile is exact to half a percent."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[math.floor(math.log(max(seconds, 1e-9)) * PRECISION)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, percent: float) -> float:
        """The time that ``percent`` of all are not above. Nothing measured: 0."""
        wanted, seen = self.count * percent / 100, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(math.exp((bucket + 0.5) / PRECISION), self.longest)
        return 0.0

    def as_json(self) -> dict[str, float]:
        percentiles = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        return {"count": self.count, **percentiles, "max": self.longest}


class Tally:
    """``counts`` by name, ``statuses`` of all answers, ``times`` by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.times = {name: Times() for name in ("upload", "create", "patch", "resume", "verify")}
        self.errors: list[str] = []
        self.seconds = 0.0  # of uploading, without verification

    def error(self, message: str) -> None:
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(message)

    @property
    def failed(self) -> bool:
        return bool(self.counts["failed"] or self.counts["wrong"])

    def as_json(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "uploads": {name: counts[name] for name in ("ok", "failed", "wrong", "unverified")},
            "bytes": counts["bytes"],
            "bytes_sent": counts["sent"],
            "seconds": self.seconds,
            "gb_per_second": counts["bytes"] / self.seconds / 1e9 if self.seconds else 0.0,
            "times": {name: times.as_json() for name, times in self.times.items()},
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "cuts": {kind: counts[f"cut {kind}"] for kind in ("rst", "fin", "silent")},
            "retries": counts["retries"],
            "locked": self.statuses[423],
            "server_errors": sum(n for status, n in self.statuses.items() if status >= 500),
            "wrong_checksums_refused": counts["refused checksums"],
            "connections_lost": counts["lost"],
            "timeouts": counts["timeouts"],
            "abandoned_creations": counts["abandoned"],
            "errors": self.errors,
        }

    def as_text(self) -> str:
        """The summary, for people."""
        return "\n".join([*self._lines(), "", *self._table(), *self._complaints()])

    def _lines(self) -> list[str]:
        counts, found = self.counts, self.as_json()
        rate = counts["ok"] / self.seconds if self.seconds else 0.0
        cuts = ", ".join(f"{n} {kind}" for kind, n in found["cuts"].items())
        statuses = ", ".join(f"{status}: {n}" for status, n in found["statuses"].items())
        retries = (
            f"{found['locked']} x 423, {found['server_errors']} x 5xx, "
            f"{counts['lost']} lost connections, {counts['timeouts']} timeouts"
        )
        outcomes = ", ".join(f"{n} {name}" for name, n in found["uploads"].items())
        speed = f"{found['gb_per_second']:.3f} GB/s, {rate:.1f} uploads/s"
        return [
            f"uploads    {outcomes}",
            f"bytes      {counts['bytes']:,} stored, {counts['sent']:,} sent",
            f"speed      {speed} in {self.seconds:.1f} s",
            f"cuts       {cuts}; {counts['refused checksums']} wrong checksums refused",
            f"retries    {counts['retries']}: {retries}",
            f"answers    {statuses}",
        ]

    def _table(self) -> list[str]:
        rows = [f"{'seconds':<10} {'count':>9} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}"]
        for name, times in self.times.items():
            if times.count:
                shown = [times.percentile(p) for p in (50, 90, 99)] + [times.longest]
                cells = " ".join(f"{seconds:>9.4f}" for seconds in shown)
                rows.append(f"{name:<10} {times.count:>9} {cells}")
        return rows

    def _complaints(self) -> list[str]:
        more = self.counts["failed"] + self.counts["wrong"] - len(self.errors)
        rest = [f"… and {more} more"] if more > 0 else []
        return ["", *self.errors, *rest] if self.errors else []
