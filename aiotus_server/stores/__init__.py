"""Where uploads are kept: what a store can do, and the two that come with the package."""

from .base import (
    ChecksumStore,
    ConcatenationStore,
    CreationStore,
    DeferLengthStore,
    ExpirationStore,
    ReadableStore,
    Store,
    TerminationStore,
    extensions_of,
)
from .disk import DiskStore
from .durability import Durability
from .memory import MemoryStore

__all__ = [
    "ChecksumStore",
    "ConcatenationStore",
    "CreationStore",
    "DeferLengthStore",
    "DiskStore",
    "Durability",
    "ExpirationStore",
    "MemoryStore",
    "ReadableStore",
    "Store",
    "TerminationStore",
    "extensions_of",
]
