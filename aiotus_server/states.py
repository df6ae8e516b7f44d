"""What an upload is and how far it has come, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol.uploads import Final, Partial, Upload

if TYPE_CHECKING:
    from datetime import datetime

STATES = (
    "complete",
    "unfinished",
    "expired",
    "waiting",
    "partial",
    "final",
    "published",
    "refused",
    "unverified",
)


def states_of(upload: Upload, now: datetime) -> list[str]:
    """What it is and how far it has come: one of the first four, and any of the others."""
    words = [_progress_of(upload, now)]
    if isinstance(upload.concat, Partial):
        words.append("partial")
    if isinstance(upload.concat, Final):
        words.append("final")
    if upload.published:
        words.append("published")
    if upload.outcome is not None and (upload.outcome.status or 200) >= 400:
        words.append("refused")
    if upload.unverified:
        words.append("unverified")
    return words


def _progress_of(upload: Upload, now: datetime) -> str:
    if upload.complete:
        return "complete"
    if upload.expires is not None and upload.expires <= now:
        return "expired"
    return "waiting" if isinstance(upload.concat, Final) else "unfinished"
