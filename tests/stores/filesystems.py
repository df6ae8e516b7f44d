"""A real XFS in a file, to be had by root, and what the kernel tells about a file's blocks."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

XFS_SIZE = 512 * 1024 * 1024  # bytes; little of it is ever written
_FIEMAP = 0xC020660B
_SYNC = 1
_SHARED = 0x2000
_request = struct.Struct("QQIIII")  # start, size, flags, mapped, room for extents, reserved
_extent = struct.Struct("QQQQQI12x")  # where, where on the disk, size, reserved (2), flags
_EXTENTS = 500


@contextmanager
def mounted_xfs(folder: Path) -> Iterator[Path]:
    """A folder on a fresh XFS that can share blocks. Skips the test where there cannot be one."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("NOT TESTED: reflinks on XFS, which need root and loop devices")
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("NOT TESTED: reflinks on XFS, which need mkfs.xfs (package xfsprogs)")
    image, point = folder / "xfs.img", folder / "xfs"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(XFS_SIZE)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, timeout=30)
    mount = ["mount", "-o", "loop", str(image), str(point)]
    mounting = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
    if mounting.returncode != 0:
        pytest.skip(f"NOT TESTED: reflinks on XFS, which cannot be mounted: {mounting.stderr}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True, timeout=30)


def shared_bytes(path: Path) -> int:
    """How many bytes of a file are in blocks that other files, or other places in it, have too."""
    request = _request.pack(0, 2**63, _SYNC, 0, _EXTENTS, 0)
    answer = bytearray(request + bytes(_EXTENTS * _extent.size))
    with path.open("rb") as file:
        fcntl.ioctl(file, _FIEMAP, answer)
    found = _request.unpack_from(answer)[3]
    assert found < _EXTENTS
    places = (_request.size + number * _extent.size for number in range(found))
    extents = (_extent.unpack_from(answer, place) for place in places)
    return sum(size for _, _, size, _, _, flags in extents if flags & _SHARED)


def free_space(folder: Path) -> int:
    numbers = os.statvfs(folder)
    return numbers.f_bavail * numbers.f_frsize


def fill(folder: Path, left: int) -> None:
    """Leave about ``left`` bytes free."""
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_space(folder) - left)
