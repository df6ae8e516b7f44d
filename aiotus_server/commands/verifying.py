"""``verify``: whether the directory of a server is sound; ``--repair`` mends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..arguments import Parser
from ..flags import VERIFY_GROUPS
from ..listening import Failure, reason_of
from ..protocol.errors import TusError
from ..starting import start_logging
from ..stores.verify import Mended, Repair, Severity, Verification, repair
from .describing import printable, say, say_json
from .directory import become_owner, locker_of, store_of, view_of, why_not

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..stores.verify import Finding

_ABOUT = """\
Checks all uploads in the directory of a server, which may be running, and all that is kept beside
them. It changes nothing. Every finding has a code; errors are not as they should be, notes are what
a crash or the application leaves. --repair mends what is safe to mend: what is damaged is moved to
quarantine/ in the directory, and no byte that counts is removed."""

_CODES = """\
The exit code is 0 if there is no error, or none is left after --repair; 1 if there is one; 2 if the
directory cannot be checked."""


class CannotCheck(Failure):
    code = 2


def verify(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print the findings, and how much there is of what."""
    parser = Parser(VERIFY_GROUPS, prog="aiotus-server verify", description=_ABOUT, epilog=_CODES)
    values = parser.read(arguments, environment)
    start_logging(values.log_level)
    try:
        directory = store_of(values)
        report = _repaired(directory, values) if values.repair else _checked(directory, values)
    except Failure as failure:
        raise CannotCheck(str(failure)) from failure
    return report.end()


class _Report:
    """Findings as they come, or with ``json`` all at the end."""

    def __init__(self, directory: Path, *, json: bool) -> None:
        self.counts: dict[str, int] = {}
        self._directory = directory
        self._findings: list[dict[str, Any]] | None = [] if json else None
        self._left: Counter[Severity] = Counter()
        self._mended = 0

    def add(self, finding: Finding, outcome: Mended | None = None) -> None:
        if outcome is not None and outcome.done:
            self._mended += 1
        else:
            self._left[finding.kind.severity] += 1
        if self._findings is not None:
            self._findings.append(_as_json(finding, outcome))
        else:
            say(_line(finding, outcome))

    def end(self) -> int:
        """Print what is left to say: the exit code."""
        errors, notes = self._left[Severity.ERROR], self._left[Severity.NOTE]
        if self._findings is not None:
            summary = {"directory": str(self._directory), "sound": not errors, **self.counts}
            summary |= {"errors": errors, "notes": notes, "mended": self._mended}
            say_json(summary | {"findings": self._findings}, indent=2)
        else:
            say(self._summary(errors, notes))
        return 1 if errors else 0

    def _summary(self, errors: int, notes: int) -> str:
        counts = self.counts
        return (
            f"{self._directory}: {counts['uploads']} uploads ({counts['complete']} complete), "
            f"{counts['bytes']} bytes, {counts['quarantined']} in quarantine; "
            f"{errors} errors, {notes} notes, {self._mended} mended"
        )


def _checked(directory: Path, values: argparse.Namespace) -> _Report:
    view = view_of(directory)
    report = _Report(directory, json=values.json)
    verification = Verification(view)
    try:
        for finding in verification.findings():
            report.add(finding)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{directory} cannot be read: {reason_of(error)}") from error
    report.counts = asdict(verification.counts)
    return report


def _repaired(directory: Path, values: argparse.Namespace) -> _Report:
    locker = locker_of(directory, shared=values.shared)
    report = _Report(directory, json=values.json)
    try:
        owner = become_owner(directory)
        counts, outcomes = asyncio.run(repair(directory, locker, owner))
    except TusError as error:
        raise Failure(why_not(error, directory, shared=values.shared)) from error
    except OSError as error:
        raise Failure(f"{directory} cannot be used: {reason_of(error)}") from error
    for outcome in outcomes:
        report.add(outcome.finding, outcome)
    report.counts = asdict(counts)
    return report


def _as_json(finding: Finding, outcome: Mended | None) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.kind.severity.value,
        "upload": finding.upload_id,
        "path": finding.path,
        "text": finding.text,
        "repair": finding.kind.repair.value,
        "mended": None if outcome is None else outcome.done,
        "why_not": outcome.why or None if outcome else None,
    }


def _line(finding: Finding, outcome: Mended | None) -> str:
    kind = finding.kind
    return printable(
        f"{kind.severity.value}: {finding.code}: {finding.path}: {finding.text} "
        f"({_what_is_done(kind.repair, outcome)})"
    )


def _what_is_done(what: Repair, outcome: Mended | None) -> str:
    if what is Repair.NONE:
        return "nothing to be done"
    if outcome is None:
        return f"--repair: {what.value}"
    return f"mended: {what.value}" if outcome.done else f"not mended: {outcome.why}"
