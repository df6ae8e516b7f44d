"""The socket below a connection, for those who read from it or write to it past aiohttp."""

from __future__ import annotations

import socket
from typing import Any

# The transports of which it is known that they have a plain socket, and leave it to others
# while they are paused or have nothing to write.
PLAIN_TRANSPORTS = {
    ("asyncio.selector_events", "_SelectorSocketTransport"),
    ("uvloop.loop", "TCPTransport"),
    ("uvloop.loop", "UnixTransport"),
}


def duplicate(transport: Any) -> socket.socket | None:
    """A non-blocking socket on the same connection; None where there is no plain one. Close it."""
    kind = type(transport)
    if (kind.__module__, kind.__name__) not in PLAIN_TRANSPORTS or transport.is_closing():
        return None
    own = transport.get_extra_info("socket")
    other = socket.fromfd(own.fileno(), own.family, own.type)
    other.setblocking(False)
    return other
