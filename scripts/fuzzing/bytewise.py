"""Bytes that are changed without a thought of what they mean, and bytes that mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .odd import listed

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# What a parser looks for.
TOKENS = listed(
    r"\x0d\x0a | \x0a | \x0d | \x0d\x0a\x0d\x0a | \x00 | \x20 | \x09 | : | , | ; | 0\x0d\x0a\x0d\x0a | %00"
    r"| \xff | HTTP/1.1 | HTTP/1.0 | chunked | Content-Length: 3\x0d\x0a | \x0d\x0a\x20\x0d\x0a | /../"
    r"| Transfer-Encoding: chunked\x0d\x0a | Tus-Resumable: 1.0.0\x0d\x0a | Expect: 100-continue\x0d\x0a"
    r"| Connection: close\x0d\x0a | Upgrade: websocket\x0d\x0aConnection: Upgrade\x0d\x0a"
    r"| 5\x0d\x0ahello\x0d\x0a | Upload-Offset: 0\x0d\x0a | Upload-Length: 5\x0d\x0a"
    r"| Content-Encoding: gzip\x0d\x0a | 99999999999999999999"
)

TLS_HELLO = bytes.fromhex(
    "16030100f4010000f00303b5d1a5c1b5e5a3a2e47d3ad2b8a5fb4cf0b1c06c2d3a2ab2d5c4e8f1a9b7c6d520"
) + bytes(range(200))
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")

GARBAGE = (
    *listed(
        r"| \x0d\x0a | \x0d\x0a\x0d\x0a | \x00 | GET\x0d\x0a\x0d\x0a | GET /\x0d\x0a\x0d\x0a | \x16\x03"
    ),
    *listed(
        r"PRI * HTTP/2.0\x0d\x0a\x0d\x0a | HTTP/1.1 200 | SSH-2.0-OpenSSH_9.2\x0d\x0a | HELO x\x0d\x0a"
    ),
    *listed(
        r"*1\x0d\x0a$4\x0d\x0aPING\x0d\x0a | \x05\x01\x00 | \x80\x46\x01 | GET / HTTP/1.1\x0d\x0a"
    ),
    *listed(r"HTTP/1.1 200 OK\x0d\x0aContent-Length: 0\x0d\x0a\x0d\x0a"),
    *listed(r"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\x0d\x0aGET / HTTP/1.1\x0d\x0aHost: x\x0d\x0a\x0d\x0a"),
    *(TLS_HELLO, TLS_HELLO[:7], HTTP2, HTTP2[:20]),
    *(b"\n" * 50, b"\x00" * 9000, b" " * 9000, b"A" * 100_000, b"GET /" + b"a" * 100_000),
    *(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 3000),
)


class Bytewise:
    """``other`` are the bytes of another exchange, to be spliced in."""

    def __init__(self, chance: random.Random, other: bytes) -> None:
        self._chance = chance
        self._other = other

    def mutate(self, data: bytes) -> bytes:
        ways = (self.flip, self.insert, self.delete, self.double, self.splice, self.swap)
        for _ in range(self._chance.choice([1, 1, 1, 2, 3, 8])):
            way: Callable[[bytes], bytes] = self._chance.choice([*ways, self.truncate])
            data = way(data)
        return data

    def flip(self, data: bytes) -> bytes:
        """A bit, or a whole byte."""
        if not data:
            return data
        at = self._place(data[:-1])
        mask = self._chance.choice([1 << self._chance.randrange(8), self._chance.randrange(1, 256)])
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    def insert(self, data: bytes) -> bytes:
        at = self._place(data)
        new = self._chance.choice([*TOKENS, self._chance.randbytes(self._chance.randint(1, 9))])
        return data[:at] + new + data[at:]

    def delete(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at + self._size() :]

    def truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def double(self, data: bytes) -> bytes:
        at = self._place(data)
        piece = data[at : at + self._size()]
        return data[:at] + piece * self._chance.choice([2, 2, 3, 50]) + data[at + len(piece) :]

    def splice(self, data: bytes) -> bytes:
        return data[: self._place(data)] + self._other[self._place(self._other) :]

    def swap(self, data: bytes) -> bytes:
        """Two neighbouring stretches."""
        at, first, second = self._place(data), self._size(), self._size()
        one, two = data[at : at + first], data[at + first : at + first + second]
        return data[:at] + two + one + data[at + len(one) + len(two) :]

    def _place(self, data: bytes) -> int:
        """Anywhere, but rather in a head, where most of the meaning is."""
        head = data.find(b"\r\n\r\n") + 4
        if 4 <= head < len(data) and self._chance.random() < 0.7:
            return self._chance.randint(0, head)
        return self._chance.randint(0, len(data))

    def _size(self) -> int:
        return self._chance.choice([1, 1, 2, 4, self._chance.randint(1, 40), 300])


def garbage(chance: random.Random) -> bytes:
    """What no HTTP client sends."""
    way = chance.randrange(3)
    if way == 0:
        return chance.choice(GARBAGE)
    if way == 1:
        return chance.randbytes(chance.choice([1, 10, 100, 5000, 70_000]))
    return b"".join(chance.choice(TOKENS) for _ in range(chance.randint(1, 60)))
