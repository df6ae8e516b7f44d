"""The script, where there can be a disk whose power is cut."""

from __future__ import annotations

import fcntl
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.powercut.main import UNABLE

from ..scripts.programs import Result, begun, ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PATIENCE = 280  # seconds, on a busy machine; a quarter of a minute on one that is not


@contextmanager
def alone() -> Iterator[None]:
    """One at a time, of the processes that share the tests: so that all kinds of uploads have
    their turn between two cuts, and no file system is mounted twice at the same moment."""
    with (Path(tempfile.gettempdir()) / "aiotus-power-cut.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def power_cut(tmp_path: Path) -> Callable[..., Awaitable[Result]]:
    """Runs the script; ``summary`` has its findings. Skips the test where it cannot be done."""

    async def run(*arguments: str) -> Result:
        findings = tmp_path / "findings.json"
        options = [f"--dir={tmp_path}", f"--json={findings}", *arguments]
        with alone():
            result = await ended(
                await begun("power_cut.py", *options, folder=tmp_path), patience=PATIENCE
            )
        if result.code == UNABLE:
            pytest.skip(f"NOT TESTED: power cuts, since {result.err.strip()}")
        (summary,) = json.loads(findings.read_text())
        result.summary.update(summary)
        return result

    return run
