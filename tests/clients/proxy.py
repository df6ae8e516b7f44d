"""A network that fails at a chosen byte: a TCP proxy on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PIECE = 256 * 1024  # bytes


class Proxy:
    """Passes everything on to ``target_port``, and counts.

    ``sent`` is the number of bytes that clients have had passed on to the server, over all
    connections, heads of requests included. ``url`` is where uploads are created.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.sent = 0
        self.links: list[Link] = []
        self._strike_at: int | None = None
        self._strike: Callable[[Link, bytes], Awaitable[bytes]] | None = None
        self._struck: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/files/"

    # What can go wrong. Each returns a future that is done when it has happened.

    def cut_at(self, sent: int) -> asyncio.Future[None]:
        """When ``sent`` bytes have been passed on, reset every connection on both sides."""

        async def cut(link: Link, rest: bytes) -> bytes:
            for each in self.links:
                each.cut()
            return b""

        return self._arm(sent, cut)

    def hang_at(self, sent: int) -> asyncio.Future[None]:
        """The same, but the server does not learn of it: its side of the connections stays
        open and silent."""

        async def hang(link: Link, rest: bytes) -> bytes:
            for each in self.links:
                each.hang()
            return b""

        return self._arm(sent, hang)

    def corrupt_at(self, sent: int) -> asyncio.Future[None]:
        """Pass the byte behind the first ``sent`` on with one bit turned over."""

        async def corrupt(link: Link, rest: bytes) -> bytes:
            return bytes([rest[0] ^ 1]) + rest[1:]

        return self._arm(sent, corrupt)

    def call_at(self, sent: int, action: Callable[[], Awaitable[None]]) -> asyncio.Future[None]:
        """When ``sent`` bytes have been passed on, await ``action`` before the next."""

        async def call(link: Link, rest: bytes) -> bytes:
            await action()
            return rest

        return self._arm(sent, call)

    def _arm(
        self, sent: int, strike: Callable[[Link, bytes], Awaitable[bytes]]
    ) -> asyncio.Future[None]:
        assert self._strike is None, "one thing at a time"
        self._strike_at, self._strike = sent, strike
        self._struck = asyncio.get_running_loop().create_future()
        return self._struck

    async def passing(self, link: Link, piece: bytes) -> None:
        """Pass ``piece`` on to the server, unless this is the moment."""
        if self._strike_at is None or self.sent + len(piece) <= self._strike_at:
            self.sent += len(piece)
            await link.pass_on(piece)
            return
        strike, struck, room = self._strike, self._struck, self._strike_at - self.sent
        assert strike is not None
        assert struck is not None
        self._strike_at = self._strike = None
        self.sent += room
        await link.pass_on(piece[:room])
        try:
            rest = await strike(link, piece[room:])
        except Exception as error:
            struck.set_exception(error)
            link.cut()
            return
        struck.set_result(None)
        if rest:
            await self.passing(link, rest)

    # Connections

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.target_port, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, (reader, writer), upstream)
        self.links.append(link)
        await link.run()

    async def close(self) -> None:
        for link in self.links:
            link.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One connection through the proxy. ``unheard`` is what the server said after ``hang``."""

    def __init__(self, proxy: Proxy, client: Stream, server: Stream) -> None:
        self.unheard = b""
        self._proxy = proxy
        self._client = client
        self._server = server
        self._broken = False  # nothing more is passed on

    async def run(self) -> None:
        """To the end of the connection."""
        await asyncio.gather(self._upwards(), self._downwards())

    async def pass_on(self, piece: bytes) -> None:
        with suppress(ConnectionError):
            self._server[1].write(piece)
            await self._server[1].drain()

    def cut(self) -> None:
        self.hang()
        _reset(self._server[1])

    def hang(self) -> None:
        self._broken = True
        _reset(self._client[1])

    async def _upwards(self) -> None:
        with suppress(ConnectionError):
            while (piece := await self._client[0].read(PIECE)) and not self._broken:
                await self._proxy.passing(self, piece)
        if not self._broken and not self._server[1].is_closing():
            with suppress(OSError):
                self._server[1].write_eof()

    async def _downwards(self) -> None:
        with suppress(ConnectionError):
            while piece := await self._server[0].read(PIECE):
                if self._broken:
                    self.unheard += piece
                else:
                    self._client[1].write(piece)
                    await self._client[1].drain()
        self._client[1].close()
        self._server[1].close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset instead of an orderly end."""
    with suppress(OSError):  # closed already
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@asynccontextmanager
async def proxying(target_port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target_port)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=PIECE)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
