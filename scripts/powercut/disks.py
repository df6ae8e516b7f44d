"""A disk whose power can be cut as often as one likes.

Its blocks are a file on an XFS that can share them. A reflink of that file takes milliseconds,
and has exactly what had reached the disk at that moment, in the middle of whatever goes on: so
it is the disk after a power cut, and the power stays on. The XFS is a file as well, so all that
is needed is root and loop devices.

The kernel gives writes to this disk in an order of its own, but the disk itself does not forget:
one with a cache of its own could also lose what was written and not flushed. A file system that
flushes it, as all of these do at every fsync, makes no difference between the two.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

BED_SIZE = 64 * 1024**3  # bytes, of which the file has only those that were ever written
DISK_SIZE = 4 * 1024**3
PATIENCE = 60  # seconds for one command
CLONE_NEWNS = 0x00020000  # from linux/sched.h
FICLONE = 0x40049409  # from linux/fs.h


class DiskTrouble(Exception):
    """There is no such disk to be had, or it cannot be mounted."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How it is made, and mounted; ``beside`` are the options that let a copy be mounted while
    the original is. What comes behind a dash in its name tells it from others of its kind."""

    name: str
    package: str
    make: tuple[str, ...]
    options: str = "loop"
    beside: str = "loop"


FILE_SYSTEMS = {
    system.name: system
    for system in (
        # The shortest time from a change of facts to the disk: data may well come later.
        FileSystem("ext4", "e2fsprogs", ("-q", "-F", "-E", "nodiscard"), "loop,commit=1"),
        # It forgets nothing: whatever is found on it, the power cut is not to blame.
        FileSystem(
            "ext4-sync",
            "e2fsprogs",
            ("-q", "-F", "-E", "nodiscard"),
            "loop,sync,dirsync,data=journal",
        ),
        FileSystem("xfs", "xfsprogs", ("-q",), beside="loop,nouuid"),
        FileSystem("btrfs", "btrfs-progs", ("-q",), "loop,commit=1"),
    )
}


def isolate() -> None:
    """Give this thread, and all that it starts, mounts of their own.

    However the process ends, they end with it, and the loop devices with them. Call it before
    there are other threads. Raises DiskTrouble.
    """
    if os.geteuid() != 0:
        raise DiskTrouble("only root can mount")
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        raise DiskTrouble("only Linux can do this")
    if unshare(CLONE_NEWNS) != 0:
        why = os.strerror(ctypes.get_errno())
        raise DiskTrouble(f"this process may have no mounts of its own: {why}")
    _run("mount", "--make-rprivate", "/")


class Disk:
    """A file system of this kind, freshly made and mounted at ``point``, while the block runs.

    Below ``folder`` nothing is left but empty folders. Raises DiskTrouble.
    """

    def __init__(self, folder: Path, system: FileSystem) -> None:
        self.system = system
        self._bed = folder / "bed"
        self.point = folder / "disk"
        self._blocks = self._bed / "disk.img"
        self._mounted: list[Path] = []
        self._over = False
        # A thread that mounts goes on when whoever waits for it is interrupted.
        self._mounting = threading.Lock()

    def __enter__(self) -> Disk:
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._mounting:
            self._over = True
            while self._mounted:
                self._unmount(self._mounted[-1])

    def _make(self) -> None:
        image = self._bed.with_name("bed.img")
        self._bed.parent.mkdir(parents=True, exist_ok=True)
        _make_blocks(image, BED_SIZE)
        try:
            _make_file_system(FILE_SYSTEMS["xfs"], image, "-m", "reflink=1")
            self._mount(image, self._bed, "loop")
        finally:
            image.unlink()  # the mount keeps it for as long as it is needed
        _make_blocks(self._blocks, DISK_SIZE)
        _make_file_system(self.system, self._blocks)
        self._mount(self._blocks, self.point, self.system.options)

    def cut(self, name: str) -> Path:
        """What a power cut in this moment would leave: the image of another disk."""
        image = self._bed / f"{name}.img"
        with self._blocks.open("rb") as source, image.open("xb") as target:
            fcntl.ioctl(target, FICLONE, source.fileno())
        return image

    def mount(self, image: Path) -> Path:
        """Where it is mounted, once the file system has recovered."""
        point = self.point.with_name(image.stem)
        self._mount(image, point, self.system.beside)
        return point

    def discard(self, image: Path) -> None:
        """Unmount it if it is mounted, and forget it."""
        point = self.point.with_name(image.stem)
        if point in self._mounted:
            self._unmount(point)
            point.rmdir()
        image.unlink(missing_ok=True)

    def _mount(self, image: Path, point: Path, options: str) -> None:
        with self._mounting:
            if self._over:
                raise DiskTrouble("the disk is not there any more")
            point.mkdir(exist_ok=True)
            _run("mount", "-o", options, str(image), str(point))
            self._mounted.append(point)

    def _unmount(self, point: Path) -> None:
        self._mounted.remove(point)
        try:
            _run("umount", str(point))
        except DiskTrouble:  # somebody is still there
            with suppress(DiskTrouble):
                _run("umount", "--lazy", str(point))


def _make_blocks(image: Path, size: int) -> None:
    with image.open("xb") as file:
        file.truncate(size)


def _make_file_system(system: FileSystem, image: Path, *options: str) -> None:
    program = f"mkfs.{system.name.partition('-')[0]}"
    if shutil.which(program) is None:
        raise DiskTrouble(f"there is no {program} (package {system.package})")
    _run(program, *system.make, *options, str(image))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DiskTrouble(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        raise DiskTrouble(" ".join(done.stderr.split()) or f"{command[0]}: {done.returncode}")
