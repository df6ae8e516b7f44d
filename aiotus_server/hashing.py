"""Hashing beside receiving and writing: for bytes that come faster than one thread does both.

Blocking: for threads. hashlib's functions release the GIL, so that two cores are used.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .body import feed
from .threads import anywhere

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .protocol.checksum import Hasher

# A piece that takes less than this is hashed before it could have been handed over.
WORTH_IT = 0.00015  # seconds
# Only pieces of such a size tell how fast an algorithm is.
TELLING = 64 * 1024  # bytes

# By the name of the algorithm: whether it has been seen to take so long.
slow: dict[str, bool] = {}


class Hashing:
    """Feeds ``hashers`` with pieces, in their order, one piece behind.

    A piece must stay as it is until the next call returns. ``wait`` must be the last one.
    """

    def __init__(self, hashers: Mapping[str, Hasher]) -> None:
        self._hashers = hashers
        self._pending = False
        self._done = threading.Lock()  # held until what is pending has been hashed
        self._done.acquire()
        self._error: BaseException | None = None

    def feed(self, pieces: Sequence[bytes | memoryview]) -> None:
        self.wait()
        if not self._hashers:
            return
        if any(slow.get(name) for name in self._hashers):
            self._pending = True
            _others().put((self, pieces))
        else:
            begun = time.perf_counter()
            feed(self._hashers, pieces)
            if sum(map(len, pieces)) >= TELLING:
                self._learn(time.perf_counter() - begun)

    def wait(self) -> None:
        """Until all that was given has been hashed."""
        if not self._pending:
            return
        self._done.acquire()
        self._pending = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def work(self, pieces: Sequence[bytes | memoryview]) -> None:
        """In another thread."""
        try:
            feed(self._hashers, pieces)
        except BaseException as error:
            self._error = error
        self._done.release()

    def _learn(self, seconds: float) -> None:
        for name in self._hashers:
            slow[name] = seconds > WORTH_IT


@cache
def _others() -> SimpleQueue[tuple[Hashing, Sequence[bytes | memoryview]]]:
    """What is put there is hashed by one thread for each core."""
    queue: SimpleQueue[tuple[Hashing, Sequence[bytes | memoryview]]] = SimpleQueue()
    for number in range(os.cpu_count() or 1):
        threading.Thread(
            target=_work, args=(queue,), name=f"tus-hash-{number}", daemon=True
        ).start()
    return queue


def _work(queue: SimpleQueue[tuple[Hashing, Sequence[bytes | memoryview]]]) -> None:
    anywhere()
    while True:
        hashing, pieces = queue.get()
        hashing.work(pieces)
        del hashing, pieces  # not to be kept alive until the next


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_others.cache_clear)
