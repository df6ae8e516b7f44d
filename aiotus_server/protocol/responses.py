"""Values in, answers out: a status, header fields and a short text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from .errors import (
    MethodNotAllowed,
    OffsetMismatch,
    Refuse,
    TusError,
    VersionUnsupported,
)
from .headers import TUS_VERSION, format_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .requests import Offer
    from .uploads import Outcome, Upload

REASONS = {460: "Checksum Mismatch"}


class Answer(Struct, frozen=True):
    """What goes back to the client; ``reason`` is None where HTTP has a phrase of its own."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def reason(self) -> str | None:
        return REASONS.get(self.status)


def discovered(offer: Offer, max_size: int | None) -> Answer:
    """OPTIONS. "If no extensions are supported, the Tus-Extension header MUST be omitted." """
    headers = {"Tus-Version": TUS_VERSION}
    if offer.extensions:
        headers["Tus-Extension"] = ",".join(sorted(offer.extensions))
    if max_size is not None:
        headers["Tus-Max-Size"] = str(max_size)
    if "checksum" in offer.extensions:
        headers["Tus-Checksum-Algorithm"] = ",".join(offer.algorithms)
    return Answer(204, headers)


def created(upload: Upload, location: str, *, with_upload: bool) -> Answer:
    headers = {"Location": location, **_expires(upload)}
    if with_upload:
        headers["Upload-Offset"] = str(upload.offset)
    return _shaped(Answer(201, headers), upload.outcome)


def appended(upload: Upload) -> Answer:
    headers = {"Upload-Offset": str(upload.offset), **_expires(upload)}
    return _shaped(Answer(204, headers), upload.outcome)


def inspected(upload: Upload) -> Answer:
    """HEAD. "The Server MUST prevent the client and/or proxies from caching the response." """
    headers = {"Cache-Control": "no-store", **_expires(upload)}
    if not upload.waits_for:
        headers["Upload-Offset"] = str(upload.offset)
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    elif not upload.waits_for:
        headers["Upload-Defer-Length"] = "1"
    if upload.metadata is not None:
        headers["Upload-Metadata"] = upload.metadata
    if upload.concat_header is not None:
        headers["Upload-Concat"] = upload.concat_header
    return Answer(200, headers)


def terminated() -> Answer:
    return Answer(204)


def failed(error: TusError) -> Answer:
    """The only place where an error becomes an answer: one line, ``CODE: sentence``."""
    if isinstance(error, Refuse):
        return _refused(error)
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if isinstance(error, VersionUnsupported):
        headers["Tus-Version"] = TUS_VERSION
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, OffsetMismatch):
        # On no other error: some clients read it without looking at the status.
        headers["Upload-Offset"] = str(error.current)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    headers.update(_facts_after(error))
    return Answer(error.status, headers, f"{error.code}: {error}\n".encode())


def failed_inspection(error: TusError) -> Answer | None:
    """The answer to a HEAD that failed; None: close the connection.

    tus-js-client meets any status but 423 by uploading everything again from 0, so what may
    pass must not look like an answer.
    """
    answer = failed(error)
    if answer.status >= 500 or answer.status in (408, 429):
        return None
    return replace(answer, headers={**answer.headers, "Cache-Control": "no-store"})


def _refused(error: Refuse) -> Answer:
    return Answer(error.answer, _add(error.headers, _facts_after(error)), error.body)


def _facts_after(error: TusError) -> dict[str, str]:
    headers = {} if error.upload is None else _expires(error.upload)
    if error.location is not None:
        headers["Location"] = error.location
    return headers


def _expires(upload: Upload) -> dict[str, str]:
    """ "This header MUST be included in every PATCH response if the upload is going to expire." """
    if upload.expires is None or upload.complete:
        return {}
    return {"Upload-Expires": format_date(upload.expires)}


def _shaped(answer: Answer, outcome: Outcome | None) -> Answer:
    """``pre_finish`` may add to the last answer, but not take the protocol's headers away."""
    if outcome is None:
        return answer
    status = outcome.status or answer.status
    if outcome.body and status == 204:
        status = 200  # a 204 has no body
    ours = {
        name: value
        for name, value in answer.headers.items()
        if name != "Upload-Offset" or status < 400
    }
    return Answer(status, _add(outcome.headers, ours), outcome.body)


def _add(theirs: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The application's header fields, but for those that are the protocol's to set."""
    names = {name.lower() for name in ours}
    return {**{name: theirs[name] for name in theirs if name.lower() not in names}, **ours}
