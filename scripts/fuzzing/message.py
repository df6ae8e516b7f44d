"""One request as its parts, so that it can be bent before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """``body`` is as it goes over the wire, chunks and all. Nothing is checked, and no field is
    added: what is written is what is here. ``line`` replaces the whole request line."""

    method: bytes
    target: bytes
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    line: bytes | None = None
    colon: bytes = b": "
    end: bytes = b"\r\n"  # of a line

    def encode(self) -> bytes:
        line = self.line
        if line is None:
            line = b" ".join((self.method, self.target, self.version))
        lines = [line, *(name + self.colon + value for name, value in self.fields)]
        return self.end.join(lines) + self.end * 2 + self.body

    def get(self, name: bytes) -> bytes | None:
        """The first value of this field, whatever the case of its name."""
        for known, value in self.fields:
            if known.lower() == name.lower():
                return value
        return None

    def put(self, name: bytes, value: bytes) -> None:
        """In the place of all fields with this name, else as the last."""
        self.remove(name)
        self.fields.append((name, value))

    def remove(self, name: bytes) -> None:
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]


def chunks(*pieces: bytes, trailers: Fields | None = None) -> bytes:
    """A body in the chunked transfer coding."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    fields = b"".join(name + b": " + value + b"\r\n" for name, value in trailers or ())
    return coded + b"0\r\n" + fields + b"\r\n"
