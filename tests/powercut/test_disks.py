"""The disk whose power is cut: what a copy of it has, and what not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ..processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

ONE_CUT = """
import os, sys
from pathlib import Path
from scripts.powercut.disks import FILE_SYSTEMS, Disk, DiskTrouble, isolate

def write(name, data):
    with (disk.point / name).open("ab") as file:
        file.write(data)
        return os.dup(file.fileno())

try:
    isolate()
    with Disk(Path(sys.argv[1]), FILE_SYSTEMS[sys.argv[2]]) as disk:
        os.fsync(write("flushed", b"a" * 5000))
        write("dirty", b"b" * 5000)
        write("flushed", b"c" * 5000)
        image = disk.cut("after")
        os.fsync(write("dirty", b"d"))
        copy = disk.mount(image)
        assert (copy / "flushed").read_bytes()[:5000] == b"a" * 5000
        assert b"c" not in (copy / "flushed").read_bytes()
        assert not (copy / "dirty").exists() or b"b" not in (copy / "dirty").read_bytes()
        assert (disk.point / "dirty").read_bytes() == b"b" * 5000 + b"d"
        (copy / "new").write_bytes(b"e")
        disk.discard(image)
        assert not copy.exists() and not image.exists()
        disk.mount(disk.cut("left"))
except DiskTrouble as error:
    sys.exit(f"CANNOT {error}")
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("system", ["btrfs", "ext4", "xfs"])
def test_a_cut_leaves_what_was_flushed_and_nothing_else(system: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONE_CUT, str(tmp_path), system]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.stderr.startswith("CANNOT"):
        pytest.skip(f"NOT TESTED: power cuts on {system}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in listed.stdout
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
