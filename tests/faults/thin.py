"""A disk that has promised more than it has: writes are taken, and what does not fit is lost.

An ext4 in a sparse file on a small tmpfs. Nothing is wrong for the file system until the kernel
brings pages to its disk, as with a thin volume, a dying disk or a network that went away: so the
first that hears of it is who flushes. It has no journal, since without one it stays writable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from ..stores.filesystems import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024


class ThinDisk:
    """``exhaust`` it, and what is written is lost until ``relieve``. ``replug`` shows what there
    really is: all that the kernel remembered is forgotten."""

    def __init__(self, folder: Path) -> None:
        self._ram, self.point = folder / "ram", folder / "disk"
        self._ram.mkdir()
        self.point.mkdir()

    @contextmanager
    def plugged(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._mount("-t", "tmpfs", "-o", f"size={40 * MIB}", "none", str(self._ram))
            stack.callback(self._detach, self._ram)
            with self._image.open("wb") as file:
                file.truncate(32 * MIB)
            make = ["mkfs.ext4", "-q", "-m0", "-b4096", "-N1024", "-O", "^has_journal"]
            make += ["-E", "lazy_itable_init=0"]
            subprocess.run([*make, self._image], check=True, timeout=30)
            with self._image.open("r+b") as file:  # what it notes about files has its place
                begin = file.read(MIB)
                file.seek(0)
                file.write(begin)
            self._plug()
            stack.callback(self._detach, self.point)
            self._trim()
            yield

    @property
    def _image(self) -> Path:
        return self._ram / "image"

    def exhaust(self) -> None:
        """The loop device says of a write that was cut short that it succeeded. So blocks are
        pages, and none has a place that is not in use."""
        self._trim()
        fill(self._ram, left=0)

    def relieve(self) -> None:
        (self._ram / "filler").unlink()

    def _trim(self) -> None:
        os.sync()
        subprocess.run(["fstrim", self.point], check=True, timeout=30)

    def replug(self) -> None:
        """Nothing may be open on it."""
        self._umount(self.point)
        self._plug()

    def _plug(self) -> None:
        self._mount("-o", "loop", str(self._image), str(self.point))

    @staticmethod
    def _mount(*arguments: str) -> None:
        mounting = ["mount", *arguments]
        done = subprocess.run(mounting, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: flushes that fail, since there is no mount: {done.stderr}")

    @staticmethod
    def _umount(point: Path) -> None:
        subprocess.run(["umount", point], check=True, timeout=30)

    @staticmethod
    def _detach(point: Path) -> None:
        """Though a test that failed may have left something open on it."""
        subprocess.run(["umount", "--lazy", point], check=True, timeout=30)


@contextmanager
def thin_disk(folder: Path) -> Iterator[ThinDisk]:
    """Skips the test where there cannot be one."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("NOT TESTED: flushes that fail, which needs root and loop devices")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("NOT TESTED: flushes that fail, which needs mkfs.ext4 (package e2fsprogs)")
    disk = ThinDisk(folder)
    with disk.plugged():
        yield disk
