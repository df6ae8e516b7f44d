"""Bytes from a socket to a file in worker threads: the event loop sees none of them.

The kernel copies each byte into a buffer and out again; both calls release the GIL.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import threading
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING

from . import threads
from .hashing import Hashing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .body import Writer
    from .pace import Pace
    from .protocol.checksum import Hasher

BUFFER = 1024 * 1024  # bytes, one for each thread
# Then a thread takes up another upload.
QUANTUM = 64 * 1024 * 1024  # bytes
# A thread is not troubled before the kernel has gathered so many bytes, or gathered for so long.
# The slower they come the longer, so that a thousand slow connections cost little; but silence must
# be noticed in time.
GATHER_SIZE = 256 * 1024  # bytes
GATHER_TIMES = (0.1, 1.5)  # seconds, at least and at most
GATHER_SHARE = 0.1  # of the silence that is endured, at most
# Times differ by so much, at random: those that are served together would else come again together,
# more of them each time, and whoever comes then waits for all.
SPREAD = 0.4

_own = threading.local()


class Pump:
    """The rest of a body, ``left`` bytes, on a connected, non-blocking stream socket that nobody
    else reads.

    ``taken`` counts the bytes that have left the socket. Owns ``connection``: ``close`` it.
    """

    def __init__(
        self, connection: socket.socket, left: int, stopped: Callable[[], bool], pace: Pace
    ) -> None:
        self.taken = 0
        self.left = left
        self._connection = connection
        self._stopped = stopped
        self._pace = pace
        self._last_taken = False  # after a stop: what had come by then
        self._dry = False  # the socket was empty
        self._idle = False  # and nothing came for a while
        self._gather_time = GATHER_TIMES[0]
        self._end: EOFError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._watermark = 1

    def wake(self) -> None:
        """Have ``copy`` look at ``stopped()`` again."""
        self._wake(True)

    def close(self) -> None:
        self._set_watermark(1)
        self._connection.close()

    async def copy(
        self,
        writer: Writer,
        limit: int,
        hashers: Mapping[str, Hasher],
        patience: float,
        before: Sequence[bytes] = (),
    ) -> int:
        """Give ``writer`` ``before``, and behind it what comes, ``limit`` bytes at most, and feed
        it all to ``hashers``: the number of bytes that came.

        0 when nothing came for ``patience`` seconds, and once ``stopped()``, when what had come
        by then is stored. Raises EOFError when the other side has gone or has sent its last
        byte, BodyTooSlow, and OSError when the disk refuses; then ``taken`` counts bytes that
        were not written.
        """
        end = self._loop.time() + patience
        while self.left:
            if not before:
                self._pace.check()
            if self._dry and not await self._bytes_come(end):
                if self._loop.time() >= end:
                    return 0
                continue
            self._dry = False
            slow = self._gather_time > GATHER_TIMES[0]
            most = min(limit, self.left, GATHER_SIZE if slow else QUANTUM)
            if self._stopped():
                if self._last_taken:
                    return 0
                self._last_taken = True
                most = min(most, BUFFER)
            last = most == limit
            # What takes microseconds is cheaper one after the other.
            pool = threads.small if slow else threads.pumping
            count = await pool.run(self._take, writer, most, last, hashers, before)
            before = ()
            if count:
                self._pace.came(count)
                self._adapt(count, patience)
                return count
            if self._end is not None:
                raise self._end
            self._idle = True
        raise EOFError("nothing is left")

    async def _bytes_come(self, end: float) -> bool:
        """Wait for so many that they are worth a thread, until the time ``end``: whether it is
        worth to look."""
        if self._idle and not await self._wait(1, min(end, self._judged_at())):
            return False
        gathered_at = self._loop.time() + self._gather_time * random.uniform(1 - SPREAD, 1)
        await self._wait(min(self.left, GATHER_SIZE), min(gathered_at, end))
        return True

    def _judged_at(self) -> float:
        patience = self._pace.patience
        return math.inf if patience is None else self._loop.time() + patience

    def _adapt(self, count: int, patience: float) -> None:
        self._idle = False
        least, most = GATHER_TIMES
        slow = count < GATHER_SIZE // 4
        longest = max(least, min(most, GATHER_SHARE * patience))
        self._gather_time = min(2 * self._gather_time, longest) if slow else least

    async def _wait(self, watermark: int, end: float) -> bool:
        """Wait until so many bytes have come, the other side has ended, or ``wake``: whether it
        was before ``end``."""
        if self._stopped():
            return True
        self._set_watermark(watermark)
        begun = self._loop.time()
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self._connection, self._wake, True)
        timer = self._loop.call_at(end, self._wake, False)
        try:
            return await self._waiter
        finally:
            self._waiter = None
            self._pace.waited(self._loop.time() - begun)
            timer.cancel()
            self._loop.remove_reader(self._connection)

    def _wake(self, in_time: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(in_time)

    def _set_watermark(self, size: int) -> None:
        if size != self._watermark:
            self._watermark = size
            with suppress(OSError):  # then the loop wakes us for each byte
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _take(
        self,
        writer: Writer,
        most: int,
        last: bool,
        hashers: Mapping[str, Hasher],
        before: Sequence[bytes],
    ) -> int:
        """In a thread: all that is there, ``most`` bytes at most; if ``last``, nothing will follow
        these. Ends early when stopped."""
        hashing = Hashing(hashers)
        buffers = _buffers(2 if hashers else 1)
        try:
            if before:
                hashing.feed(before)
                writer.write(before, last=False)
            taken = 0
            for buffer in cycle(buffers):
                count = self._receive(buffer, min(len(buffer), most - taken))
                if not count:
                    break
                taken += count
                pieces = (buffer[:count],)
                hashing.feed(pieces)
                writer.write(pieces, last=not self.left or (last and taken == most))
                if taken == most or self._stopped():
                    break
        finally:
            hashing.wait()
        return taken

    def _receive(self, buffer: memoryview, size: int) -> int:
        try:
            count = self._connection.recv_into(buffer, size)
        except BlockingIOError:
            self._dry = True
            return 0
        except OSError as error:
            self._end = EOFError(str(error))
            return 0
        if not count:
            self._end = EOFError("the other side has ended")
        self.taken += count
        self.left -= count
        return count


def _buffers(count: int) -> list[memoryview]:
    """This thread's own, in so many parts."""
    try:
        buffer: memoryview = _own.buffer
    except AttributeError:
        buffer = _own.buffer = memoryview(bytearray(BUFFER))
    size = BUFFER // count
    return [buffer[begin : begin + size] for begin in range(0, BUFFER, size)]
