"""The bytes that every server is sent: random, in memory, and known again when they are read back.

They are in a file on a tmpfs, and go to sockets by ``sendfile``: the kernel copies them once, so
that the sender takes little of the cores that it shares with the server.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB

# A prime: no power of two is a multiple of it, so bytes at a wrong place are wrong bytes.
SIZE = 61 * MIB
STEP = 7 * MIB


def start_of(number: int) -> int:
    """Where in the source the upload of that number begins: not two of a run's first 61 alike."""
    return number * STEP % SIZE


class Source:
    """An endless repetition of SIZE random bytes; ``start`` is any position in it."""

    def __init__(self) -> None:
        shm = "/dev/shm"
        self._file: Any = tempfile.TemporaryFile(  # noqa: SIM115  (it lives as long as this)
            dir=shm if os.path.isdir(shm) else None
        )
        for _ in range(SIZE // MIB):
            self._file.write(os.urandom(MIB))
        self._file.flush()
        self._fd: int = self._file.fileno()
        self._view = memoryview(mmap.mmap(self._fd, SIZE, prot=mmap.PROT_READ))

    def pieces(self, start: int, size: int) -> Iterator[memoryview]:
        """The ``size`` bytes from ``start`` on, at most 4 MiB at a time."""
        while size:
            start %= SIZE
            count = min(size, 4 * MIB, SIZE - start)
            yield self._view[start : start + count]
            start, size = start + count, size - count

    def send(self, connection: socket.socket, start: int, size: int) -> None:
        """Raises OSError if the other side does not take them all."""
        target = connection.fileno()
        while size:
            start %= SIZE
            sent = os.sendfile(target, self._fd, start, min(size, SIZE - start))
            start, size = start + sent, size - sent

    def is_in(self, path: Path, start: int, size: int) -> bool:
        """Whether that file holds the ``size`` bytes from ``start`` on, and no others."""
        if path.stat().st_size != size:
            return False
        with path.open("rb", buffering=0) as file:
            # As bytes: memoryviews are compared one byte after the other.
            return all(file.read(len(piece)) == bytes(piece) for piece in self.pieces(start, size))
