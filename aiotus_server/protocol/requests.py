"""What a POST and a PATCH ask for: header fields in, one frozen value out.

Raises a ``TusError`` for whatever the header section alone shows to be wrong; what depends on
the upload is left to ``rules``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from .checksum import TrailingChecksum, Verification, parse_verification
from .errors import (
    ConcatMalformed,
    ExtensionDisabled,
    FinalHasLength,
    FinalNotAppendable,
    HeaderMalformed,
    LengthNotClear,
)
from .headers import (
    Fields,
    check_content_coding,
    check_content_type,
    parse_field,
    parse_integer_field,
    required_integer_field,
)
from .uploads import Final, Partial, format_metadata, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable


class Offer(Struct, frozen=True):
    """What may be asked for: the extensions and algorithms on offer, and how much is forgiven."""

    extensions: frozenset[str]
    algorithms: tuple[str, ...]
    lenient_metadata: bool = False

    def require(self, extension: str) -> None:
        if extension not in self.extensions:
            raise ExtensionDisabled(extension)


class Create(Struct, frozen=True):
    """A POST. ``body_length`` is None for a chunked body, 0 for none."""

    length: int | None
    metadata: str | None
    concat: Partial | Final | None
    concat_header: str | None
    verification: Verification
    body_length: int | None


class Append(Struct, frozen=True):
    """A PATCH. ``length`` is what an Upload-Length in it declares."""

    offset: int
    length: int | None
    verification: Verification
    body_length: int | None


def parse_create(
    fields: Fields,
    *,
    body_length: int | None,
    offer: Offer,
    upload_id_of: Callable[[str], str],
) -> Create:
    """``upload_id_of`` turns a URL of Upload-Concat into the id of an upload here."""
    offer.require("creation")
    concat_header = parse_field(fields, "Upload-Concat")
    concat = _parse_concat(concat_header, offer, upload_id_of)
    length = _parse_created_length(fields, concat, offer)
    metadata = _parse_metadata_field(fields, lenient=offer.lenient_metadata)
    if body_length != 0:
        if isinstance(concat, Final):
            raise FinalNotAppendable
        offer.require("creation-with-upload")
    verification = _parse_body_fields(fields, body_length, offer)
    return Create(length, metadata, concat, concat_header, verification, body_length)


def parse_append(fields: Fields, *, body_length: int | None, offer: Offer) -> Append:
    check_content_type(fields)
    offset = required_integer_field(fields, "Upload-Offset")
    length = parse_integer_field(fields, "Upload-Length")
    verification = _parse_body_fields(fields, body_length, offer)
    return Append(offset, length, verification, body_length)


def _parse_body_fields(fields: Fields, body_length: int | None, offer: Offer) -> Verification:
    if body_length != 0:
        check_content_type(fields)
        check_content_coding(fields)
    verification = parse_verification(fields, offer.algorithms)
    if verification is not None:
        offer.require("checksum")
    if isinstance(verification, TrailingChecksum):
        offer.require("checksum-trailer")
    return verification


def _parse_created_length(
    fields: Fields, concat: Partial | Final | None, offer: Offer
) -> int | None:
    length = parse_integer_field(fields, "Upload-Length")
    deferred = parse_field(fields, "Upload-Defer-Length")
    if deferred not in (None, "1"):
        raise HeaderMalformed("Upload-Defer-Length", "1")
    if isinstance(concat, Final):
        if length is not None or deferred:
            raise FinalHasLength
        return None
    if (length is None) == (deferred is None):
        raise LengthNotClear
    if deferred:
        offer.require("creation-defer-length")
    return length


def _parse_metadata_field(fields: Fields, *, lenient: bool) -> str | None:
    """The field as received; a field sent twice is one list, and an empty one is none."""
    text = ",".join(fields.getall("Upload-Metadata", ())).strip(" \t")
    metadata = parse_metadata(text, lenient=lenient)
    if lenient and not (text.isascii() and text.isprintable()):
        # It will stand in a response header: only what could be understood goes there.
        return format_metadata(metadata) or None
    return text or None


def _parse_concat(
    text: str | None, offer: Offer, upload_id_of: Callable[[str], str]
) -> Partial | Final | None:
    if text is None:
        return None
    offer.require("concatenation")
    if text == "partial":
        return Partial()
    kind, _, urls = text.partition(";")
    if kind != "final" or not urls or not (text.isascii() and text.isprintable()):
        raise ConcatMalformed
    parts = urls.split(" ")
    if not all(parts):
        raise ConcatMalformed
    return Final(tuple(upload_id_of(url) for url in parts))
