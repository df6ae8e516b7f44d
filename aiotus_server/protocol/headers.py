"""Header fields as text: one value, an integer, the media type, a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Protocol

from .errors import (
    ContentCodingUnsupported,
    ContentTypeUnsupported,
    HeaderMalformed,
    HeaderMissing,
    HeaderRepeated,
    MethodOverrideUnusable,
    VersionUnsupported,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TUS_VERSION = "1.0.0"
OFFSET_OCTET_STREAM = "application/offset+octet-stream"
METHODS = frozenset({"OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE"})

# Offsets and lengths are file offsets: 63 bits. Larger numbers are no syntax error, they only
# fit nowhere, so all of them become this one.
BEYOND_63_BITS = 2**63

# "The value MUST be a non-negative integer." int() would also take "+5", "1_0" and digits of
# other scripts.
_integer = re.compile(r"[0-9]+")


class Fields(Protocol):
    """The header fields of a message, names in any case (a ``multidict`` is one)."""

    def getall(self, key: str, default: Sequence[str], /) -> Sequence[str]: ...


def parse_field(fields: Fields, name: str) -> str | None:
    """The field's value without the blanks around it, None if it is not there.

    Raises HeaderRepeated, or HeaderMalformed when it is empty.
    """
    values = fields.getall(name, ())
    if not values:
        return None
    if len(values) > 1:
        raise HeaderRepeated(name)
    value = values[0].strip(" \t")
    if not value:
        raise HeaderMalformed(name, "given a value")
    return value


def parse_integer(name: str, text: str) -> int:
    """The non-negative integer in ``text``; BEYOND_63_BITS for any that is larger."""
    if not _integer.fullmatch(text):
        raise HeaderMalformed(name, "a non-negative integer")
    digits = text.lstrip("0") or "0"
    return BEYOND_63_BITS if len(digits) > 19 else min(int(digits), BEYOND_63_BITS)


def parse_integer_field(fields: Fields, name: str) -> int | None:
    text = parse_field(fields, name)
    return None if text is None else parse_integer(name, text)


def required_integer_field(fields: Fields, name: str) -> int:
    value = parse_integer_field(fields, name)
    if value is None:
        raise HeaderMissing(name)
    return value


def check_version(fields: Fields) -> None:
    """ "If the version specified by the Client is not supported by the Server, it MUST
    respond with the 412 Precondition Failed status." None and two are not supported either.
    """
    values = fields.getall("Tus-Resumable", ())
    if not values:
        raise VersionUnsupported(None)
    if len(values) > 1 or values[0].strip(" \t") != TUS_VERSION:
        raise VersionUnsupported(values[0])


def method_of(method: str, fields: Fields) -> str:
    """The method to act on: "The actual method of the request MUST be ignored" where there is
    an X-HTTP-Method-Override, usable or not (see ``check_override``)."""
    overrides = fields.getall("X-HTTP-Method-Override", ())
    return overrides[0].strip(" \t") if overrides else method


def check_override(fields: Fields) -> None:
    overrides = fields.getall("X-HTTP-Method-Override", ())
    if len(overrides) > 1 or (overrides and overrides[0].strip(" \t") not in METHODS):
        raise MethodOverrideUnusable


def is_offset_octet_stream(fields: Fields) -> bool:
    values = fields.getall("Content-Type", ())
    if len(values) != 1:
        return False
    return values[0].partition(";")[0].strip(" \t").lower() == OFFSET_OCTET_STREAM


def check_content_type(fields: Fields) -> None:
    if not is_offset_octet_stream(fields):
        raise ContentTypeUnsupported


def check_content_coding(fields: Fields) -> None:
    """Offsets count the bytes that the client holds, not what a coding makes of them."""
    if not _elements(fields, "Content-Encoding") <= {"", "identity"}:
        raise ContentCodingUnsupported
    if not _elements(fields, "Transfer-Encoding") <= {"", "chunked"}:
        raise ContentCodingUnsupported


def announces_checksum_trailer(fields: Fields) -> bool:
    return "upload-checksum" in _elements(fields, "Trailer")


def _elements(fields: Fields, name: str) -> frozenset[str]:
    """Those of a field that is a list of words, in lower case."""
    values = fields.getall(name, ())
    if not values:
        return _nothing
    return frozenset(word.strip(" \t") for word in ",".join(values).lower().split(","))


_nothing: frozenset[str] = frozenset()


def format_date(moment: datetime) -> str:
    """RFC 9110's IMF-fixdate, whole seconds."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
