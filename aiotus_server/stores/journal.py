"""Who expires when: ids in one file per minute of expiry, so that nothing else is read.

An append to an upload that expires by its last byte writes nothing here: its id stays where
creation put it, and is moved on when that minute comes. Blocking: for threads.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUCKET = 60  # seconds
_TAKEN = ".taken"
_FOLDER = "expiry"


class ExpiryJournal:
    """Lines of ``<seconds since 1970> <id>`` in files named for the start of their minute."""

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd

    def lock(self) -> int | None:
        """A descriptor that keeps all other sweeps out until it is closed, None if one is under
        way, in whatever process."""
        fd = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def add(self, upload_id: str, expires: float, *, sync: bool = False) -> None:
        name = _in_folder(str(int(expires) // BUCKET * BUCKET))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = os.open(name, flags, 0o666, dir_fd=self._root)
        try:
            os.write(fd, f"{expires:.3f} {upload_id}\n".encode())
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        if sync:
            self._sync_folder()

    def _sync_folder(self) -> None:
        fd = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def take_due(self, now: float) -> Iterator[tuple[str, list[str]]]:
        """Pairs of a token and the ids that were due at ``now``.

        The ids stay in the journal, under the token, until ``settle``: a sweep that is killed
        is made up for by the next. Hold the ``lock``.
        """
        names = self._names()
        for start in sorted({name.removesuffix(_TAKEN) for name in names}):
            if start.isdecimal() and int(start) <= now:
                token = self._take(start if start in names else start + _TAKEN, start)
                lines = list(self._read(token))
                for expires, upload_id in lines:
                    if expires > now:
                        self.add(upload_id, expires)
                yield token, [upload_id for expires, upload_id in lines if expires <= now]

    def settle(self, token: str, kept: Iterable[tuple[str, float]]) -> None:
        """Forget what was taken under ``token`` but for ``kept``: ids and when they are due."""
        for upload_id, expires in kept:
            self.add(upload_id, expires)
        os.unlink(_in_folder(token), dir_fd=self._root)

    def _names(self) -> set[str]:
        fd = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        try:
            return set(os.listdir(fd))
        finally:
            os.close(fd)

    def _take(self, name: str, start: str) -> str:
        token = start + _TAKEN
        if name != token:
            # What an earlier sweep left under the token comes back with the new name.
            source, target = _in_folder(name), _in_folder(token)
            try:
                os.link(source, target, src_dir_fd=self._root, dst_dir_fd=self._root)
            except FileExistsError:
                for expires, upload_id in self._read(token):
                    self.add(upload_id, expires)
                os.rename(source, target, src_dir_fd=self._root, dst_dir_fd=self._root)
            else:
                os.unlink(source, dir_fd=self._root)
        return token

    def _read(self, name: str) -> Iterator[tuple[float, str]]:
        fd = os.open(_in_folder(name), os.O_RDONLY, dir_fd=self._root)
        with open(fd, encoding="ascii", errors="replace") as lines:
            for line in lines:
                expires, _, upload_id = line.rstrip("\n").partition(" ")
                try:
                    yield float(expires), upload_id
                except ValueError:
                    continue  # torn by a crash; access still finds the upload expired


def _in_folder(name: str) -> str:
    return f"{_FOLDER}/{name}"
