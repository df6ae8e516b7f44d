"""GET of a complete upload: which bytes, if any, and under which name and type.

Conditional requests and ranges as in RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from .headers import Fields, format_date
from .uploads import Upload, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

# What a browser may show in place of saving: nothing that could run a script.
INLINE_TYPES = frozenset(
    {
        "application/pdf",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "image/avif",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
        "video/mp4",
        "video/ogg",
        "video/webm",
    }
)

_media_type = re.compile(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}")
_range = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))")


class Selection(Struct, frozen=True):
    """The bytes from ``start`` up to, not including, ``stop``, and the status to send."""

    status: int
    start: int = 0
    stop: int = 0


def etag_of(upload: Upload) -> str:
    """Bytes of a complete upload never change, so its id and length name them."""
    return f'"{upload.upload_id}-{upload.length}"'


def select(fields: Fields, upload: Upload) -> Selection:
    """What to send of a complete upload: 200, 206, 304, 412 or 416."""
    length, etag, modified = upload.length or 0, etag_of(upload), upload.created
    if not _if_match(fields, etag, modified):
        return Selection(412)
    if _is_known(fields, etag, modified):
        return Selection(304)
    ranges = fields.getall("Range", ())
    if len(ranges) != 1 or not _if_range(fields, etag, modified):
        return Selection(200, 0, length)
    return _select_range(ranges[0].strip(" \t"), length)


def headers_of(upload: Upload, selection: Selection) -> dict[str, str]:
    length = upload.length or 0
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag_of(upload),
        "Last-Modified": format_date(upload.created),
        "X-Content-Type-Options": "nosniff",
    }
    if selection.status == 206:
        headers["Content-Range"] = f"bytes {selection.start}-{selection.stop - 1}/{length}"
    if selection.status == 416:
        headers["Content-Range"] = f"bytes */{length}"
    if selection.status in (200, 206):
        headers.update(_description(upload))
    return headers


def _description(upload: Upload) -> dict[str, str]:
    """Type and name from the client's metadata, as far as they are harmless in a header."""
    metadata = parse_metadata(upload.metadata, lenient=True)
    media_type = _text(metadata.get("filetype") or metadata.get("type")).partition(";")[0]
    media_type = media_type.strip().lower()
    if not _media_type.fullmatch(media_type):
        media_type = "application/octet-stream"
    disposition = "inline" if media_type in INLINE_TYPES else "attachment"
    name = _text(metadata.get("filename") or metadata.get("name"))
    name = "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable())
    if name:
        plain = re.sub(r'[^ -~]|["\\%]', "_", name)
        disposition += f'; filename="{plain}"'
        if plain != name:
            disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Type": media_type, "Content-Disposition": disposition}


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _select_range(text: str, length: int) -> Selection:
    match = _range.fullmatch(text)
    if match is None:
        # Several ranges, another unit, or nonsense: "A server MAY ignore the Range header".
        return Selection(200, 0, length)
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(length - int(suffix), 0), length
    else:
        start, stop = int(first), min(int(last) + 1, length) if last else length
        if last and int(last) < start:
            return Selection(200, 0, length)
    return Selection(206, start, stop) if start < stop else Selection(416)


def _if_match(fields: Fields, etag: str, modified: datetime) -> bool:
    matches = fields.getall("If-Match", ())
    if matches:
        return _lists(matches, etag, weak=False)
    since = _date(fields, "If-Unmodified-Since")
    return since is None or modified.replace(microsecond=0) <= since


def _is_known(fields: Fields, etag: str, modified: datetime) -> bool:
    matches = fields.getall("If-None-Match", ())
    if matches:
        return _lists(matches, etag, weak=True)
    since = _date(fields, "If-Modified-Since")
    return since is not None and modified.replace(microsecond=0) <= since


def _if_range(fields: Fields, etag: str, modified: datetime) -> bool:
    values = fields.getall("If-Range", ())
    if not values:
        return True
    if values[0].strip(" \t").startswith('"'):
        return values[0].strip(" \t") == etag
    return _date(fields, "If-Range") == modified.replace(microsecond=0)


def _lists(values: Sequence[str], etag: str, *, weak: bool) -> bool:
    tags = [tag.strip(" \t") for tag in ",".join(values).split(",")]
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or etag in tags


def _date(fields: Fields, name: str) -> datetime | None:
    values = fields.getall(name, ())
    try:
        date = parsedate_to_datetime(values[0]) if values else None
    except (ValueError, OverflowError):
        return None
    return date if date is not None and date.tzinfo is not None else None
