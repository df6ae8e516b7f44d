"""Requests as good clients send them, about the upload that is aimed at."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import odd
from .message import Fields, Message, chunks

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

OCTETS = (b"Content-Type", b"application/offset+octet-stream")
TUS = (b"Tus-Resumable", b"1.0.0")
TAG = b"fuzz"  # the key in the metadata of what an attack creates; its value is the number

KIB = 1024
# How many bytes a body has: mostly few, sometimes more than one read gives, seldom a lot.
LARGEST = 1500 * KIB
SIZES = ((60, 0, 300), (30, 300, 20 * KIB), (8, 20 * KIB, 200 * KIB), (2, 200 * KIB, LARGEST))


@dataclass(frozen=True, slots=True)
class Part:
    """A complete partial upload."""

    path: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Aim:
    """What the model knows of the upload at ``path``. ``prefix`` has no slash at its end.

    ``bait`` is the path of another upload, which nothing that is sent may change.
    """

    prefix: bytes
    host: bytes
    path: bytes
    offset: int
    length: int | None
    parts: tuple[Part, ...]
    bait: bytes

    @property
    def room(self) -> int | None:
        return None if self.length is None else self.length - self.offset


def size_of(chance: random.Random) -> int:
    _, least, most = chance.choices(SIZES, [share for share, _, _ in SIZES])[0]
    return chance.randint(least, most)


def checksum_of(data: bytes, name: str = "sha1") -> bytes:
    digest = base64.b64encode(hashlib.new(name, data).digest())
    return name.encode() + b" " + digest


class Exchanges:
    """``number`` is the attack's, which its creations carry as a tag."""

    def __init__(self, chance: random.Random, aim: Aim, number: int) -> None:
        self._chance = chance
        self._aim = aim
        self._number = number

    def any(self) -> Message:
        kinds = {
            self.append: 45,
            self.create: 20,
            self.inspect: 8,
            self.read: 8,
            self.join: 8,
            self.discover: 4,
            self.overridden: 4,
            self.terminate: 3,
        }
        return self._chance.choices(list(kinds), list(kinds.values()))[0]()

    def append(self) -> Message:
        """As many bytes as fit, or fewer; sometimes with the length that was deferred."""
        chance, aim = self._chance, self._aim
        size = size_of(chance)
        if aim.room is not None and aim.room <= LARGEST:
            size = min(size, aim.room) if chance.random() < 0.7 else aim.room
        message = self._message(b"PATCH", aim.path)
        message.put(b"Upload-Offset", b"%d" % aim.offset)
        if aim.length is None and chance.random() < 0.15:
            message.put(b"Upload-Length", b"%d" % (aim.offset + size + chance.choice([0, 0, 9])))
        self._add_body(message, chance.randbytes(size))
        return message

    def create(self) -> Message:
        chance = self._chance
        message = self._message(b"POST", self._aim.prefix + chance.choice([b"", b"/"]))
        size = size_of(chance) if chance.random() < 0.8 else 0
        if chance.random() < 0.75:
            message.put(b"Upload-Length", b"%d" % size)
        else:
            message.put(b"Upload-Defer-Length", b"1")
        if chance.random() < 0.2:
            message.put(b"Upload-Concat", b"partial")
        message.put(b"Upload-Metadata", self._metadata())
        if chance.random() < 0.5:
            self._add_body(message, chance.randbytes(size if chance.random() < 0.7 else size // 2))
        else:
            message.put(b"Content-Length", b"0")
        return message

    def inspect(self) -> Message:
        return self._message(b"HEAD", self._aim.path)

    def terminate(self) -> Message:
        return self._message(b"DELETE", self._aim.path)

    def read(self) -> Message:
        """Of a complete upload, mostly, and of a part of it."""
        chance, aim = self._chance, self._aim
        paths = [part.path for part in aim.parts] or [aim.path]
        message = Message(b"GET", chance.choice(paths), [(b"Host", aim.host)])
        for name in (b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since"):
            if chance.random() < 0.3:
                message.put(name, chance.choice(odd.VALUES[name]))
        return message

    def join(self, parts: Sequence[Part] | None = None) -> Message:
        """A final upload of ``parts``, or of some partials."""
        message = self._message(b"POST", self._aim.prefix + b"/")
        parts = self.parts_to_join() if parts is None else parts
        urls = b" ".join(self._spelt(part.path) for part in parts)
        message.put(b"Upload-Concat", b"final;" + urls if parts else b"partial")
        message.put(b"Upload-Metadata", self._metadata())
        message.put(b"Content-Length", b"0")
        return message

    def parts_to_join(self) -> list[Part]:
        """Some of those that there are, the same one maybe several times."""
        parts = self._aim.parts
        return self._chance.choices(parts, k=self._chance.randint(1, 4)) if parts else []

    def discover(self) -> Message:
        target = self._chance.choice([self._aim.prefix, self._aim.prefix + b"/", self._aim.path])
        message = Message(b"OPTIONS", target, [(b"Host", self._aim.host)])
        message.put(b"Origin", b"https://app.example")
        message.put(b"Access-Control-Request-Method", b"PATCH")
        return message

    def overridden(self) -> Message:
        """The method is in X-HTTP-Method-Override, and another one in its place."""
        choice = self._chance.choice
        message = choice([self.append, self.inspect, self.terminate, self.read])()
        message.put(b"X-HTTP-Method-Override", message.method)
        message.method = choice([b"POST", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
        return message

    def _message(self, method: bytes, target: bytes) -> Message:
        fields: Fields = [(b"Host", self._aim.host), TUS]
        return Message(method, target, fields)

    def _metadata(self) -> bytes:
        tag = TAG + b" " + base64.b64encode(b"%d" % self._number)
        if self._chance.random() < 0.2:
            return tag + b"," + odd.metadata_of_a_download(self._chance)
        return tag + b",filename ZmlsZS50eHQ=,empty"

    def _spelt(self, path: bytes) -> bytes:
        """One of the URLs that a client may know it by."""
        forms = [path, b"http://" + self._aim.host + path, b"https://elsewhere.example" + path]
        if path.startswith(self._aim.prefix + b"/"):
            forms.append(path.rpartition(b"/")[2])
        return self._chance.choice(forms)

    def _add_body(self, message: Message, data: bytes) -> None:
        """In one of the ways in which a body may come, with the fields that belong to it."""
        chance = self._chance
        message.fields.append(OCTETS)
        if chance.random() < 0.15:
            message.put(b"Expect", b"100-continue")
        verified = chance.choice([b"", b"", b"header", b"trailer", b"announced trailer"])
        wrong = chance.random() < 0.15
        checksum = checksum_of(data + b"!" * wrong, chance.choice(["sha1", "md5", "sha256"]))
        if verified == b"header":
            message.put(b"Upload-Checksum", checksum)
        if verified.endswith(b"trailer") or chance.random() < 0.3:
            trailers: Fields = []
            if verified.endswith(b"trailer"):
                trailers = [(b"Upload-Checksum", checksum)]
            if verified == b"announced trailer":
                message.put(b"Trailer", b"Upload-Checksum")
            message.put(b"Transfer-Encoding", b"chunked")
            message.body = chunks(*cut(chance, data, 4), trailers=trailers)
        else:
            message.put(b"Content-Length", b"%d" % len(data))
            message.body = data


def cut(chance: random.Random, data: bytes, most: int) -> list[bytes]:
    """``data`` in up to ``most`` pieces, cut anywhere."""
    if len(data) < 2:
        return [data]
    places = sorted(chance.randrange(1, len(data)) for _ in range(chance.randrange(most)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
