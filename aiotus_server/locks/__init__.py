"""One writer per upload: lockers, and the lock that they give."""

from .base import Declined, Lock, Locker, Purpose
from .file import FileLocker
from .memory import MemoryLocker

__all__ = ["Declined", "FileLocker", "Lock", "Locker", "MemoryLocker", "Purpose"]
