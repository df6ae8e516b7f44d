"""The info file: what is known of an upload besides its bytes, as JSON in ``<id>.info``.

The offset is not in it: that is the size of the data file, so an append writes no info file
and a crash cannot make the two disagree.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from ..protocol.uploads import UPLOAD_ID, Final, Outcome, Partial, Upload

# What a damaged file may say and still be JSON: no such number or text may reach an answer, a
# date or the name of a file.
_END = 253402300800  # seconds from 1970 to the year 10000
_Seconds = Annotated[float, Meta(ge=0, lt=_END)]
_Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Header = Annotated[str, Meta(pattern=r"\A[^\x00\r\n]*\Z")]
_Path = Annotated[str, Meta(pattern=r"\A/[^\x00]*\Z")]
_Id = Annotated[str, Meta(pattern=rf"\A{UPLOAD_ID.pattern}\Z")]
_Status = Annotated[int, Meta(ge=200, le=599)]


class _Outcome(msgspec.Struct, omit_defaults=True):
    status: _Status | None = None
    headers: dict[_Header, _Header] = {}
    body: bytes = b""


class _Info(msgspec.Struct, omit_defaults=True):
    """Times are seconds since 1970, lifetimes seconds, lengths bytes."""

    created: _Seconds
    length: _Bytes | None = None
    metadata: _Header | None = None
    concat: _Header | None = None  # the Upload-Concat header
    parts: list[_Id] | None = None
    joined: bool = False
    expires: _Seconds | None = None
    lifetime: _Seconds | None = None
    app_metadata: dict[str, bytes | None] | None = None
    path: _Path | None = None
    published: bool = False
    outcome: _Outcome | None = None
    owner: _Header | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Info)


def encode(upload: Upload) -> bytes:
    final = upload.concat if isinstance(upload.concat, Final) else None
    outcome = upload.outcome
    return _encoder.encode(
        _Info(
            created=upload.created.timestamp(),
            length=upload.length,
            metadata=upload.metadata,
            concat=upload.concat_header,
            parts=list(final.parts) if final else None,
            joined=bool(final and final.joined),
            # Sliding expiry is counted from the data file's time of modification.
            expires=upload.expires.timestamp() if upload.expires and not upload.lifetime else None,
            lifetime=upload.lifetime.total_seconds() if upload.lifetime else None,
            app_metadata=dict(upload.app_metadata) if upload.app_metadata is not None else None,
            path=upload.path,
            published=upload.published,
            outcome=None
            if outcome is None
            else _Outcome(outcome.status, dict(outcome.headers), outcome.body),
            owner=upload.owner,
        )
    )


def decode(upload_id: str, text: bytes) -> Upload:
    """The upload with offset 0. Raises ValueError when ``text`` is not an info file, or says what
    cannot be."""
    try:
        info = _decoder.decode(text)  # msgspec's errors are ValueErrors
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(info)
    outcome = info.outcome
    return Upload(
        upload_id=upload_id,
        offset=0,
        length=info.length,
        created=_moment(info.created),
        metadata=info.metadata,
        concat=_concat(info),
        concat_header=info.concat,
        expires=None if info.expires is None else _moment(info.expires),
        lifetime=None if info.lifetime is None else timedelta(seconds=info.lifetime),
        app_metadata=info.app_metadata,
        path=info.path,
        published=info.published,
        outcome=None if outcome is None else Outcome(outcome.status, outcome.headers, outcome.body),
        owner=info.owner,
    )


def _check(info: _Info) -> None:
    if info.lifetime is not None and info.created + info.lifetime >= _END:
        raise ValueError("its lifetime ends after the year 9999")
    if info.published and (info.path is None or info.length is None):
        raise ValueError("it is published, but has no path or no length")
    if info.joined and (info.parts is None or info.length is None):
        raise ValueError("it is joined, but has no parts or no length")


def _concat(info: _Info) -> Partial | Final | None:
    if info.parts is not None:
        return Final(tuple(info.parts), joined=info.joined)
    return Partial() if info.concat is not None else None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
