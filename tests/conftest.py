"""What could not be tested on this machine is said at the end, and loudly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

# How long an example takes says more about the machine than about the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

NOT_TESTED = "NOT TESTED"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A test that skips with a reason that begins with NOT TESTED is one that should have run."""
    reasons = {_reason_of(report) for report in terminalreporter.getreports("skipped")}
    untested = sorted(reason for reason in reasons if reason.startswith(NOT_TESTED))
    if untested:
        terminalreporter.section(NOT_TESTED, sep="!", yellow=True, bold=True)
        for reason in untested:
            terminalreporter.line(reason, yellow=True)


def _reason_of(report: Any) -> str:
    """A skip is told as a file, a line and "Skipped: " with the reason."""
    told = getattr(report, "longrepr", None)
    return str(told[-1]).removeprefix("Skipped: ") if isinstance(told, tuple) else ""
