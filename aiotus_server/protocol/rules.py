"""When a request may be carried out: small functions, in the order in which they apply.

Each looks at what is asked and at one snapshot of the upload; it raises or returns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    BodyTooLong,
    FinalNotAppendable,
    LengthBelowOffset,
    LengthChanged,
    MaxSizeExceeded,
    NotPartial,
    OffsetMismatch,
    PartialUnfinished,
    RequestTooLong,
    TerminationForbidden,
    UploadExpired,
    UploadNotFound,
)
from .headers import BEYOND_63_BITS
from .uploads import Final, Partial, Upload

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from .requests import Append, Create


def not_expired(upload: Upload, now: datetime) -> None:
    """An upload that is complete does not expire."""
    if upload.expires is not None and upload.expires <= now and not upload.complete:
        raise UploadExpired


def not_final(append: Append, upload: Upload, now: datetime) -> None:
    """ "The Server MUST respond with the 403 Forbidden status to PATCH requests against a final
    upload URL."
    """
    if isinstance(upload.concat, Final):
        raise FinalNotAppendable


def append_not_expired(append: Append, upload: Upload, now: datetime) -> None:
    not_expired(upload, now)


def offset_is_current(append: Append, upload: Upload, now: datetime) -> None:
    """ "If the offsets do not match, the Server MUST respond with the 409 Conflict status
    without modifying the upload resource."
    """
    if append.offset != upload.offset:
        raise OffsetMismatch(append.offset, upload.offset)


def length_set_once(append: Append, upload: Upload, now: datetime) -> None:
    """ "Once set the length MUST NOT be changed." """
    if append.length is None:
        return
    if upload.length is not None and append.length != upload.length:
        raise LengthChanged(upload.length)
    if append.length < upload.offset:
        raise LengthBelowOffset(append.length, upload.offset)


def body_fits(append: Append, upload: Upload, now: datetime) -> None:
    length = append.length if upload.length is None else upload.length
    if length is None or append.body_length is None:
        return
    if append.offset + append.body_length > length:
        raise BodyTooLong


APPEND_RULES = (
    not_final,
    append_not_expired,
    offset_is_current,
    length_set_once,
    body_fits,
)


def check_append(append: Append, upload: Upload, now: datetime, max_size: int | None) -> None:
    for rule in APPEND_RULES:
        rule(append, upload, now)
    check_max_size(append.length, max_size)
    if upload.length is None:
        check_max_size(append.offset + (append.body_length or 0), max_size)


def check_owner(upload: Upload, owner: str | None) -> None:
    """What belongs to somebody is not there for others."""
    if upload.owner is not None and upload.owner != owner:
        raise UploadNotFound


def check_request_size(size: int | None, limit: int | None) -> None:
    """Of the body of one request, if it is known beforehand."""
    if size is not None and limit is not None and size > limit:
        raise RequestTooLong(limit)


def check_max_size(size: int | None, max_size: int | None) -> None:
    """ "If the length of the upload exceeds the maximum […] the Server MUST respond with the
    413 Request Entity Too Large status." What does not fit into 63 bits fits nowhere.
    """
    if size is None:
        return
    if max_size is not None and size > max_size:
        raise MaxSizeExceeded(max_size)
    if size >= BEYOND_63_BITS:
        raise MaxSizeExceeded(BEYOND_63_BITS - 1)


def check_create(create: Create, max_size: int | None) -> None:
    check_max_size(create.length, max_size)
    if create.body_length is None:
        return
    check_max_size(create.body_length, max_size)
    if create.length is not None and create.body_length > create.length:
        raise BodyTooLong


def check_parts(
    parts: Iterable[Upload], *, unfinished: bool, max_size: int | None, now: datetime
) -> int | None:
    """The length of a final made of ``parts``, None while one of theirs is deferred.

    ``unfinished`` says whether parts may still be in progress. Parts are given once for each
    time that they are listed.
    """
    length: int | None = 0
    for part in parts:
        not_expired(part, now)
        if not isinstance(part.concat, Partial):
            raise NotPartial
        if not part.complete and not unfinished:
            raise PartialUnfinished
        if length is not None:
            length = None if part.length is None else length + part.length
    check_max_size(length, max_size)
    return length


def check_terminate(upload: Upload, *, complete_allowed: bool) -> None:
    if upload.complete and not complete_allowed:
        raise TerminationForbidden


def check_read(upload: Upload, *, judged: bool = True) -> None:
    """Nobody is given what is unfinished, or what ``pre_finish`` refused or has not judged yet."""
    if upload.refused or not upload.complete or not (judged or upload.outcome):
        raise UploadNotFound
