"""The one room that knows aiohttp's private names.

aiohttp reads request trailers and throws them away, tells nobody when it shuts down, and reads
refused bodies for ten seconds. ``TusRequestHandler`` mends that for our requests; all others
take aiohttp's own way. ``install`` makes it the class that aiohttp's ``Server`` creates. On an
aiohttp that was not tested nothing is installed: then ``checksum-trailer`` is not offered, a
stop waits for aiohttp's own time limit, and all the rest works.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web, web_protocol, web_server
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from .body import Source
from .protocol.chunked import ChunkedDecoder, ChunkedError
from .protocol.errors import (
    BodyCutShort,
    BodyMalformed,
    BodyTimedOut,
    ServerStopping,
    TusError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http_parser import RawRequestMessage

    from .protocol.checksum import Checksum

TESTED = {(3, 14)}  # minor releases whose private names are known to mean what we think

# The unread rest of a refused body is read and dropped, so that the answer is not lost in a
# reset: this much of it, for this long.
DRAIN_SIZE = 64 * 1024 * 1024  # bytes
DRAIN_TIME = 5.0  # seconds
SHORT_DRAIN_TIME = 0.5  # seconds, when the server stops or the client has fallen silent
# With less than this left, the connection is worth keeping.
KEEP_SIZE = 1024 * 1024  # bytes

Feed = tuple[Any, bool, bytes]


class TrailerStream(StreamReader):
    """A request's body that we decode ourselves; at its end it has the trailer fields."""

    __slots__ = ("trailers",)

    def __init__(self, protocol: Any, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol, limit, loop=loop)
        self.trailers: list[tuple[str, str]] = []


class TrailerParser:
    """aiohttp's request parser, but for the chunked bodies of tus requests.

    The parser is given one message at a time: a head, then its body, never a byte more. The
    body of a tus request in chunks is decoded here, and the parser is told that it was empty.
    So it is always between two messages when the next head comes.
    """

    def __init__(self, parser: Any, handler: TusRequestHandler) -> None:
        self._parser = parser
        self._handler = handler
        self._next: Callable[[bytes], tuple[Any, bytes]] = self._feed_head
        self._pending = b""  # not given to anybody yet
        self._behind = b""  # the last bytes of a head, in case its end is split
        self._in_flight = 0  # messages that aiohttp has not begun with
        self._upgraded = False
        # Of a body that aiohttp's parser takes:
        self._payload: StreamReader | None = None
        self._left = 0  # bytes, by its Content-Length
        self._ruler: ChunkedDecoder | None = None  # measures it, if it is in chunks
        # Of a body that is decoded here:
        self._decoder: ChunkedDecoder | None = None
        self._stream: TrailerStream | None = None
        self._paused = False

    # What aiohttp asks of its parser

    def message_consumed(self) -> None:
        self._in_flight = max(0, self._in_flight - 1)  # errors are consumed too
        self._parser.message_consumed()

    def pause_reading(self) -> None:
        if self._stream is not None:
            self._paused = True
        else:
            self._parser.pause_reading()

    def set_upgraded(self, value: bool) -> None:
        self._upgraded = value
        self._parser.set_upgraded(value)

    def feed_data(self, data: bytes) -> Feed:
        """Without ``data``: what had been held back, here or in the parser, may go on."""
        messages: list[Any] = []
        resumed = not data
        if resumed:
            self._paused = False
        data, self._pending = self._pending + data, b""
        while resumed or (data and not self._held_back()):
            resumed = False
            emitted, data = self._next(data)
            messages += emitted
            if self._upgraded:
                return messages, True, data
        self._pending = data
        return messages, False, b""

    def flush(self) -> None:
        """The connection is gone: what has come in chunks belongs to the body, room or not."""
        if self._decoder is not None:
            data, self._pending = self._pending, b""
            self._decode(data, heed_pause=False)

    def _held_back(self) -> bool:
        if self._payload is not None and self._whole_body_fed():
            return True  # the parser has not given all of it out yet
        return self._paused or self._in_flight >= web_protocol.MAX_MSG_QUEUE_SIZE

    # What may come next. Each takes some bytes, and gives messages and the bytes left.

    def _feed_head(self, data: bytes) -> tuple[Any, bytes]:
        if self._in_flight >= web_protocol.MAX_MSG_QUEUE_SIZE:
            return (), data
        window = self._behind + data
        end = window.find(b"\r\n\r\n")
        if end == -1:
            self._behind = window[-3:]
            return self._feed(data)
        end += 4 - len(self._behind)
        self._behind = b""
        messages, tail = self._feed(data[:end])
        if messages and not self._upgraded:
            message, payload = messages[-1]
            messages = [*messages[:-1], (message, self._expect_body_of(message, payload))]
        return messages, tail + data[end:]

    def _expect_body_of(self, message: RawRequestMessage, payload: StreamReader) -> StreamReader:
        """The stream in which the body will be."""
        if message.chunked and _may_have_our_trailer(message):
            self._decoder = ChunkedDecoder()
            self._stream = self._handler.new_trailer_stream()
            self._next = self._feed_decoder
            return self._stream
        if not payload.is_eof():
            self._payload = payload
            self._ruler = ChunkedDecoder() if message.chunked else None
            self._left = int(message.headers.get("Content-Length", "0"))
            self._next = self._feed_body
        return payload

    def _feed_body(self, data: bytes) -> tuple[Any, bytes]:
        size = self._size_of_body_in(data)
        messages, tail = self._feed(data if size == len(data) else data[:size])
        assert self._payload is not None
        if self._next == self._feed_body and self._whole_body_fed() and self._payload.is_eof():
            self._payload = self._ruler = None
            self._next = self._feed_head
        return messages, tail + data[size:]

    def _size_of_body_in(self, data: bytes) -> int:
        if self._whole_body_fed():
            return 0
        if self._ruler is None:
            size = min(self._left, len(data))
            self._left -= size
            return size
        try:
            for _ in self._ruler.feed(data):
                pass
        except ChunkedError:
            # The parser will not like it either. If it does, it is on its own from here on.
            self._payload = self._ruler = None
            self._next = self._feed_blindly
            return len(data)
        return len(data) - len(self._ruler.rest)

    def _whole_body_fed(self) -> bool:
        return self._ruler.done if self._ruler is not None else not self._left

    def _feed_decoder(self, data: bytes) -> tuple[Any, bytes]:
        return (), self._decode(data, heed_pause=True)

    def _feed_blindly(self, data: bytes) -> tuple[Any, bytes]:
        return self._feed(data)

    def _feed_nobody(self, data: bytes) -> tuple[Any, bytes]:
        return (), b""

    def _feed(self, data: bytes) -> tuple[Any, bytes]:
        """Messages, and what the parser leaves to an upgraded connection."""
        try:
            messages, self._upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError:
            self._next = self._feed_nobody
            raise
        self._in_flight += len(messages)
        return messages, tail

    def _decode(self, data: bytes, *, heed_pause: bool) -> bytes:
        assert self._decoder is not None
        assert self._stream is not None
        try:
            for piece in self._decoder.feed(data):
                self._stream.feed_data(piece)
                if self._paused and heed_pause:
                    return b""
        except ChunkedError as error:
            self._stream.set_exception(RequestPayloadError(str(error)))
            self._decoder = self._stream = None
            self._next = self._feed_nobody
            return b""
        if not self._decoder.done:
            return b""
        decoder, stream = self._decoder, self._stream
        self._decoder = self._stream = None
        self._next = self._feed_head
        stream.trailers = decoder.trailers
        self._feed(b"0\r\n\r\n")
        stream.feed_eof()
        return decoder.rest


