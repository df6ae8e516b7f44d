"""Uploads in words, for terminals and for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ..events import metadata_of

if TYPE_CHECKING:
    from datetime import datetime

    from ..protocol.uploads import Upload


def name_of(upload: Upload) -> str | None:
    """The file name in the metadata."""
    metadata = metadata_of(upload)
    name = metadata.get("filename") or metadata.get("name")
    return None if name is None else name.decode("utf-8", "backslashreplace")


def time_of(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def printable(text: str) -> str:
    """What clients name their files must not reach a terminal as it is."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def say(line: str) -> None:
    """One line on standard output, whatever characters that can take."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def say_json(value: Any, *, indent: int | None = None) -> None:
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
