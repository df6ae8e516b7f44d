"""Requests that are bent where a client could bend them: lines, fields, values and bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import odd
from .message import Message, chunks

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .exchanges import Aim

LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\x00\r\n")
ENDS = (b"\r\n\r\n", b"\r\n", b"\n\n", b"")  # of trailers


class Structure:
    """Bends messages in place. ``framed`` becomes false when it is no longer certain where a
    message ends, ``bent`` true when it may no longer mean what it meant."""

    def __init__(self, chance: random.Random, aim: Aim) -> None:
        self._chance = chance
        self._aim = aim
        self.framed = True

    def bend(self, message: Message) -> None:
        ways: dict[Callable[[Message], None], int] = {
            self.value: 34,
            self.extra_field: 14,
            self.drop_field: 8,
            self.repeat_field: 8,
            self.target: 12,
            self.method: 5,
            self.concat: 5,
            self.version: 3,
            self.line: 3,
            self.field_text: 4,
            self.many_fields: 2,
            self.body: 8,
            self.chunk: 8,
            self.smuggle: 3,
        }
        self._chance.choices(list(ways), list(ways.values()))[0](message)

    # Fields

    def value(self, message: Message) -> None:
        """Of a field that is there, or of one that means something to us."""
        known = [name for name, _ in message.fields if name in odd.VALUES]
        other = self._chance.choice(list(odd.VALUES))
        name = self._chance.choice([*known, *known, other])
        self._put(message, name, self._odd(name))

    def extra_field(self, message: Message) -> None:
        name = self._chance.choice(list(odd.VALUES))
        self._put(message, name, self._odd(name))

    def drop_field(self, message: Message) -> None:
        if message.fields:
            name, _ = self._chance.choice(message.fields)
            self._frames(name)
            message.remove(name)

    def repeat_field(self, message: Message) -> None:
        """With the same value, or another."""
        if not message.fields:
            return
        name, value = self._chance.choice(message.fields)
        self._frames(name)
        if name in odd.VALUES and self._chance.random() < 0.5:
            value = self._odd(name)
        message.fields.insert(self._chance.randint(0, len(message.fields)), (name, value))

    def concat(self, message: Message) -> None:
        def url() -> bytes:
            return self._chance.choice([self._aim.path, *(part.path for part in self._aim.parts)])

        self._put(message, b"Upload-Concat", odd.concat(url, self._chance))

    def field_text(self, message: Message) -> None:
        """Names, colons and line ends that are none."""
        chance, self.framed = self._chance, False
        way = chance.randrange(5)
        if way == 0:
            message.fields.append((chance.choice(odd.ODD_NAMES), chance.choice(odd.TEXTS)))
        elif way == 1:
            message.colon = chance.choice([b":", b" : ", b":\t", b"", b" ", b"=", b":\r\n "])
        elif way == 2:
            message.end = chance.choice(LINE_ENDS)
        elif way == 3:
            message.fields = [(_any_case(chance, name), value) for name, value in message.fields]
        else:
            chance.shuffle(message.fields)

    def many_fields(self, message: Message) -> None:
        count = self._chance.choice([100, 126, 127, 128, 129, 500])
        name = self._chance.choice([b"X", b"Upload-Metadata", b"Tus-Resumable", b"Cookie"])
        message.fields += [(name, b"YQ")] * count

    # The first line

    def target(self, message: Message) -> None:
        upload_id = message.target.rpartition(b"/")[2] or b"0" * 32
        message.target = odd.path(self._aim.prefix, upload_id, self._chance)

    def method(self, message: Message) -> None:
        message.method = self._chance.choice(odd.METHODS)
        if message.method in (b"CONNECT", b"PRI"):
            self.framed = False

    def version(self, message: Message) -> None:
        message.version = self._chance.choice(odd.VERSIONS)

    def line(self, message: Message) -> None:
        message.line = odd.line(message.method, message.target, message.version, self._chance)

    # The body

    def body(self, message: Message) -> None:
        """Longer or shorter than was announced, or there where none was."""
        chance, self.framed = self._chance, False
        way = chance.randrange(5)
        if way == 0:
            message.body = message.body[: chance.randint(0, len(message.body))]
        elif way == 1:
            message.body += chance.randbytes(chance.randint(1, 300))
        elif way == 2:
            length = max(0, len(message.body) + chance.choice([-1, 1]))
            message.put(b"Content-Length", b"%d" % length)
        elif way == 3:
            message.put(b"Transfer-Encoding", b"chunked")
        else:
            message.put(b"Content-Length", chance.choice(odd.NUMBERS))

    def chunk(self, message: Message) -> None:
        """A body in chunks, one of which is wrong."""
        chance, self.framed = self._chance, False
        message.remove(b"Content-Length")
        message.put(b"Transfer-Encoding", b"chunked")
        end = chance.choice([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
        bad = (
            chance.choice(odd.SIZE_LINES) + end + b"hello" + chance.choice([b"\r\n", b"", b"x\r\n"])
        )
        before = chunks(chance.randbytes(chance.randint(0, 50)))[:-5]
        trailers = chance.choice(odd.TRAILERS) + chance.choice(ENDS)
        message.body = before + chance.choice([bad, b""]) + b"0\r\n" + trailers

    def smuggle(self, message: Message) -> None:
        """A body that is a request. Where its end is certain nobody may act on it."""
        inner = Message(b"DELETE", self._aim.bait, [(b"Host", b"x"), (b"Tus-Resumable", b"1.0.0")])
        data = inner.encode()
        if message.method not in (b"POST", b"PATCH"):
            message.method = b"PATCH"
        if self._chance.random() < 0.5:
            message.remove(b"Transfer-Encoding")
            message.put(b"Content-Length", b"%d" % len(data))
            message.body = data
        else:
            message.remove(b"Content-Length")
            message.put(b"Transfer-Encoding", b"chunked")
            message.body = chunks(data)

    def _odd(self, name: bytes) -> bytes:
        return self._chance.choice([*odd.VALUES[name], self._chance.choice(odd.TEXTS)])

    def _put(self, message: Message, name: bytes, value: bytes) -> None:
        self._frames(name)
        if b"\n" in value or b"\r" in value:
            self.framed = False
        message.put(name, value)

    def _frames(self, name: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding", b"connection", b"upgrade"):
            self.framed = False


def _any_case(chance: random.Random, name: bytes) -> bytes:
    return chance.choice([name.upper(), name.lower(), name.swapcase()])
