"""Bytes from a file to the client inside the kernel, under any event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from .. import threads
from .sockets import duplicate

if TYPE_CHECKING:
    import socket

    from aiohttp import web

# Then a thread takes up something else.
QUANTUM = 64 * 1024 * 1024  # bytes


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
    with connection:
        transport.set_write_buffer_limits(0)
        try:
            writer.send_headers()
            await _until_written(request.protocol, transport)
            await _send(connection, fd, start, stop)
        finally:
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


async def _send(connection: socket.socket, fd: int, start: int, stop: int) -> None:
    while start < stop:
        start += await threads.pumping.run(_send_some, connection, fd, start, stop)
        if start < stop:
            await _writable(connection)


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


async def _writable(connection: socket.socket) -> None:
    """Until there is room, or the client has gone."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, _wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_writer(connection)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
