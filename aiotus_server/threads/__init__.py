"""Threads for file operations, so that the event loop never waits for a disk.

A hop to a thread costs more than the small file operations themselves: what belongs together
goes into one function and one hop. Results come back to the loop in batches.
"""

from __future__ import annotations

import os

from .lane import Lane
from .pool import Threads, anywhere, everywhere


def pin(core: int) -> None:
    """Keep this thread, the event loop's, and those of small operations on one core, where the
    GIL passes between them at less cost. The other threads may run on any. Call it before the
    first use of any. Does nothing where threads cannot be bound to cores.
    """
    if hasattr(os, "sched_setaffinity"):
        if not everywhere:
            everywhere.update(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})


# What takes microseconds: opening, reading an info file, writing a small body, or what a slow
# connection has brought.
small = Lane(4, "tus-small")
# What takes up to milliseconds: reading and writing pieces, hashing.
quick = Threads(4, "tus-quick", with_loop=True)
# What moves the bytes of large bodies. It hardly needs the GIL, and shares itself out.
pumping = Threads(max(4, 2 * (os.cpu_count() or 1)), "tus-pump")
# What waits for the disk itself. Many at a time cost it hardly more than one.
syncing = Threads(16, "tus-sync")
# What may take seconds: concatenation, sweeping, copying to another file system.
slow = Threads(4, "tus-slow")

__all__ = ["Lane", "Threads", "anywhere", "pin", "pumping", "quick", "slow", "small", "syncing"]
