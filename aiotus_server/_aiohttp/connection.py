"""aiohttp's connection, which keeps trailers, can be asked to stop, and loses no answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web, web_protocol
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from ..protocol.errors import BodyCutShort, ServerStopping
from .parser import TrailerParser, TrailerStream, content_length
from .sockets import duplicate

if TYPE_CHECKING:
    import socket

    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader

    from .sendfile import Sender
    from .source import RequestSource

# The unread rest of a refused body is read and dropped, so that the answer is not lost in a
# reset: this much of it, for this long.
DRAIN_SIZE = 64 * 1024 * 1024  # bytes
DRAIN_TIME = 5.0  # seconds
SHORT_DRAIN_TIME = 0.5  # seconds, when the server stops or the client has fallen silent
# With less than this left, the connection is worth keeping.
KEEP_SIZE = 1024 * 1024  # bytes


class TusRequestHandler(RequestHandler):
    """aiohttp's connection, which keeps trailers and can be asked to stop.

    ``header_timeout``, in seconds, is how long the head of a request may take to come: the
    first from the moment of the connection, the others from their first byte. None is for ever,
    as with aiohttp.
    """

    __slots__ = (
        "_auto_decompress",
        "_draining",
        "_head_timer",
        "_header_timeout",
        "_judging_client",
        "_refused",
        "_sender",
        "_stopping",
        "_taken_over",
        "tus_source",
        "unanswered",
    )

    def __init__(
        self,
        manager: Any,
        *,
        loop: asyncio.AbstractEventLoop,
        header_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self._header_timeout = header_timeout
        self._sender: Sender | None = None
        self._auto_decompress = kwargs.get("auto_decompress", True)
        self._taken_over = False
        self.tus_source: RequestSource | None = None
        self.unanswered: tuple[RawRequestMessage, StreamReader] | None = None  # the last
        self._stopping = False
        self._judging_client = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._draining: asyncio.Timeout | None = None
        self._refused: StreamReader | None = None  # a body that nobody reads
        self._parser: Any = TrailerParser(self._parser, self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head_begun()

    def head_begun(self) -> None:
        """A request's head is awaited, and some of it may have come."""
        if self._header_timeout is not None and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._header_timeout, self._head_is_late)

    def head_came(self) -> None:
        """The whole head."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._waiter is None or self._waiter.done():
            self.head_begun()  # the request before it is still in hand
        else:
            self.force_close()

    def new_trailer_stream(self) -> TrailerStream:
        return TrailerStream(self, self._read_bufsize, self._loop)

    def new_parser(self) -> Any:
        """One like the one that aiohttp has made for this connection."""
        return HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=self._auto_decompress,
            max_msg_queue_size=web_protocol.MAX_MSG_QUEUE_SIZE,
        )

    def take_over(self, stream: StreamReader) -> tuple[socket.socket, list[bytes], int] | None:
        """Stop reading in the middle of a body: a socket on which somebody else may read the
        rest of it, what has come already, and how many bytes are missing.

        None where that cannot be done. ``give_back`` must follow.
        """
        connection = None if self.transport is None else duplicate(self.transport)
        if connection is None:
            return None
        pieces = self._parser.take_over(stream)
        if pieces is None:
            connection.close()
            return None
        self.pause_reading()
        self._taken_over = True
        return connection, pieces, self._parser.left

    def give_back(self, taken: int) -> None:
        """``taken`` bytes of the body have been read; the connection reads on."""
        self._taken_over = False
        if self._parser is not None:
            self._parser.give_back(taken)
            self.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_came()  # or never will
        if self._taken_over and self.tus_source is not None:
            self.tus_source.interrupt(BodyCutShort())
        elif self._parser is not None:
            self._parser.flush()
        super().connection_lost(exc)
        if self._refused is not None:
            self._refused.feed_eof()  # nobody need wait for the rest

    def eof_received(self) -> bool | None:  # type: ignore[override] # asyncio's signature
        """A client that has sent all of its request may close its half, and hear the answer."""
        if not self._owes_answer() or self.ssl_context is not None:
            return super().eof_received()
        super().close()
        return True

    def _owes_answer(self) -> bool:
        """Whether the last request that came is a tus request, whole and not answered. Others
        may count on being told when their client goes."""
        if self.unanswered is None:
            return False
        message, payload = self.unanswered
        return "Tus-Resumable" in message.headers and payload.is_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is the client's fault, and aiohttp's to answer."""
        self._judging_client = status < 500
        try:
            return super().handle_error(request, status, exc, message)
        finally:
            self._judging_client = False

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """No traceback, and no bytes of the client's, for what it had better not sent."""
        if self._judging_client:
            kind = type(kwargs.get("exc_info")).__name__
            self.logger.info("%s: %s", args[0] % args[1:], kind)
        else:
            super().log_exception(*args, **kwargs)

    def close(self) -> None:
        """aiohttp shuts down: bodies end now, not when its time limit is over."""
        super().close()
        self._stopping = True
        if self.tus_source is not None:
            self.tus_source.interrupt(ServerStopping())
        if self._sender is not None:
            self._sender.stop()
        if self._draining is not None and not self._draining.expired():
            self._draining.reschedule(self._loop.time() + SHORT_DRAIN_TIME)

    def adopt(self, source: RequestSource) -> None:
        """The request in hand has a body, and this is its source."""
        self.tus_source = source
        if self._stopping:
            source.interrupt(ServerStopping())

    def send_by(self, sender: Sender) -> None:
        """The answer in hand is sent past aiohttp, by ``sender``."""
        self._sender = sender
        if self._stopping:
            sender.stop()

    async def finish_response(self, request: Any, resp: Any, start_time: float | None) -> Any:
        source, self.tus_source, self._refused = self.tus_source, None, None
        self._sender = None
        if not self._messages:
            self.unanswered = None
        payload = request.content
        if payload.is_eof():
            return await super().finish_response(request, resp, start_time)
        self._refused = payload
        if isinstance(resp, web.StreamResponse) and self._is_hopeless(request, source):
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        if finished[1]:
            return finished
        if finished[0].keep_alive:
            # aiohttp would wait too, but not hear that the server stops.
            await self._take_rest(payload, DRAIN_TIME)
            if payload.is_eof():
                return finished
        else:
            late = self._stopping or (source is not None and source.silent)
            await self._drain(payload, SHORT_DRAIN_TIME if late else DRAIN_TIME)
        self.force_close()
        return finished

    def _is_hopeless(self, request: Any, source: RequestSource | None) -> bool:
        """Whether the rest of the body is too much to read, or may never come."""
        payload = request.content
        if payload.exception() is not None or self._stopping or (source and source.gave_up):
            return True
        if "Content-Encoding" in request.headers:
            return True  # aiohttp would decode it, and trip over what it cannot
        if expects_continue(request) and not (source and source.continued):
            return True
        length = body_length(request)
        return length is None or length - payload.total_bytes > KEEP_SIZE

    async def _drain(self, payload: StreamReader, seconds: float) -> None:
        """Answering and closing at once would lose the answer: bytes that nobody has read make
        the kernel send a reset, and that empties what the client has not read yet."""
        transport = self.transport
        if transport is None:
            return
        if transport.can_write_eof():
            with suppress(OSError):  # a reset that the loop has not seen yet
                transport.write_eof()
        await self._take_rest(payload, seconds)

    async def _take_rest(self, payload: StreamReader, seconds: float) -> None:
        end = payload.total_bytes + DRAIN_SIZE
        try:
            async with asyncio.timeout(seconds) as self._draining:
                while not payload.is_eof() and payload.total_bytes < end:
                    await payload.readany()
        except Exception:
            pass  # gone or late: there is nothing left to save
        finally:
            self._draining = None


