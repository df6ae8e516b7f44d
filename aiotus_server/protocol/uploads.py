"""The upload: a frozen snapshot of what the server knows about it, and its metadata."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from msgspec import Struct, field

from .errors import MetadataMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime, timedelta

# What an id may look like, wherever it comes from; so no id is ever a path.
UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_owner(value: object) -> bool:
    """Whether it can be the name of an owner: text that can be kept, and stand in a log."""
    return isinstance(value, str) and 1 <= len(value) <= 1024 and value.isprintable()


class Partial(Struct, frozen=True):
    """ "A partial upload represents a chunk of a file." """


class Final(Struct, frozen=True):
    """An upload made of others: ``parts`` are the ids of the partials, in order.

    ``joined`` says that the concatenation has been done.
    """

    parts: tuple[str, ...]
    joined: bool = False


class Outcome(Struct, frozen=True):
    """What ``pre_finish`` made of the last answer; kept, so that it can be given again."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Upload(Struct, frozen=True):
    """A snapshot: it does not change while a request is being judged.

    ``offset`` and ``length`` are in bytes, ``length`` is None while it is deferred.
    ``metadata`` and ``concat_header`` are header text exactly as received. ``unverified``
    says that an append with a checksum is under way, or was when the server died: the bytes
    behind ``offset`` do not count, and whoever holds the lock must rewind them. ``finish_due``
    is the server's wish, not kept: when this upload becomes complete there is something to do,
    and the store is to note it.
    """

    upload_id: str
    offset: int
    length: int | None
    created: datetime
    metadata: str | None = None
    concat: Partial | Final | None = None
    concat_header: str | None = None
    expires: datetime | None = None
    lifetime: timedelta | None = None  # sliding expiry: counted from the last byte received
    unverified: bool = False
    app_metadata: Mapping[str, bytes | None] | None = None  # set by pre_create
    path: str | None = None  # where the finished bytes are published
    published: bool = False
    outcome: Outcome | None = None
    finish_due: bool = False
    owner: str | None = None  # whom ``authorize`` named; for others there is no such upload

    @property
    def complete(self) -> bool:
        """All bytes are in."""
        if isinstance(self.concat, Final):
            return self.concat.joined
        return self.offset == self.length

    @property
    def waits_for(self) -> frozenset[str]:
        """Ids of the partials that are to be joined yet; empty if it is no final, or was."""
        if isinstance(self.concat, Final) and not self.concat.joined:
            return frozenset(self.concat.parts)
        return frozenset()

    @property
    def refused(self) -> bool:
        """``pre_finish`` has refused it, for good."""
        return self.outcome is not None and (self.outcome.status or 200) >= 400

    @property
    def room(self) -> int | None:
        """Bytes that are missing, None while the length is deferred."""
        return None if self.length is None else self.length - self.offset


_key = re.compile(r"[!-+\--~]+")  # visible ASCII without the comma


def parse_metadata(text: str | None, *, lenient: bool = False) -> dict[str, bytes | None]:
    """The pairs of an Upload-Metadata header; None for a key without a value.

    Raises MetadataMalformed; ``lenient`` drops the pairs that would.
    """
    metadata: dict[str, bytes | None] = {}
    for element in (text or "").split(",") if text else ():
        try:
            key, value = _parse_pair(element)
            if key in metadata:
                raise MetadataMalformed("a key comes twice")
            metadata[key] = value
        except MetadataMalformed:
            if not lenient:
                raise
    return metadata


def _parse_pair(element: str) -> tuple[str, bytes | None]:
    key, _, value = element.lstrip(" \t").partition(" ")
    if not key:
        raise MetadataMalformed("a key is empty")
    if not _key.fullmatch(key):
        raise MetadataMalformed("a key has a character that is not visible ASCII")
    if " " in value:
        raise MetadataMalformed("a pair has more than one space")
    if not value:
        return key, None
    try:
        return key, base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MetadataMalformed("a value is not Base64") from None


def format_metadata(metadata: Mapping[str, bytes | None]) -> str:
    return ",".join(_format_pairs(metadata))


def _format_pairs(metadata: Mapping[str, bytes | None]) -> Iterator[str]:
    for key, value in metadata.items():
        yield key if value is None else f"{key} {base64.b64encode(value).decode()}"
