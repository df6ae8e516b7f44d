"""Requests to the server: each ends with an answer, or breaks."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from .http import Connection, Cut, Lost, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .tally import Tally

PIECE = 256 * 1024  # bytes handed to the kernel at once
LAST_CHUNK = b"0\r\n%b\r\n"  # with the trailer
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Body:
    """``length`` bytes in ``pieces``, to be cut after ``cut_at`` of them if ``cut`` says how.

    ``trailer`` has the lines that come behind a body in chunks.
    """

    length: int
    pieces: Iterable[bytes | memoryview]
    cut: Cut | None = None
    cut_at: int = 0
    trailer: bytes = b""


@dataclass(frozen=True, slots=True)
class Broken:
    """No answer: cut by us, lost, or waited for too long. The server may have got ``sent`` bytes
    of the body."""

    why: str
    sent: int = 0
    cut: Cut | None = None
    silent: Connection | None = None  # still open; whoever gets this closes it


class Pace:
    """At most ``rate`` bytes a second."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._begun = time.monotonic()
        self._sent = 0
        self.piece = min(PIECE, max(1, rate // 20)) if rate else PIECE

    async def after(self, size: int) -> None:
        if self._rate:
            self._sent += size
            await asyncio.sleep(self._begun + self._sent / self._rate - time.monotonic())


class Client:
    """Keeps connections open between requests, and counts what it sees in ``tally``."""

    def __init__(
        self,
        tally: Tally,
        *,
        timeout: float = 30.0,
        rate: int | None = None,
        headers: Mapping[str, str] | None = None,
        verify_tls: bool = True,
        chunked: bool = False,
    ) -> None:
        self.tally = tally
        self.timeout = timeout
        self.rate = rate
        self._headers = {"Tus-Resumable": "1.0.0", **(headers or {})}
        self._chunked = chunked
        self._idle: dict[tuple[str, str], list[Connection]] = {}
        self._verify_tls = verify_tls

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] = NO_HEADERS,
        body: Body | None = None,
        *,
        sink: Callable[[bytes], None] | None = None,
    ) -> Reply | Broken:
        """``sink`` gets the body of a 2xx in pieces; it must not raise."""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connection(parts)
        except (OSError, TimeoutError) as error:
            return self._broke("lost", f"no connection: {error}", 0)
        outcome = None
        try:
            connection.begin(method, self._head(method, parts, headers, body), sink)
            outcome = await self._exchange(connection, body)
        finally:
            if connection.usable:
                self._idle[parts.scheme, parts.netloc].append(connection)
            elif not (isinstance(outcome, Broken) and outcome.cut):
                connection.close()
        if isinstance(outcome, Reply):
            self.tally.statuses[outcome.status] += 1
        return outcome

    def close(self) -> None:
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    async def _exchange(self, connection: Connection, body: Body | None) -> Reply | Broken:
        sent = _Sent()
        try:
            went = body is not None and await self._send(connection, body, sent)
            if went and body is not None and body.cut is not None:
                return self._cut(connection, body.cut, sent.bytes)
            return await self._reply(connection, sent.bytes)
        except TimeoutError:
            return self._broke("timeouts", f"no answer in {self.timeout} s", sent.bytes)
        except Lost as error:
            return self._broke("lost", str(error), sent.bytes)
        finally:
            self.tally.counts["sent"] += sent.bytes
            if body is not None and sent.bytes < body.length:
                connection.reusable = False

    async def _reply(self, connection: Connection, sent: int) -> Reply:
        """Its body may take as long as it likes, but not be silent."""
        while True:
            received = connection.received
            try:
                async with asyncio.timeout(self.timeout):
                    return await connection.reply(sent)
            except TimeoutError:
                if connection.received == received:
                    raise

    async def _send(self, connection: Connection, body: Body, sent: _Sent) -> bool:
        """All of the body, or as much as is to be sent. Whether no answer came before the end."""
        pace = Pace(self.rate)
        end = body.length if body.cut is None else body.cut_at
        for piece in _split(body.pieces, pace.piece, end):
            # From here on some of it may have gone out.
            sent.bytes += len(piece)
            async with asyncio.timeout(self.timeout):
                if not await connection.send(self._coded(piece)):
                    return False
            await pace.after(len(piece))
        if not self._chunked or body.cut is not None:
            return True
        return await connection.send(LAST_CHUNK % body.trailer)

    def _coded(self, piece: memoryview) -> bytes | memoryview:
        return b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if self._chunked else piece

    def _cut(self, connection: Connection, how: Cut, sent: int) -> Broken:
        self.tally.counts[f"cut {how.value}"] += 1
        connection.cut(how)
        silent = connection if how is Cut.SILENT else None
        return Broken("cut", sent, how, silent)

    def _broke(self, count: str, why: str, sent: int) -> Broken:
        self.tally.counts[count] += 1
        return Broken(why, sent)

    def _head(
        self, method: str, parts: SplitResult, headers: Mapping[str, str], body: Body | None
    ) -> bytes:
        fields = {"Host": parts.netloc.rpartition("@")[2], **self._headers}
        if body is not None and self._chunked:
            fields["Transfer-Encoding"] = "chunked"
        elif body is not None or method in ("POST", "PATCH"):
            fields["Content-Length"] = str(body.length if body else 0)
        fields.update(headers)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _connection(self, parts: SplitResult) -> Connection:
        idle = self._idle.setdefault((parts.scheme, parts.netloc), [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return await self.connect(parts)

    async def connect(self, parts: SplitResult) -> Connection:
        """A new one, which the caller closes. Raises OSError."""
        secure = parts.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection,
            parts.hostname or "",
            parts.port or (443 if secure else 80),
            ssl=_tls(verify=self._verify_tls) if secure else None,
        )
        return connection


@cache
def _tls(*, verify: bool) -> ssl.SSLContext:
    """Takes 20 ms to make."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(slots=True)
class _Sent:
    """Bytes of a body that may have gone out."""

    bytes: int = 0


def _split(pieces: Iterable[bytes | memoryview], size: int, end: int) -> Iterable[memoryview]:
    """``pieces`` up to ``end`` bytes in all, each no longer than ``size``."""
    left = end
    for piece in pieces:
        view = memoryview(piece)[:left]
        for at in range(0, len(view), size):
            yield view[at : at + size]
        left -= len(view)
        if not left:
            return
