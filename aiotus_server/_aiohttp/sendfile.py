"""Bytes from a file to the client inside the kernel, under any event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from .. import threads
from .connection import TusRequestHandler
from .sockets import duplicate

if TYPE_CHECKING:
    import socket

    from aiohttp import web

# Then a thread takes up something else.
QUANTUM = 64 * 1024 * 1024  # bytes
# When the server stops, a client that takes no byte for so long is not waited for.
STALL = 1.0  # seconds


async def send_file(
    request: web.BaseRequest, response: web.StreamResponse, fd: int, start: int, stop: int
) -> bool:
    """Send the bytes of ``fd`` from ``start`` to ``stop`` behind the head of ``response``, which
    is prepared and has a Content-Length.

    False, and nothing was sent, where that cannot be done. Raises ConnectionError when the
    client has gone, EOFError when the file is too short; then the connection is of no use.
    """
    transport, writer = request.transport, request.writer
    if response.compression or response.chunked or not hasattr(os, "sendfile"):
        return False
    connection = duplicate(transport) if transport is not None else None
    if transport is None or connection is None:
        return False
    sender = Sender(connection)
    if isinstance(request.protocol, TusRequestHandler):
        request.protocol.send_by(sender)
    transport.set_write_buffer_limits(0)
    try:
        writer.send_headers()
        await _until_written(request.protocol, transport)
        await sender.send(fd, start, stop)
    finally:
        connection.close()
        if not transport.is_closing():
            transport.set_write_buffer_limits()
    writer.output_size += stop - start
    return True


async def _until_written(protocol: Any, transport: asyncio.WriteTransport) -> None:
    """Until the transport has nothing left to write, so that what we write comes behind it."""
    while transport.get_write_buffer_size():
        if protocol.writing_paused:
            await protocol._drain_helper()
        else:
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
    if transport.is_closing():
        raise ConnectionResetError


class Sender:
    """Sends bytes of files on a non-blocking socket to which nobody else writes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._waiting: asyncio.Timeout | None = None

    def stop(self) -> None:
        """The server stops: from now on a client that takes nothing for STALL is left."""
        self._stopping = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._loop.time() + STALL)

    async def send(self, fd: int, start: int, stop: int) -> None:
        while start < stop:
            start += await threads.pumping.run(_send_some, self._connection, fd, start, stop)
            if start < stop:
                await self._room()

    async def _room(self) -> None:
        """Until there is room, or the client has gone."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._connection, _wake, waiter)
        try:
            async with asyncio.timeout(STALL if self._stopping else None) as self._waiting:
                await waiter
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from None
        finally:
            self._waiting = None
            self._loop.remove_writer(self._connection)


def _send_some(connection: socket.socket, fd: int, start: int, stop: int) -> int:
    """In a thread: the number of bytes that the connection took."""
    offset, end = start, min(stop, start + QUANTUM)
    while offset < end:
        try:
            sent = os.sendfile(connection.fileno(), fd, offset, end - offset)
        except BlockingIOError:
            break
        if not sent:
            raise EOFError("the file is shorter than it was")
        offset += sent
    return offset - start


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
