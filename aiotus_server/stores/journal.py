"""Who expires when: ids in one file per minute of expiry, so that nothing else is read.

An append to an upload that expires by its last byte writes nothing here: its id stays where
creation put it, and is moved on when that minute comes. Blocking: for threads.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .copying import closing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUCKET = 60  # seconds
_TAKEN = ".taken"
_PIECE = 256 * 1024  # bytes read at once
_FOLDER = "expiry"
_END = 253402300800  # seconds from 1970 to the year 10000


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
                # A sweep that could not be ended has written some of them again.
                lines = list(dict.fromkeys(self._read(token)))
                for expires, upload_id in lines:
                    if expires > now:
                        self.add(upload_id, expires)
                yield token, [upload_id for expires, upload_id in lines if expires <= now]

    def settle(self, token: str, kept: Iterable[tuple[str, float]]) -> None:
        """Forget what was taken under ``token`` but for ``kept``: ids and when they are due."""
        for upload_id, expires in kept:
            self.add(upload_id, expires)
        os.unlink(_in_folder(token), dir_fd=self._root)

    def lines(self) -> Iterator[tuple[float, str] | None]:
        """All that is noted and can be read, in no order; None for a line that says nothing. What
        a sweep moves meanwhile may be missed, or come twice."""
        names: set[str] = set()
        with suppress(OSError):
            names = self._names()
        for name in names:
            try:
                yield from self._lines(name)
            except OSError:
                continue  # a sweep is through with it

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
        # A line may be torn by a crash; access still finds the upload expired.
        return (line for line in self._lines(name) if line is not None)

    def _lines(self, name: str) -> Iterator[tuple[float, str] | None]:
        rest = b""
        with closing(os.open(_in_folder(name), os.O_RDONLY, dir_fd=self._root)) as fd:
            while piece := os.read(fd, _PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(_parsed, lines)
        if rest:
            yield _parsed(rest)


def _parsed(line: bytes) -> tuple[float, str] | None:
    seconds, _, upload_id = line.decode("ascii", "replace").partition(" ")
    try:
        expires = float(seconds)
    except ValueError:
        return None
    return (expires, upload_id) if 0 <= expires < _END else None


def _in_folder(name: str) -> str:
    return f"{_FOLDER}/{name}"
