"""What comes back, taken apart: it has to be answers of HTTP and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aiotus_server.protocol.chunked import ChunkedDecoder, ChunkedError

_status_line = re.compile(rb"HTTP/[0-9]\.[0-9] ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_field = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")
_code = re.compile(r"([A-Z_]+): [^\n]+\n")


class NotHttp(Exception):
    """What came back is no answer, or bytes that belong to none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers`` by lower-case name, all values of it. ``whole`` says that all of it came."""

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True

    def get(self, name: str) -> str | None:
        values = self.headers.get(name.lower())
        return values[0] if values else None

    @property
    def code(self) -> str | None:
        """The stable word at the start of our errors' text; None for what is not ours."""
        match = _code.fullmatch(self.body.decode("utf-8", "replace"))
        return match[1] if match and "tus-resumable" in self.headers else None


def parse(received: bytes, *, heads: bool) -> list[Answer]:
    """All answers but interim ones. ``heads`` says that some may be to HEAD, and have no body.

    Raises NotHttp.
    """
    answers = []
    at = 0
    while at < len(received):
        answer, at = _take(received, at, heads=heads)
        if answer.status >= 200:
            answers.append(answer)
        elif not answer.whole or answer.headers:
            raise NotHttp(f"an odd interim answer {answer}")
    return answers


def complete_answers(received: bytes) -> int:
    """How many have come whole, as far as it can be told."""
    try:
        return sum(answer.whole for answer in parse(received, heads=True))
    except NotHttp:
        return 0


def _take(received: bytes, at: int, *, heads: bool) -> tuple[Answer, int]:
    end = received.find(b"\r\n\r\n", at)
    if end == -1:
        if not received[at:].startswith(b"HTTP/"[: len(received) - at]):
            raise NotHttp(f"{received[at : at + 60]!r} begins no answer")
        return Answer(999, whole=False), len(received)
    status, headers = _read_head(received[at:end])
    at = end + 4
    if status < 200 or status in (204, 304):
        return Answer(status, headers), at
    return _take_body(status, headers, received, at, heads=heads)


def _read_head(head: bytes) -> tuple[int, dict[str, list[str]]]:
    lines = head.split(b"\r\n")
    match = _status_line.fullmatch(lines[0])
    if match is None:
        raise NotHttp(f"{lines[0][:60]!r} is no status line")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        pair = _field.fullmatch(line)
        if pair is None:
            raise NotHttp(f"{line[:60]!r} is no header field")
        headers.setdefault(pair[1].decode().lower(), []).append(pair[2].decode("latin-1"))
    return int(match[1]), headers


def _take_body(
    status: int, headers: dict[str, list[str]], received: bytes, at: int, *, heads: bool
) -> tuple[Answer, int]:
    # An answer to HEAD has the fields of a body, and none: then the next answer follows.
    bare = heads and (at == len(received) or received.startswith(b"HTTP/", at))
    if headers.get("transfer-encoding") == ["chunked"]:
        return (Answer(status, headers), at) if bare else _chunks(status, headers, received, at)
    lengths = headers.get("content-length", [])
    if len(lengths) > 1:
        raise NotHttp(f"{len(lengths)} lengths of one body")
    if not lengths and not bare:
        return Answer(status, headers, received[at:]), len(received)
    if not lengths:
        return Answer(status, headers), at
    end = at + int(lengths[0])
    if bare and end != at:
        return Answer(status, headers), at
    return Answer(status, headers, received[at:end], whole=end <= len(received)), end


def _chunks(
    status: int, headers: dict[str, list[str]], received: bytes, at: int
) -> tuple[Answer, int]:
    decoder = ChunkedDecoder()
    try:
        body = b"".join(decoder.feed(received[at:]))
    except ChunkedError as error:
        raise NotHttp(f"the chunks of an answer are broken: {error}") from None
    return Answer(status, headers, body, whole=decoder.done), len(received) - len(decoder.rest)
