"""What the kernel may do to files at any moment, done often.

Left alone it writes dirty pages back after 30 seconds, long after a short upload has ended and
been flushed. On a machine short of memory, or when another program calls fsync, it happens in
the middle of everything: the bytes of one file reach the disk and those of another do not,
facts come before bytes and bytes before facts.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

SYNC_FILE_RANGE_WRITE = 2  # from linux/fs.h: begin to write what is dirty, and do not wait
RECENT = 2.0  # seconds since a file was changed
SPELL = (0.05, 0.5)  # seconds
LONGEST_PAUSE = 0.04  # seconds


class Kernel:
    """Works on the files below ``root``, in a thread, while the block runs.

    ``other`` is a file of the same file system that is none of them.
    """

    def __init__(self, root: Path, other: Path, seed: int) -> None:
        self._root = root
        self._other = other
        self._random = random.Random(seed)
        self._at_work = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kernel", daemon=True)
        function = ctypes.CDLL(None).sync_file_range
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        self._sync_file_range = function
        self._files: list[Path] = []
        self._spell_ends = 0.0

    def __enter__(self) -> Kernel:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """It does nothing while the block runs; what was begun has ended."""
        with self._at_work:
            yield

    def stir(self) -> None:
        """Everything at once, from another thread, while this one rests."""
        for path in self._recent():
            self._write_back(path)
        self._commit()

    def _run(self) -> None:
        while not self._ending.wait(self._random.uniform(0, LONGEST_PAUSE)):
            with self._at_work:
                self._work()

    def _work(self) -> None:
        if time.monotonic() > self._spell_ends:
            self._begin_spell()
        files = self._files
        for _ in range(self._random.choice((0, 1, 1, 3, len(files)))):
            if files:
                self._write_back(self._random.choice(files))
        if self._random.random() < 0.3:
            self._commit()

    def _begin_spell(self) -> None:
        """In which some files, and no others, get written back."""
        share = self._random.random()
        self._files = [path for path in self._recent() if self._random.random() < share]
        self._spell_ends = time.monotonic() + self._random.uniform(*SPELL)

    def _recent(self) -> list[Path]:
        """The files that were changed of late."""
        since = time.time() - RECENT
        found: list[Path] = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted just now
                    if path.lstat().st_mtime > since:
                        found.append(path)
        return found

    def _write_back(self, path: Path) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # deleted just now, or a symbolic link
            return
        try:
            self._sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)

    def _commit(self) -> None:
        """Somebody else's fsync: it writes the journal, with everything that is in it."""
        with self._other.open("ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
