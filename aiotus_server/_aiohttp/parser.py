"""aiohttp's request parser, with the trailers of tus requests kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web_protocol
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from ..protocol.chunked import ChunkedDecoder, ChunkedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from aiohttp.http_parser import RawRequestMessage

    from .connection import TusRequestHandler

# Of a body so long, the loop reads one piece. The rest stays in the kernel until it is known who
# reads it: most likely a thread.
HOLD_FROM = 1024 * 1024  # bytes

Feed = tuple[Any, bool, bytes]


class TrailerStream(StreamReader):
    """A request's body that we decode ourselves; at its end it has the trailer fields."""

    __slots__ = ("trailers",)

    def __init__(self, protocol: Any, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol, limit, loop=loop)
        self.trailers: list[tuple[str, str]] = []


class TrailerParser:
    """aiohttp's request parser, but for the bodies of tus requests.

    The parser is given one message at a time: a head, then its body, never a byte more. The
    body of a tus request in chunks is decoded here, and the parser is told that it was empty.
    One of a known length that does not come together with its head is passed on here without a
    copy, or taken from the socket by somebody else; a new parser goes on behind it. So the
    parser is always between two messages when the next head comes.
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
        self._ruler: ChunkedDecoder | None = None  # measures it, if it is in chunks
        # Of a body that is decoded or passed on here:
        self._stream: StreamReader | None = None
        self._decoder: ChunkedDecoder | None = None  # if it is in chunks
        self._paused = False
        # Of either:
        self._left = 0  # bytes that have not come, by its Content-Length

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
        """The connection is gone: what has come of a body belongs to it, room or not."""
        if self._stream is None:
            return
        data, self._pending = self._pending, b""
        if self._decoder is not None:
            self._decode(data, heed_pause=False)
        else:
            self._feed_stream(data)

    # For somebody who takes a body from the socket

    def take_over(self, stream: StreamReader) -> list[bytes] | None:
        """What has come of the body in ``stream`` and was not read; the rest is the caller's to
        take from the socket, until ``give_back``. None for a body that is not passed on here.

        Nothing must be fed in between.
        """
        if self._stream is not stream or self._decoder is not None:
            return None
        pieces = take_all(stream)
        size = min(self._left, len(self._pending))
        if size:
            pieces.append(self._pending[:size])
            stream.total_bytes += size
            self._left -= size
            self._pending = self._pending[size:]
        return pieces

    def give_back(self, taken: int) -> None:
        """``taken`` bytes of the body were taken from the socket."""
        assert self._stream is not None
        self._stream.total_bytes += taken
        self._left -= taken
        if not self._left:
            self._end_stream()

    @property
    def left(self) -> int:
        """Bytes of the body that have not come, by its Content-Length."""
        return self._left

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
            self._handler.head_begun()
            return self._feed(data)
        end += 4 - len(self._behind)
        self._behind = b""
        messages, tail = self._feed(data[:end])
        if messages:  # and not only blank lines
            self._handler.head_came()
        if messages and not self._upgraded:
            message, payload = messages[-1]
            stream = self._expect_body_of(message, payload, len(data) - end)
            self._handler.unanswered = (message, stream)
            messages = [*messages[:-1], self._handler.unanswered]
        return messages, tail + data[end:]

    def _expect_body_of(
        self, message: RawRequestMessage, payload: StreamReader, at_hand: int
    ) -> StreamReader:
        """The stream in which the body will be. ``at_hand`` bytes have come behind the head."""
        if message.chunked and _may_have_our_trailer(message):
            self._decoder = ChunkedDecoder()
            self._stream = self._handler.new_trailer_stream()
            self._next = self._feed_decoder
            return self._stream
        if not payload.is_eof():
            self._left = content_length(message.headers)
            if self._left > at_hand and _is_plain_tus(message):
                self._stream = payload
                self._next = self._feed_stream
                if self._left >= HOLD_FROM:
                    hold(payload)
                self._parser = self._handler.new_parser()  # the old one waits for the body
            else:
                self._payload = payload
                self._ruler = ChunkedDecoder() if message.chunked else None
                self._next = self._feed_body
        return payload

    def _feed_stream(self, data: bytes) -> tuple[Any, bytes]:
        assert self._stream is not None
        size = min(self._left, len(data))
        self._left -= size
        self._stream.feed_data(data if size == len(data) else data[:size])
        if not self._left:
            self._end_stream()
        return (), data[size:]

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        assert stream is not None
        self._next = self._feed_head
        self._paused = False
        stream.feed_eof()

    def _feed_body(self, data: bytes) -> tuple[Any, bytes]:
        size = self._size_of_body_in(data)
        messages, tail = self._feed(data if size == len(data) else data[:size])
        if self._payload is not None and self._whole_body_fed() and self._payload.is_eof():
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
            for message, _ in messages:
                _check_expectation(message)
        except HttpProcessingError:
            self._next = self._feed_nobody
            raise
        self._in_flight += len(messages)
        return messages, tail

    def _decode(self, data: bytes, *, heed_pause: bool) -> bytes:
        assert self._decoder is not None
        assert isinstance(self._stream, TrailerStream)
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


def hold(stream: StreamReader) -> None:
    """Have the connection stop reading after each piece."""
    stream._high_water = 0


def release(stream: StreamReader) -> None:
    """Have it read on while the pieces before are dealt with, as aiohttp does."""
    if stream.__class__ is StreamReader:  # not the one of requests without a body
        stream._high_water = 2 * stream._low_water


def take_all(stream: StreamReader) -> list[bytes]:
    """What is buffered, whatever has happened to the connection. aiohttp's own way of reading
    raises once it is gone, and else may have it read on."""
    if stream.at_eof():
        return []  # aiohttp's stream for requests without a body has no buffer at all
    pieces = list(stream._buffer)
    if pieces and stream._buffer_offset:
        pieces[0] = pieces[0][stream._buffer_offset :]
    stream._buffer.clear()
    stream._buffer_offset = stream._size = 0
    return pieces


def take_piece(stream: StreamReader) -> bytes:
    """The next piece as it came, b"" if there is none. aiohttp's own way joins them all."""
    if stream.at_eof() or not stream._buffer:
        return b""
    if stream._buffer_offset or stream._protocol._reading_paused or stream._http_chunk_splits:
        return stream._read_nowait_chunk(-1)
    piece = stream._buffer.popleft()
    stream._size -= len(piece)
    stream._cursor += len(piece)
    return piece


async def wait_for_piece(stream: StreamReader) -> None:
    """Until there is one, or the end. Raises what the stream raises when it is read."""
    if (error := stream.exception()) is not None:
        raise error
    while not stream._buffer and not stream._eof:
        await stream._wait("read")


def content_length(headers: Mapping[str, str]) -> int:
    """Bytes of a body that the parser has let through; 0 where the field is missing.

    The parser takes any number of zeros before the digits, int() only a few thousand.
    """
    return int(headers.get("Content-Length", "").lstrip("0") or "0")


def _check_expectation(message: RawRequestMessage) -> None:
    """aiohttp repeats in its answer what is expected and not known, and fails, with a 500, if
    that is no text. Nothing that may be expected has other characters than those of ASCII."""
    if not message.headers.get("Expect", "").isascii():
        raise BadHttpMessage("Expect is malformed")


def _may_have_our_trailer(message: RawRequestMessage) -> bool:
    return "Tus-Resumable" in message.headers or "Trailer" in message.headers


def _is_plain_tus(message: RawRequestMessage) -> bool:
    headers = message.headers
    return "Tus-Resumable" in headers and "Content-Encoding" not in headers and not message.upgrade
