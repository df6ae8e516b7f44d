"""The script, where there can be a disk whose power is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from scripts.powercut.main import UNABLE

from ..scripts.programs import Result, begun, ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PATIENCE = 280  # seconds, on a busy machine; a quarter of a minute on one that is not


@pytest.fixture
def power_cut(tmp_path: Path) -> Callable[..., Awaitable[Result]]:
    """Runs the script; ``summary`` has its findings. Skips the test where it cannot be done."""

    async def run(*arguments: str) -> Result:
        findings = tmp_path / "findings.json"
        options = [f"--dir={tmp_path}", f"--json={findings}", *arguments]
        result = await ended(
            await begun("power_cut.py", *options, folder=tmp_path), patience=PATIENCE
        )
        if result.code == UNABLE:
            pytest.skip(f"NOT TESTED: power cuts, since {result.err.strip()}")
        (summary,) = json.loads(findings.read_text())
        result.summary.update(summary)
        return result

    return run
