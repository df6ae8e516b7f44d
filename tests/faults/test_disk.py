"""The fake disk sees every call by which the server touches the real one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from ..processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

# What strace calls what Python's functions do; not all of it everywhere.
FAMILIES = {
    "open": {"open", "openat"},
    "close": {"close"},
    "read": {"read"},
    "pread": {"pread64"},
    "write": {"write"},
    "pwrite": {"pwrite64"},
    "pwritev": {"pwritev", "pwritev2"},
    "stat lstat fstat": {"newfstatat", "fstat", "stat", "lstat", "statx", "fstatat64"},
    "mkdir": {"mkdir", "mkdirat"},
    "unlink rmdir": {"unlink", "unlinkat", "rmdir"},
    "symlink": {"symlink", "symlinkat"},
    "readlink": {"readlink", "readlinkat"},
    "link": {"link", "linkat"},
    "rename": {"rename", "renameat", "renameat2"},
    "ftruncate": {"ftruncate"},
    "fsync": {"fsync"},
    "fdatasync": {"fdatasync"},
    "sync_file_range": {"sync_file_range"},
    "syncfs": {"syncfs"},
    "copy_file_range": {"copy_file_range"},
    "sendfile": {"sendfile"},
    "posix_fallocate": {"fallocate"},
    "flock": {"flock"},
    "ioctl": {"ioctl"},
    "lseek": {"lseek"},
    "fchmod": {"fchmod", "fchmodat"},
    "utime": {"utimensat"},
}
# One call of Python's makes these too.
LISTING = {"close": 1, "lseek": 1, "fstat": 1}
HARMLESS = {
    "execve",  # the path is among the arguments
    "fcntl",  # os.listdir duplicates its descriptor
    "getdents64",  # so it lists
    "fstatfs",  # what file system it is, once for a store
}
CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")


def test_no_call_is_missed(tmp_path: Path) -> None:
    """By the count of calls that name the folder, those above it, or something below it, in
    whatever thread."""
    seen, traced = run(tmp_path)
    for names, calls in FAMILIES.items():
        expected = sum(seen.pop(name, 0) for name in names.split())
        assert sum(traced.pop(call, 0) for call in calls) == expected, names
    assert not seen
    assert set(traced) <= HARMLESS


def run(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """What the fake disk and strace have seen."""
    if shutil.which("strace") is None:
        pytest.skip("NOT TESTED: whether the fake disk sees all calls, which needs strace")
    log, below = folder / "trace", folder / "traced"
    below.mkdir()
    strace = ["strace", "-f", "-y", "-s", "300", "-e", "trace=%file,%desc", "-o", str(log)]
    program = [sys.executable, "-m", "tests.faults.traced", str(below)]
    done = subprocess.run(
        [*strace, *program], cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"NOT TESTED: whether the fake disk sees all calls: {done.stderr}")
    assert done.returncode == 0, done.stderr
    seen = Counter(json.loads(done.stdout))
    for name, number in LISTING.items():
        seen[name] += number * seen["listdir"]
    del seen["listdir"]
    names = [str(below), *(f'"{parent}",' for parent in below.parents)]
    lines = (line for line in log.read_text().splitlines() if any(map(line.__contains__, names)))
    return seen, Counter(call[1] for line in lines if (call := CALL.match(line)))
