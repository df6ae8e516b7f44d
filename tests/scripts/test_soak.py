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


@pytest.mark.timeout(120)
async def test_the_server_gives_everything_back(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--time=5s", "--clients=3", "--kills=1", "--dir=.", f"--json={report}"]
    result = await ended(await begun("soak.py", *options, folder=tmp_path))
    assert result.code == 0, result
    assert "found: nothing" in result.out
    found = json.loads(report.read_text())
    assert len(found["samples"]) >= 2
    assert found["load"]["uploads"]["ok"] > 0
    assert list(tmp_path.iterdir()) == [report]


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
