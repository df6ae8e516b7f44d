"""SIGKILL at random instants, and every upload comes to its end, whole and right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.crashing.crowd import kinds

from ..scripts.programs import Result, begun, ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Crash = Callable[..., Awaitable[Result]]

KILLS = 30
PATIENCE = 200  # seconds, on a busy machine; a sixth of that on one that is not


@pytest.fixture
def crash_test(tmp_path: Path) -> Crash:
    """Runs the script; ``summary`` has its findings."""

    async def run(*arguments: str) -> Result:
        findings = tmp_path / "findings.json"
        options = [f"--dir={tmp_path}", f"--json={findings}", *arguments]
        process = await begun("crash_test.py", *options, folder=tmp_path)
        result = await ended(process, patience=PATIENCE)
        result.summary.update(json.loads(findings.read_text()))
        return result

    return run


@pytest.mark.timeout(PATIENCE + 20)
@pytest.mark.parametrize("workers", [1, 2])
async def test_kills_cost_no_upload(crash_test: Crash, workers: int, tmp_path: Path) -> None:
    result = await crash_test(f"--kills={KILLS}", f"--workers={workers}")
    assert result.code == 0, result.out
    found = result.summary
    assert found["complaints"] == []
    assert sum(found["kills"].values()) == KILLS
    assert ("one worker" in found["kills"]) is (workers > 1)
    assert set(found["uploads"]) == {*kinds("", 0), "deleted"}
    assert found["complete"] > KILLS
    assert found["load"]["connections_lost"] > KILLS
    assert "found: nothing" in result.out
    assert list(tmp_path.iterdir()) == [tmp_path / "findings.json"]


@pytest.mark.timeout(PATIENCE + 20)
@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        ("forgets_events", "was never told"),
        ("keeps_unverified_bytes", "within a body that had a checksum"),
        ("loses_bytes", "the offset went back from"),
    ],
)
async def test_a_server_that_breaks_a_promise_is_found(
    crash_test: Crash, sabotage: str, complaint: str, tmp_path: Path
) -> None:
    hooks = f"--hooks=tests.crashing.sabotage:{sabotage}"
    one_run = ["--kills=12", "--seed=3", "--workers=1", "--durability=none"]
    result = await crash_test(*one_run, "--", hooks)
    assert result.code == 1, result.out
    assert any(complaint in text for text in result.summary["complaints"]), result.out
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert f"what is left is in {folder}" in result.out
    assert (folder / "log").exists()


async def test_a_server_that_does_not_start_ends_it_with_code_2(crash_test: Crash) -> None:
    result = await crash_test("--kills=1", "--", "--no-such-flag")
    assert result.code == 2
    assert "the server ended by itself with 2" in result.out


async def test_a_mistake_ends_it_with_code_2(tmp_path: Path) -> None:
    result = await ended(await begun("crash_test.py", "--kills=0", folder=tmp_path))
    assert result.code == 2
    assert "argument --kills: '0' is not a number from 1 on" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_no_server_is_left_whatever_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    process = await begun("crash_test.py", f"--dir={tmp_path}", "--workers=2", folder=tmp_path)
    try:
        await until(lambda: bool(servers(tmp_path)))
    finally:
        process.send_signal(number)
        await ended(process)
    await until(lambda: not servers(tmp_path))


def servers(folder: Path) -> list[bytes]:
    """The command lines of those that work in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(path.read_bytes())
    return [line for line in found if b"aiotus_server" in line and os.fsencode(folder) in line]


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")
