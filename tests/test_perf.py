"""The benchmark itself: that a run, however short, gives its tables and what they stand on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

SCENARIOS = ("large", "five", "post-patch", "sha1")


def compare(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "perf", "compare", "--rounds", "1", "--scale", "0.01"]
    (folder / "data").mkdir()
    places = ["--folder", str(folder / "data"), "--output", str(folder / "results")]
    done = subprocess.run(
        [*command, "--seconds", "0.5", *places, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_run_gives_every_round_and_its_tables(tmp_path: Path) -> None:
    compare(tmp_path, "--servers", "aiotus", "--scenarios", ",".join(SCENARIOS))
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    records = {(record["scenario"], record["server"]): record for record in results["records"]}
    for scenario in SCENARIOS:
        values = records[scenario, "aiotus"].get("values")
        assert values, records[scenario, "aiotus"]
        assert values["value"] > 0
        assert values["rss_mib"] > 10
        assert values.get("errors", 0) == 0
    assert records["large", "limit"]["values"]["value"] > 0
    table = (tmp_path / "results" / "results.md").read_text()
    assert "## one PATCH of 1 GiB" in table
    assert "| **aiotus-server** |" in table
    assert not list((tmp_path / "data").iterdir())


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    """A server that refuses everything ends neither the run nor the report."""
    servers = "aiotus,gone=http://127.0.0.1:9/"
    said = compare(tmp_path, "--servers", servers, "--scenarios", "large", code=1)
    assert "nothing could be measured of gone" in said
    table = (tmp_path / "results" / "results.md").read_text()
    assert "gone: [Errno" in table
    assert "| **aiotus-server** |" in table


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (["--rounds", "0"], "--rounds must be more than 0"),
        (["--seconds", "-1"], "--seconds must be more than 0"),
        (["--folder", "/no/such/folder"], "/no/such/folder is not a folder"),
    ],
)
def test_a_wrong_command_line_writes_nothing(tmp_path: Path, wrong: list[str], why: str) -> None:
    assert why in compare(tmp_path, "--servers", "aiotus", *wrong, code=2)
    assert not (tmp_path / "results").exists()
