"""Where the tests run in several processes, those that take longest begin first. What could not be
tested on this machine is said at the end, and loudly."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

# How long an example takes says more about the machine than about the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

NOT_TESTED = "NOT TESTED"
LONGEST = ("tests/powercut/", "tests/crashing/", "tests/scripts/", "tests/stores/test_cut_off")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The ``--dist worksteal`` of xdist gives each process a stretch of the tests, and then lets
    those that have done take from the ends of the others'. So the longest are where stretches
    begin, each kind in one of them: they would keep a process busy when all others have done."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    kinds: list[list[pytest.Item]] = [[] for _ in (*LONGEST, "others")]
    for item in items:
        kinds[_kind_of(item.nodeid)].append(item)
    others, left = iter(kinds.pop()), len(items)
    items.clear()
    for process in range(processes):
        begins = [item for kind in kinds[process::processes] for item in kind]
        size = left // (processes - process)
        left -= size
        items.extend(begins)
        items.extend(item for _, item in zip(range(size - len(begins)), others, strict=False))
    items.extend(others)


def pytest_collection_finish() -> None:
    """Thousands of tests are objects that stay. The garbage collector would walk over them while a
    test waits, for a third of a second on an idle machine."""
    gc.collect()
    gc.freeze()


def _kind_of(nodeid: str) -> int:
    return next((n for n, name in enumerate(LONGEST) if nodeid.startswith(name)), len(LONGEST))


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
