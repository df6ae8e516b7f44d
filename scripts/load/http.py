"""As much of HTTP/1.1 as a client needs that wants to break off at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, cast

from aiotus_server.protocol.chunked import ChunkedDecoder, ChunkedError

if TYPE_CHECKING:
    from collections.abc import Callable

BODY_KEPT = 64 * 1024  # bytes of an answer that nobody takes in pieces
LONGEST_HEAD = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """``headers`` by lower-case name; ``sent`` counts the bytes of the body that had gone out."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    sent: int = 0

    @property
    def offset(self) -> int | None:
        text = self.headers.get("upload-offset", "")
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None

    @property
    def says(self) -> str:
        """The status, and the first words of the body."""
        words = self.body[:200].decode(errors="replace").strip()
        return f"{self.status} {words}".strip()


class Cut(Enum):
    """How a connection ends before its time."""

    RST = "rst"
    FIN = "fin"
    SILENT = "silent"  # it stays open, and nothing comes any more


class Lost(Exception):
    """The connection is gone, or what came is not HTTP."""


@dataclass(slots=True)
class _Incoming:
    """One answer on its way. ``sink`` takes the pieces of the body of a 2xx."""

    method: str
    sink: Callable[[bytes], None] | None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    left: int | None = None  # bytes; None: until the connection closes
    decoder: ChunkedDecoder | None = None

    def begin(self, head: bytes) -> None:
        """Raises ValueError if it is not the head of an answer."""
        lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"{lines[0]!r} is not a status line")
        self.status = int(status)
        fields = (line.partition(":") for line in lines[1:])
        self.headers = {name.lower(): value.strip() for name, _, value in fields}
        if version == "HTTP/1.0":
            self.headers.setdefault("connection", "close")
        self._frame()

    def _frame(self) -> None:
        if self.method == "HEAD" or self.status in (204, 304):
            self.left = 0
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self.decoder = ChunkedDecoder()
        elif "content-length" in self.headers:
            self.left = int(self.headers["content-length"])

    def feed(self, data: bytes) -> None:
        """Raises ValueError for more than was announced."""
        if self.decoder is not None:
            for piece in self.decoder.feed(data):
                self._take(piece)
            return
        if self.left is not None:
            if len(data) > self.left:
                raise ValueError("more bytes came than were announced")
            self.left -= len(data)
        self._take(data)

    def _take(self, data: bytes) -> None:
        if self.sink is not None and 200 <= self.status < 300:
            self.sink(data)
        elif len(self.body) < BODY_KEPT:
            self.body += data

    @property
    def whole(self) -> bool:
        return self.decoder.done if self.decoder is not None else self.left == 0

    @property
    def ends_by_closing(self) -> bool:
        return bool(self.status) and self.left is None and self.decoder is None

    @property
    def keeps_alive(self) -> bool:
        closing = self.headers.get("connection", "").lower() == "close"
        return not closing and not self.ends_by_closing


class Connection(asyncio.Protocol):
    """One request at a time: ``begin``, any number of ``send``, ``reply``.

    ``send`` returns when the kernel has taken all bytes, so what was sent before a cut is known
    to the byte.
    """

    def __init__(self) -> None:
        self.reusable = True
        self.received = 0  # bytes, of all answers
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._incoming: _Incoming | None = None
        self._answered = False
        self._lost: str | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # 0 would have asyncio's TLS pause when nothing is left to be written.
        self._transport.set_write_buffer_limits(high=1, low=0)
        connected = self._transport.get_extra_info("socket")
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._receive(data)
        except (ValueError, ChunkedError) as error:
            self._fail(f"what came is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._incoming is not None and self._incoming.ends_by_closing:
            self._answered = True
        self._fail(str(exc) if exc else "closed by the server")

    # What the client calls

    @property
    def usable(self) -> bool:
        """Whether it can take another request: the last one has its whole answer."""
        return self.reusable and self._lost is None and self._incoming is None

    def begin(self, method: str, head: bytes, sink: Callable[[bytes], None] | None) -> None:
        self._incoming = _Incoming(method, sink)
        self._answered = False
        self._head = b""
        self._transport.write(head)

    async def send(self, piece: bytes | memoryview) -> bool:
        """Whether all of it has gone out, and more is welcome: no answer has come already."""
        if self._answered or self._lost is not None:
            return False
        self._transport.write(piece)
        while self._paused and not self._answered and self._lost is None:
            await self._wait()
        return not self._answered and self._lost is None

    async def reply(self, sent: int = 0) -> Reply:
        """Raises Lost."""
        while not self._answered and self._lost is None:
            await self._wait()
        incoming = self._incoming
        if not self._answered or incoming is None:
            raise Lost(self._lost)
        self.reusable = incoming.keeps_alive and not self._paused
        self._incoming = None
        return Reply(incoming.status, incoming.headers, bytes(incoming.body), sent)

    def cut(self, how: Cut) -> None:
        """End it in this way; what ``send`` has sent before stays sent."""
        self.reusable = False
        if how is Cut.RST:
            self._linger_not()
            self._transport.abort()
        elif how is Cut.FIN:
            self._transport.close()

    def close(self) -> None:
        self.reusable = False
        self._transport.abort()

    # Between the two

    def _receive(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None or self._answered:
            raise ValueError("bytes that nobody asked for")
        if not incoming.status:
            self._head += data
            data = self._take_head(incoming)
        if incoming.status:
            incoming.feed(data)
            if incoming.whole:
                self._answered = True
                self._wake()

    def _take_head(self, incoming: _Incoming) -> bytes:
        """What came behind the head; interim answers are dropped."""
        while not incoming.status:
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                if len(head) > LONGEST_HEAD:
                    raise ValueError("the head has no end")
                return b""
            self._head = rest
            if not re.match(rb"HTTP/1\.. 1", head):
                incoming.begin(head)
        return self._head

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        self.reusable = False
        self._transport.abort()
        self._wake()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _linger_not(self) -> None:
        """Closing then sends a reset instead of what is still in the buffer."""
        fd = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
