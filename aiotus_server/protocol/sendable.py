"""What an application may put into an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping

# For the server alone to say: where the answer ends, and what becomes of the connection.
FRAMING = frozenset({"connection", "content-length", "trailer", "transfer-encoding", "upgrade"})
_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def encode_text(body: str | bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Text as UTF-8, with the Content-Type that says so unless there is one. Raises TypeError."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {headers!r}")
    if isinstance(body, bytes):
        return body, dict(headers)
    if not isinstance(body, str):
        raise TypeError(f"a body must be text or bytes, not {body!r}")
    typed = any(str(name).lower() == "content-type" for name in headers)
    plain = {} if typed else {"Content-Type": "text/plain; charset=utf-8"}
    return body.encode(), {**plain, **headers}


def are_headers(headers: Mapping[str, str]) -> bool:
    """Whether they can be sent: printable texts, with which no other line can begin, and none of
    ``FRAMING``."""
    parts = [part for field in headers.items() for part in field]
    if not all(isinstance(part, str) and part.isprintable() for part in parts):
        return False
    return all(is_name(name) and name.lower() not in FRAMING for name in headers)


def is_name(text: object) -> bool:
    """Whether it can be the name of a header."""
    return isinstance(text, str) and _name.fullmatch(text) is not None
