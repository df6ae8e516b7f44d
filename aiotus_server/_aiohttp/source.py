"""The body of an aiohttp request, as the server wants it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from ..body import Source
from ..pace import Pace
from ..protocol.errors import BodyCutShort, BodyMalformed, BodyTimedOut, BodyTooSlow, TusError
from ..pump import Pump
from .connection import TusRequestHandler, expects_continue
from .parser import TrailerStream, release, take_all, take_piece, wait_for_piece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aiohttp import web

    from ..body import Writer
    from ..options import Options
    from ..protocol.checksum import Checksum, Hasher


class RequestSource(Source):
    """The body of an aiohttp request, of ``length`` bytes; None for one in chunks."""

    gave_up = False  # before the end
    silent = False  # because nothing came
    _looked_again = False  # after the interruption
    _silence = 0.0  # seconds that were waited in vain since the last byte
    _waiting: asyncio.Timeout | None = None
    _pump: Pump | None = None

    def __init__(
        self,
        request: web.Request,
        *,
        length: int | None,
        options: Options,
        parse_trailers: Callable[[list[tuple[str, str]]], Checksum | None],
    ) -> None:
        self.length = length
        self.direct_from = options.direct_from
        self.continued = not expects_continue(request)
        self._request = request
        self._content = request.content
        self._read_timeout = options.read_timeout.total_seconds()
        self._pace = Pace(options.min_rate, options.min_rate_window.total_seconds())
        self._parse_trailers = parse_trailers
        # A middleware may have read the body, with request.read() say.
        self._read_before = request._read_bytes or b""
        if isinstance(request.protocol, TusRequestHandler):
            request.protocol.adopt(self)

    @property
    def arrived(self) -> bool:
        """Whether all of the request has come."""
        return self._content.is_eof()

    async def read(self, patience: float | None = None) -> bytes | None:
        try:
            return await self._read(patience)
        except TusError as error:
            self._give_up(error)
            raise

    def _give_up(self, error: TusError) -> None:
        self.gave_up = True
        self.silent = isinstance(error, (BodyTimedOut, BodyTooSlow))

    async def _read(self, patience: float | None) -> bytes | None:
        release(self._content)
        if data := self._arrived() or await self._last_arrived():
            return data
        if self._content.at_eof():
            return self._end()
        self._pace.check()
        await self._continue()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._patience(patience)) as waiting:
                self._waiting = waiting
                await wait_for_piece(self._content)
        except TimeoutError:
            return self._nothing_came(loop.time() - begun)
        except Exception as error:
            return self._failed(error)
        finally:
            self._waiting = None
            self._pace.waited(loop.time() - begun)
        return self._arrived() or self._end()

    async def _last_arrived(self) -> bytes:
        """Raises ``interrupted``, once what the kernel has received by then has been given out:
        the loop has not looked at the socket since it took the first piece, maybe."""
        if self.interrupted is None:
            return b""
        if not self._looked_again and not self._content.at_eof():
            self._looked_again = True
            for _ in range(2):  # one for resuming to read, one for reading
                await asyncio.sleep(0)
            if data := self._arrived():
                return data
        raise self.interrupted

    def _patience(self, asked: float | None) -> float:
        """How long to wait for the next bytes, in seconds."""
        left = self._read_timeout - self._silence
        return min(most for most in (left, asked, self._pace.patience) if most is not None)

    def _end(self) -> bytes:
        if self.length is not None and self.given < self.length:
            raise BodyCutShort  # a middleware has taken the rest from the stream
        return b""

    def read_whole(self) -> list[bytes] | None:
        if not self._content.is_eof():
            return None
        pieces = take_all(self._content)
        if self._read_before:
            pieces.insert(0, self._read_before)
            self._read_before = b""
        size = sum(map(len, pieces))
        if self.length is not None and self.given + size < self.length:
            self._read_before = b"".join(pieces)  # not whole: ``read`` will say so
            return None
        self.given += size
        return pieces

    def interrupt(self, error: TusError) -> None:
        super().interrupt(error)
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())
        if self._pump is not None:
            self._pump.wake()

    async def take_over(self) -> list[bytes] | None:
        if self.direct_from is None or self.length is None or self._failing():
            return None
        await self._continue()
        missing = self.length - self._content.total_bytes
        protocol = self._request.protocol
        if missing < max(self.direct_from, 1) or not isinstance(protocol, TusRequestHandler):
            return None
        taken = protocol.take_over(self._content)
        if taken is None:
            return None
        connection, pieces, left = taken
        self._pump = Pump(connection, left, lambda: self.interrupted is not None, self._pace)
        if self._read_before:
            pieces.insert(0, self._read_before)
            self._read_before = b""
        size = sum(map(len, pieces))
        self._pace.came(size)
        self.given += size
        return pieces

    def _failing(self) -> bool:
        return self.interrupted is not None or self._content.exception() is not None

    async def pump(
        self,
        writer: Writer,
        limit: int,
        hashers: Mapping[str, Hasher],
        before: Sequence[bytes] = (),
    ) -> int:
        assert self._pump is not None
        try:
            count = await self._pump.copy(writer, limit, hashers, self._read_timeout, before)
            if not count:
                raise self.interrupted or BodyTimedOut()
        except EOFError as error:
            self._give_up(BodyCutShort())
            raise BodyCutShort from error
        except TusError as error:
            self._give_up(error)
            raise
        self.given += count
        return count

    def give_back(self) -> None:
        assert self._pump is not None
        assert isinstance(self._request.protocol, TusRequestHandler)
        pump, self._pump = self._pump, None
        pump.close()
        self._request.protocol.give_back(pump.taken)

    def trailing_checksum(self) -> Checksum | None:
        if not isinstance(self._content, TrailerStream):
            return None
        return self._parse_trailers(self._content.trailers)

    def _arrived(self) -> bytes:
        """What is buffered. When the client has gone, aiohttp would raise instead."""
        if self._read_before:
            data, self._read_before = self._read_before, b""
        elif self._content.exception() is None:
            data = take_piece(self._content)
        else:
            data = b"".join(take_all(self._content))
        if data:
            self._silence = 0.0
            self._pace.came(len(data))
            self.given += len(data)
        return data

    def _nothing_came(self, seconds: float) -> bytes | None:
        if data := self._arrived():
            return data
        if self.interrupted is not None:
            raise self.interrupted
        # Only what was waited here counts: a slow disk or hook is not the client's silence.
        self._silence += seconds
        if self._silence >= self._read_timeout:
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
            with suppress(ConnectionError):  # the client has gone; the next read says so
                await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            writer.output_size = 0  # it is not of the response
