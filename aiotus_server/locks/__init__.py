"""One writer per upload: lockers, and the lock that they give."""

from .base import Lock, Locker, Purpose
from .memory import MemoryLocker

__all__ = ["Lock", "Locker", "MemoryLocker", "Purpose"]