def _may_have_our_trailer(message: RawRequestMessage) -> bool:
    return "Tus-Resumable" in message.headers or "Trailer" in message.headers


class TusRequestHandler(RequestHandler):
    """aiohttp's connection, which keeps trailers and can be asked to stop."""

    __slots__ = ("_draining", "_stopping", "tus_source")

    def __init__(self, manager: Any, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.tus_source: RequestSource | None = None
        self._stopping = False
        self._draining: asyncio.Timeout | None = None
        self._parser: Any = TrailerParser(self._parser, self)

    def new_trailer_stream(self) -> TrailerStream:
        return TrailerStream(self, self._read_bufsize, self._loop)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._parser is not None:
            self._parser.flush()
        super().connection_lost(exc)

    def close(self) -> None:
        """aiohttp shuts down: bodies end now, not when its time limit is over."""
        super().close()
        self._stopping = True
        if self.tus_source is not None:
            self.tus_source.interrupt(ServerStopping())
        if self._draining is not None:
            self._draining.reschedule(self._loop.time() + SHORT_DRAIN_TIME)

    def adopt(self, source: RequestSource) -> None:
        """The request in hand has a body, and this is its source."""
        self.tus_source = source
        if self._stopping:
            source.interrupt(ServerStopping())

    async def finish_response(self, request: Any, resp: Any, start_time: float | None) -> Any:
        source, self.tus_source = self.tus_source, None
        payload = request.content
        if payload.is_eof():
            return await super().finish_response(request, resp, start_time)
        if isinstance(resp, web.StreamResponse) and self._is_hopeless(request, source):
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        if not finished[1] and not finished[0].keep_alive:
            late = self._stopping or (source is not None and source.silent)
            await self._drain(payload, SHORT_DRAIN_TIME if late else DRAIN_TIME)
            self.force_close()
        return finished

    def _is_hopeless(self, request: Any, source: RequestSource | None) -> bool:
        """Whether the rest of the body is too much to read, or may never come."""
        payload = request.content
        if payload.exception() is not None or self._stopping or (source and source.gave_up):
            return True
        if expects_continue(request) and not (source and source.continued):
            return True
        length = request.content_length
        return length is None or length - payload.total_bytes > KEEP_SIZE

    async def _drain(self, payload: StreamReader, seconds: float) -> None:
        """Answering and closing at once would lose the answer: bytes that nobody has read make
        the kernel send a reset, and that empties what the client has not read yet."""
        transport = self.transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        end = payload.total_bytes + DRAIN_SIZE
        try:
            async with asyncio.timeout(seconds) as self._draining:
                while not payload.is_eof() and payload.total_bytes < end:
                    await payload.readany()
        except Exception:
            pass  # gone or late: there is nothing left to save
        finally:
            self._draining = None


class RequestSource(Source):
    """The body of an aiohttp request."""

    def __init__(
        self,
        request: web.Request,
        *,
        read_timeout: float,
        parse_trailers: Callable[[list[tuple[str, str]]], Checksum | None],
    ) -> None:
        self.length = body_length(request)
        self.continued = not expects_continue(request)
        self.gave_up = False  # before the end
        self.silent = False  # because nothing came
        self._request = request
        self._content = request.content
        self._read_timeout = read_timeout
        self._parse_trailers = parse_trailers
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._waiting: asyncio.Timeout | None = None
        if isinstance(request.protocol, TusRequestHandler):
            request.protocol.adopt(self)

    async def read(self, patience: float | None = None) -> bytes | None:
        try:
            return await self._read(patience)
        except TusError as error:
            self.gave_up = True
            self.silent = isinstance(error, BodyTimedOut)
            raise

    async def _read(self, patience: float | None) -> bytes | None:
        if data := self._arrived():
            return data
        if self.interrupted is not None:
            raise self.interrupted
        if self._content.at_eof():
            return b""
        await self._continue()
        left = self._heard + self._read_timeout - self._loop.time()
        try:
            async with asyncio.timeout(
                left if patience is None else min(left, patience)
            ) as waiting:
                self._waiting = waiting
                data = await self._content.readany()
        except TimeoutError:
            return self._silence()
        except Exception as error:
            return self._failed(error)
        finally:
            self._waiting = None
        self._heard = self._loop.time()
        return data

    def read_whole(self) -> list[bytes] | None:
        if not self._content.is_eof():
            return None
        data = self._arrived()
        return [data] if data else []

    def interrupt(self, error: TusError) -> None:
        super().interrupt(error)
        if self._waiting is not None:
            self._waiting.reschedule(self._loop.time())

    def trailing_checksum(self) -> Checksum | None:
        if not isinstance(self._content, TrailerStream):
            return None
        return self._parse_trailers(self._content.trailers)

    def _arrived(self) -> bytes:
        """What is buffered. When the client has gone, aiohttp would raise instead."""
        if self._content.exception() is None:
            data = self._content.read_nowait()
        else:
            data = _salvage(self._content)
        if data:
            self._heard = self._loop.time()
        return data

    def _silence(self) -> bytes | None:
        if data := self._arrived():
            return data
        if self.interrupted is not None:
            raise self.interrupted
        if self._loop.time() >= self._heard + self._read_timeout:
            raise BodyTimedOut
        return None

    def _failed(self, error: Exception) -> bytes:
        if data := self._arrived():
            return data
        if isinstance(error, (RequestPayloadError, HttpProcessingError)):
            raise BodyMalformed from error
        raise BodyCutShort from error

    async def _continue(self) -> None:
        """ "100 Continue" goes out when the body is wanted: all checks have passed."""
        if not self.continued:
            self.continued = True
            writer = self._request.writer
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            writer.output_size = 0  # it is not of the response


def _salvage(stream: StreamReader) -> bytes:
    pieces = list(stream._buffer)
    if pieces and stream._buffer_offset:
        pieces[0] = pieces[0][stream._buffer_offset :]
    stream._buffer.clear()
    stream._buffer_offset = 0
    return b"".join(pieces)


def body_length(request: web.BaseRequest) -> int | None:
    """Bytes of the body, None when it comes in chunks."""
    if "Transfer-Encoding" in request.headers:
        return None
    return request.content_length or 0


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
    if expects_continue(request) and not request.content.is_eof():
        response.force_close()


def drop(request: web.BaseRequest) -> None:
    """Close the connection without an answer."""
    request.protocol.force_close()


def usable() -> bool:
    """Whether this aiohttp is one that was tested, and has the names that we need."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])
    return version in TESTED and not missing_names()


def missing_names() -> list[str]:
    needed = [
        (RequestHandler, ("_read_bufsize", "finish_response", "close", "force_close")),
        (RequestHandler, ("_parser", "_loop", "transport", "connection_lost")),
        (StreamReader, ("_buffer", "_buffer_offset", "total_bytes", "feed_data", "feed_eof")),
        (web_server, ("RequestHandler",)),
        (web_protocol, ("MAX_MSG_QUEUE_SIZE",)),
    ]
    return [name for owner, names in needed for name in names if not hasattr(owner, name)]


def install() -> bool:
    """Make ``TusRequestHandler`` the class that aiohttp's servers create from now on.

    Whether it is. Doing it twice does no harm; if somebody else has put a class of theirs
    there, it is left alone.
    """
    module: Any = web_server
    if usable() and module.RequestHandler is RequestHandler:
        module.RequestHandler = TusRequestHandler
    return module.RequestHandler is TusRequestHandler
