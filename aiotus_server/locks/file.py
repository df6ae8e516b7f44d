"""Locks between the processes of one machine.

A lock is taken twice: in this process's MemoryLocker, then as a byte of the lock file. When
nobody else wants it, that is two system calls. Whoever does not get it tells all neighbours
what it wants and since when, and sleeps until one of them has news. The holder hears it as a
release request; on release it tells those who wait, and each tries again, the eldest first.
Nobody polls; see README's "Design notes" for what may happen in between.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from ..disk_errors import disk_errors
from ..protocol.errors import UploadLocked
from .base import Declined, Lock, Locker, Purpose
from .channel import Channel, Decline, Free, Want
from .lockfile import SLOTS, check_platform
from .memory import MemoryLocker
from .neighbours import Neighbours

if TYPE_CHECKING:
    import os
    from types import TracebackType

_log = getLogger("aiotus_server")

RETRY = 1.0  # seconds until a lock that could not be released is released again
GRACE = 0.25  # seconds that a neighbour has to take a free lock before those who came later


class FileLocker(Locker):
    """Locks for all processes on this machine that share ``directory``, the store's root say.

    Making the object touches no file; it may be made before a fork. The file ``.locks`` in
    ``directory`` must not be removed while uploads there are in use. Raises NotImplementedError
    where the system is not Linux.

    Processes in different network namespaces exclude each other too, but do not hear each
    other's release requests.
    """

    spans_processes: ClassVar[bool] = True

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        check_platform()
        self._path = Path(directory).absolute() / ".locks"
        self._stations: WeakKeyDictionary[asyncio.AbstractEventLoop, _Station] = WeakKeyDictionary()

    def lock(
        self, upload_id: str, purpose: Purpose, *, wait: float
    ) -> AbstractAsyncContextManager[Lock]:
        return _Request(self, upload_id, purpose, wait)

    @staticmethod
    def offset_of(upload_id: str) -> int:
        """The byte of the file that stands for the upload. Two uploads may share it: then they
        are in use by one process at a time."""
        digest = blake2b(upload_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % SLOTS

    def station(self) -> _Station:
        """What belongs to this process and the running loop: made at the first use."""
        loop = asyncio.get_running_loop()
        station = self._stations.get(loop)
        if station is not None and station.is_lost():
            station.neighbours.leave()  # what is still held there is of uploads that are gone
        if station is None or not station.neighbours.close.alive:
            for other, abandoned in list(self._stations.items()):
                if other.is_closed():
                    abandoned.neighbours.close()
            station = self._stations[loop] = _Station(self._path)
        return station


class _Request(AbstractAsyncContextManager[Lock]):
    """One use of a lock, from asking for it to its release."""

    __slots__ = (
        "_declined",
        "_limit",
        "_local",
        "_lock",
        "_locker",
        "_news",
        "_station",
        "_upload_id",
        "_wait",
        "purpose",
        "want",
    )

    def __init__(self, locker: FileLocker, upload_id: str, purpose: Purpose, wait: float) -> None:
        self._locker = locker
        self._upload_id = upload_id
        self.purpose = purpose
        self._wait = wait
        self._lock: Lock | None = None
        self._limit: asyncio.Timeout | None = None
        self._declined = False

    async def __aenter__(self) -> Lock:
        with disk_errors():
            return await self._take()

    async def _take(self) -> Lock:
        station = self._station = self._locker.station()
        offset = self._locker.offset_of(self._upload_id)
        self._local = station.memory.lock(self._upload_id, self.purpose, wait=self._wait)
        try:
            if station.nobody_wants(offset):
                self._lock = await self._local.__aenter__()  # nobody is in there: at once
                if station.take(offset, self._lock):
                    return self._lock
            return await self._contend(station, offset)
        except BaseException:
            if self._lock is not None:
                await self._local.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._lock is not None
        self._station.release(self._locker.offset_of(self._upload_id), self._lock)
        await self._local.__aexit__(None, None, None)

    async def _contend(self, station: _Station, offset: int) -> Lock:
        self._news = asyncio.Event()
        self.want = station.announce(self, offset)
        try:
            async with asyncio.timeout(self._wait) as self._limit:
                if self._lock is None:
                    self._lock = await self._local.__aenter__()
                await self._take_turn(station, offset, self._lock)
        except TimeoutError:
            raise (Declined if self._declined else UploadLocked) from None
        finally:
            station.withdraw(self)
        return self._lock

    async def _take_turn(self, station: _Station, offset: int, lock: Lock) -> None:
        """Whoever holds the lock when it cannot be taken had joined before, and so had renewed
        the token: if that is the one we know, the holder has been told, and will send news."""
        file, met = station.neighbours.file, b""
        while True:
            self._news.clear()
            elder = station.elder(self.want)
            if elder is None and station.take(offset, lock):
                return
            patience = GRACE if elder and file.is_free(offset) else None
            token = file.token()
            if token != met:
                met = token
                station.meet()
                continue
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                assert elder is not None
                elder.quiet = True

    def hear(self) -> None:
        """The lock may be free."""
        self._news.set()

    def decline(self) -> None:
        """The holder will not let go: stop waiting."""
        if self._limit is not None and not self._limit.expired():
            self._declined = True
            self._limit.reschedule(asyncio.get_running_loop().time())


class _Station:
    """What one event loop of one process holds and wants."""

    def __init__(self, path: Path) -> None:
        self.memory = MemoryLocker()
        self.neighbours = Neighbours(path, self)
        self._held: dict[int, list[Lock]] = {}
        self._requests: dict[int, _Request] = {}
        self._wanted: dict[int, list[_Request]] = {}
        self._numbers = itertools.count(1)

    def is_lost(self) -> bool:
        """Whether the lock file, and the folder that it was in, say, has been removed."""
        return self.neighbours.close.alive and self.neighbours.file.is_removed()

    def nobody_wants(self, offset: int) -> bool:
        """As far as is known here."""
        return not (
            offset in self._held or offset in self._wanted or offset in self.neighbours.wanted
        )

    def take(self, offset: int, lock: Lock) -> bool:
        """Whether the lock file's byte is ours now. It may be shared by uploads whose ids have
        the same offset."""
        if not self.neighbours.file.lock(offset):
            return False
        self._held.setdefault(offset, []).append(lock)
        for channel, want in self.neighbours.wanting(offset):
            self._pass_on(channel, want, lock)
        return True

    def release(self, offset: int, lock: Lock) -> None:
        locks = self._held[offset]
        locks.remove(lock)
        if locks:
            return
        del self._held[offset]
        self._unlock(offset)

    def _unlock(self, offset: int) -> None:
        """Whoever releases a lock has done what it wanted, and need not hear that it failed."""
        if offset in self._held or not self.neighbours.close.alive:
            return
        try:
            self.neighbours.file.unlock(offset)
        except OSError as error:
            _log.error("A lock could not be released yet: %s", error)
            asyncio.get_running_loop().call_later(RETRY, self._unlock, offset)
            return
        for channel in {channel for channel, _ in self.neighbours.wanting(offset)}:
            channel.send(Free(offset))

    # What we want

    def announce(self, request: _Request, offset: int) -> Want:
        """Tell all neighbours that we have met."""
        want = Want(next(self._numbers), offset, time.monotonic(), request.purpose)
        self._requests[want.number] = request
        self._wanted.setdefault(offset, []).append(request)
        self.neighbours.tell(want)
        return want

    def withdraw(self, request: _Request) -> None:
        want = request.want
        del self._requests[want.number]
        requests = self._wanted[want.offset]
        requests.remove(request)
        if not requests:
            del self._wanted[want.offset]
        if self.neighbours.close.alive:
            self.neighbours.forget(want)

    def meet(self) -> None:
        self.neighbours.meet(request.want for request in self._requests.values())

    def elder(self, mine: Want) -> Channel | None:
        """The neighbour whose turn comes before ours, if there is one."""
        others = [
            (want.since, channel)
            for channel, want in self.neighbours.wanting(mine.offset)
            if not channel.quiet and want.since < mine.since
        ]
        return min(others, key=lambda other: other[0])[1] if others else None

    # What the neighbours say

    def wanted(self, channel: Channel, want: Want) -> None:
        self.news(want.offset)  # whoever waits here may not have met that one
        locks = self._held.get(want.offset)
        if not locks:
            channel.send(Free(want.offset))
            return
        for lock in locks:
            self._pass_on(channel, want, lock)

    def news(self, offset: int | None) -> None:
        requests = self._requests.values() if offset is None else self._wanted.get(offset, ())
        for request in requests:
            request.hear()

    def declined(self, number: int) -> None:
        if request := self._requests.get(number):
            request.decline()

    def _pass_on(self, channel: Channel, want: Want, lock: Lock) -> None:
        def declined() -> None:
            if want.number in channel.wants:
                channel.send(Decline(want.number))

        lock.request_release(want.purpose, declined)
