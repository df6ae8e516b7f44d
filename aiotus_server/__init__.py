"""Resumable uploads for aiohttp: a server component for the tus protocol 1.0.0.

from aiohttp import web
from aiotus_server import DiskStore, tus_routes

app = web.Application()
app.add_routes(tus_routes(DiskStore("uploads")))
web.run_app(app)
"""

from .cors import Cors
from .hooks import (
    AuthorizeEvent,
    CreatedEvent,
    CreateEvent,
    FinishEvent,
    HookEvent,
    Hooks,
    InterruptedEvent,
)
from .ids import random_id
from .locks import FileLocker, Lock, Locker, MemoryLocker, Purpose
from .options import Expiry, Options
from .protocol.checksum import register as register_checksum
from .protocol.errors import Refuse, TusError
from .protocol.uploads import Final, Partial, Upload
from .routes import TusRoutes, setup, tus_routes
from .stores import DiskStore, Durability, MemoryStore
from .sweeper import sweep

__version__ = "0.1.0"

__all__ = [
    "AuthorizeEvent",
    "Cors",
    "CreateEvent",
    "CreatedEvent",
    "DiskStore",
    "Durability",
    "Expiry",
    "FileLocker",
    "Final",
    "FinishEvent",
    "HookEvent",
    "Hooks",
    "InterruptedEvent",
    "Lock",
    "Locker",
    "MemoryLocker",
    "MemoryStore",
    "Options",
    "Partial",
    "Purpose",
    "Refuse",
    "TusError",
    "TusRoutes",
    "Upload",
    "random_id",
    "register_checksum",
    "setup",
    "sweep",
    "tus_routes",
]
