"""Soaks of a few seconds: of the server as it is, and of one that leaks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .programs import begun, ended

if TYPE_CHECKING:
    from pathlib import Path

LEAKING = """
import os

from aiotus_server import Hooks

hooks = Hooks()


@hooks.post_create
def leak(event):
    for _ in range(5):
        os.dup(0)
"""

LOCKED = """
import sys

from aiotus_server import FileLocker, Hooks
from aiotus_server.locks import Purpose

hooks, left = Hooks(), []


@hooks.post_create
async def lock(event):
    if not left:
        left.append(FileLocker(sys.argv[sys.argv.index("--dir") + 1]))
    for _ in range(10):
        await left[0].lock(f"x{len(left)}", Purpose.APPEND, wait=1).__aenter__()
        left.append(None)
"""


@pytest.mark.timeout(120)
async def test_the_server_gives_everything_back(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--time=5s", "--clients=3", "--kills=1", "--dir=.", f"--json={report}"]
    result = await ended(await begun("soak.py", *options, folder=tmp_path))
    assert result.code == 0, result
    assert "found: nothing" in result.out
    found = json.loads(report.read_text())
    assert len(found["samples"]) >= 2
    assert found["summary"]["locks"]["most"] >= 1  # on the store
    assert found["most_under_load"]["rss"] > 0
    assert found["load"]["uploads"]["ok"] > 0
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.timeout(120)
async def test_locks_that_are_not_given_back_are_found(tmp_path: Path) -> None:
    (tmp_path / "leaking.py").write_text(LOCKED)
    options = ["--time=4s", "--clients=3", "--workers=2", "--", "--hooks=leaking:hooks"]
    process = await begun("soak.py", *options, folder=tmp_path, path=tmp_path)
    result = await ended(process)
    assert result.code == 1, result
    assert "found: locks: " in result.out


@pytest.mark.timeout(120)
async def test_a_server_that_leaks_is_found(tmp_path: Path) -> None:
    (tmp_path / "leaking.py").write_text(LEAKING)
    options = ["--time=4s", "--clients=3", "--", "--hooks=leaking:hooks"]
    process = await begun("soak.py", *options, folder=tmp_path, path=tmp_path)
    result = await ended(process)
    assert result.code == 1, result
    assert "found: descriptors: " in result.out


async def test_a_server_that_does_not_start_ends_it_with_code_2(tmp_path: Path) -> None:
    result = await ended(await begun("soak.py", "--", "--no-such-flag", folder=tmp_path))
    assert result.code == 2
    assert "the server ended by itself with 2" in result.err


async def test_a_mistake_ends_it_with_code_2(tmp_path: Path) -> None:
    result = await ended(await begun("soak.py", "--time=soon", folder=tmp_path))
    assert result.code == 2
    assert "argument --time: 'soon' is not a time such as" in result.err
