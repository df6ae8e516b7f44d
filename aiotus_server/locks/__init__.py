"""One writer per upload: lockers, and the lock that they give."""

from .base import Declined, Lock, Locker, Purpose
from .memory import MemoryLocker

__all__ = ["Declined", "Lock", "Locker", "MemoryLocker", "Purpose"]
