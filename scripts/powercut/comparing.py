"""Bytes that are there, compared with those that were sent: and what the wrong ones are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sender import spoilt

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.load.content import Content

READ = 1024 * 1024  # bytes


class Comparison:
    """Takes the bytes of an upload in their order. ``wrong`` says which of them are not those
    of ``content``; it is empty if all are."""

    def __init__(self, content: Content) -> None:
        self.size = 0
        self.wrong = ""
        self._content = content

    def take(self, data: bytes) -> None:
        begin, self.size = self.size, self.size + len(data)
        if not self.wrong and self._content.difference(begin, data) is not None:
            self.wrong = _described(self._content, begin, data)


def compare_file(path: Path, size: int, content: Content) -> str:
    """What is wrong with the first ``size`` bytes of a file; empty if nothing is."""
    comparison = Comparison(content)
    with path.open("rb") as file:
        while comparison.size < size:
            data = file.read(min(READ, size - comparison.size))
            if not data:
                return f"the file ends at {comparison.size}"
            comparison.take(data)
    return comparison.wrong


def _described(content: Content, begin: int, data: bytes) -> str:
    """Where the first wrong byte is, and what comes from there to the end of ``data``."""
    at = content.difference(begin, data)
    assert at is not None
    end = begin + len(data)
    tail = data[at - begin :]
    sent = b"".join(content.pieces(at, end))
    wrong = sum(a != b for a, b in zip(tail, sent, strict=True))
    if not any(tail):
        what = "zeros"
    elif tail == bytes(spoilt(memoryview(sent))):
        what = "those of a body with a wrong checksum"
    else:
        what = f"{tail.count(0)} zeros among them"
    return f"{wrong} wrong bytes from {at} on, before {end}: {what}"
