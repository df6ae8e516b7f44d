"""The chunked transfer coding, decoded without I/O and with its trailer fields kept.

HTTP libraries parse the trailers of a request and throw them away; checksum-trailer needs
them. The bytes may come in any split; the same bytes give the same data, trailers and error.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_size_line = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
_trailer_line = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*"
)

MAX_SIZE_LINE = 1024  # bytes; chunk extensions are of no use here, so there is little need
MAX_TRAILERS = 8190  # bytes, all together: as much as one header line may have


class ChunkedError(Exception):
    """The bytes are not a chunked body. The decoder takes no more."""


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkedDecoder:
    """Takes bytes in any split, gives the pieces of the body.

    At ``done``, ``trailers`` has the fields in their order (names as sent), and ``rest`` the
    bytes behind the body: the next request.
    """

    def __init__(self) -> None:
        self.trailers: list[tuple[str, str]] = []
        self._state = _State.SIZE
        self._buffer = b""
        self._at = 0  # what is before has been decoded
        self._left = 0  # bytes of the chunk under way
        self._trailer_size = 0

    @property
    def done(self) -> bool:
        return self._state is _State.DONE

    @property
    def rest(self) -> bytes:
        return self._buffer[self._at :] if self.done else b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces of the body that are in what has come so far.

        Raises ChunkedError. The generator may be left and gone on with ``feed(b"")``.
        """
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        while not self.done:
            if self._state is _State.DATA:
                if self._at == len(self._buffer):
                    return
                yield self._take_data()
            else:
                line = self._take_line()
                if line is None:
                    return
                self._read_line(line)

    def _take_data(self) -> bytes:
        piece = self._buffer[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._state = _State.DATA_END
        return piece

    def _take_line(self) -> bytes | None:
        longest = {_State.TRAILERS: MAX_TRAILERS, _State.DATA_END: 0}.get(
            self._state, MAX_SIZE_LINE
        )
        end = self._buffer.find(b"\n", self._at, self._at + longest + 2)
        if end == -1:
            begun = self._buffer[self._at : self._at + longest + 2]
            if len(begun) > longest + 1 or (longest == 0 and begun not in (b"", b"\r")):
                raise ChunkedError("a line is too long, or a chunk is longer than its size")
            return None
        line = self._buffer[self._at : end]
        self._at = end + 1
        if not line.endswith(b"\r"):
            raise ChunkedError("a line does not end with CRLF")
        return line[:-1]

    def _read_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._read_size(line)
        elif self._state is _State.DATA_END:
            self._state = _State.SIZE
        elif line:
            self._read_trailer(line)
        else:
            self._state = _State.DONE

    def _read_size(self, line: bytes) -> None:
        match = _size_line.fullmatch(line)
        if match is None:
            raise ChunkedError("a chunk size is not hexadecimal")
        self._left = int(match[1], 16)
        self._state = _State.DATA if self._left else _State.TRAILERS

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_size += len(line)
        match = _trailer_line.fullmatch(line)
        if match is None or self._trailer_size > MAX_TRAILERS:
            raise ChunkedError("a trailer field is malformed or too long")
        self.trailers.append((match[1].decode("ascii"), match[2].decode("utf-8", "replace")))
