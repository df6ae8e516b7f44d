"""The info file: what is known of an upload besides its bytes, as JSON in ``<id>.info``.

The offset is not in it: that is the size of the data file, so an append writes no info file
and a crash cannot make the two disagree.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from ..protocol.uploads import Final, Outcome, Partial, Upload


class _Outcome(msgspec.Struct, omit_defaults=True):
    status: int | None = None
    headers: dict[str, str] = {}
    body: bytes = b""


class _Info(msgspec.Struct, omit_defaults=True):
    """Times are seconds since 1970, lifetimes seconds, lengths bytes."""

    created: float
    length: int | None = None
    metadata: str | None = None
    concat: str | None = None  # the Upload-Concat header
    parts: list[str] | None = None
    joined: bool = False
    expires: float | None = None
    lifetime: float | None = None
    app_metadata: dict[str, bytes | None] | None = None
    path: str | None = None
    published: bool = False
    outcome: _Outcome | None = None


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
        )
    )


def decode(upload_id: str, text: bytes) -> Upload:
    """The upload with offset 0. Raises ValueError when ``text`` is not an info file."""
    info = _decoder.decode(text)  # msgspec's errors are ValueErrors
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
    )


def _concat(info: _Info) -> Partial | Final | None:
    if info.parts is not None:
        return Final(tuple(info.parts), joined=info.joined)
    return Partial() if info.concat is not None else None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