def body_length(request: web.BaseRequest) -> int | None:
    """Bytes of the body, None when it comes in chunks."""
    if "Transfer-Encoding" in request.headers:
        return None
    return content_length(request.headers)


def expects_continue(request: web.BaseRequest) -> bool:
    return (
        request.headers.get("Expect", "").lower() == "100-continue"
        and request.version >= aiohttp.HttpVersion11
    )


def reads_trailers(request: web.BaseRequest) -> bool:
    """Whether the connection is one of ours."""
    return isinstance(request.protocol, TusRequestHandler)


def lost_trailer(request: web.BaseRequest) -> bool:
    """Whether aiohttp has parsed this chunked body itself, so that its trailer is gone."""
    return body_length(request) is None and not isinstance(request.content, TrailerStream)


def close_after(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """On connections that are not ours: a body that was not asked for must not be taken for
    the next request."""
    if not request.content.is_eof() and expects_continue(request):
        response.force_close()


def may_cancel(request: web.BaseRequest) -> bool:
    """Whether the host wants handlers cancelled when their client goes, or may, as far as is
    known. When aiohttp's patience is at its end in a shutdown, it cancels whatever still runs."""
    protocol = request.protocol
    if not isinstance(protocol, TusRequestHandler) or protocol._manager is None:
        return True
    return protocol._manager.handler_cancellation


def drop(request: web.BaseRequest) -> None:
    """Close the connection without an answer."""
    request.protocol.force_close()
