"""A server that is killed before any of the changes that it makes to the disk, or in the middle of a
write, leaves uploads that go on to right bytes: nothing acknowledged is lost, no unverified byte
counts, no final is half there, the application is told of all that is complete, and a verification
finds no error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from tempfile import TemporaryDirectory

import pytest

from ..processes import REPOSITORY

READ_ONLY = {"inspect", "download"}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("level", ["none", "complete", "always"])
def test_a_kill_at_any_call(level: str) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, "-m", "tests.faults.killed", folder, level]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180, check=False
        )
    assert done.returncode == 0, done.stderr[-5000:]
    kills = json.loads(done.stdout)
    assert {name for name, number in kills.items() if not number} == READ_ONLY
    assert sum(kills.values()) > 200
