"""Every way in which a request can fail: one class per condition, each with its status.

Whoever raises gives facts; the class writes the sentence; ``responses.failed`` is the only
place that turns an error into an answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from .sendable import are_headers, encode_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .uploads import Upload


class TusError(Exception):
    """A request that is refused, or a body that ended before its end.

    ``status`` is the HTTP status, ``code`` a stable word for programs, ``str(error)`` one
    sentence for people. ``upload`` is the state after the failure, once the upload is known;
    ``location`` is its URL when this very request created it.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "TUS_ERROR"
    retry_after: ClassVar[int | None] = None  # seconds
    upload: Upload | None = None
    location: str | None = None

    def __init_subclass__(cls) -> None:
        if "code" not in cls.__dict__:
            cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).upper()


# The request itself


class VersionUnsupported(TusError):
    status = 412

    def __init__(self, given: str | None) -> None:
        super().__init__(
            "The request has no Tus-Resumable header."
            if given is None
            else "This server speaks tus 1.0.0 only."
        )


class MethodOverrideUnusable(TusError):
    def __init__(self) -> None:
        super().__init__("X-HTTP-Method-Override names no method of tus.")


class MethodNotAllowed(TusError):
    status = 405

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"The method must be one of {', '.join(self.allowed)}.")


class HeaderMissing(TusError):
    def __init__(self, name: str) -> None:
        super().__init__(f"The header {name} is missing.")


class HeaderRepeated(TusError):
    def __init__(self, name: str) -> None:
        super().__init__(f"The header {name} was sent more than once.")


class HeaderMalformed(TusError):
    def __init__(self, name: str, must_be: str) -> None:
        super().__init__(f"The header {name} must be {must_be}.")


class MetadataMalformed(TusError):
    def __init__(self, why: str) -> None:
        super().__init__(f"Upload-Metadata cannot be used: {why}.")


class ContentTypeUnsupported(TusError):
    status = 415

    def __init__(self) -> None:
        super().__init__("The Content-Type must be application/offset+octet-stream.")


class ContentCodingUnsupported(TusError):
    status = 415

    def __init__(self) -> None:
        super().__init__("A body must come without a coding, but for chunks.")


class ExpectationUnknown(TusError):
    status = 417

    def __init__(self) -> None:
        super().__init__("Nothing but 100-continue can be expected.")


class ExtensionDisabled(TusError):
    def __init__(self, extension: str) -> None:
        super().__init__(f"This server does not offer the extension {extension}.")


# Length and offset


class LengthNotClear(TusError):
    def __init__(self) -> None:
        super().__init__("Exactly one of Upload-Length and Upload-Defer-Length: 1 is needed.")


class LengthChanged(TusError):
    def __init__(self, length: int) -> None:
        super().__init__(f"The length of this upload has been set to {length} already.")


class LengthBelowOffset(TusError):
    def __init__(self, length: int, offset: int) -> None:
        super().__init__(f"The length {length} is below the offset {offset}.")


class MaxSizeExceeded(TusError):
    status = 413

    def __init__(self, max_size: int) -> None:
        super().__init__(f"An upload may have {max_size} bytes at most.")


class OffsetMismatch(TusError):
    status = 409

    def __init__(self, given: int, current: int) -> None:
        self.current = current
        super().__init__(f"The offset is {current}, not {given}.")


# Checksum


class ChecksumMalformed(TusError):
    def __init__(self, why: str) -> None:
        super().__init__(f"Upload-Checksum cannot be used: {why}.")


class ChecksumAlgorithmUnknown(TusError):
    def __init__(self, known: Collection[str]) -> None:
        super().__init__(f"The checksum algorithm must be one of {', '.join(known)}.")


class ChecksumMismatch(TusError):
    status = 460

    def __init__(self, algorithm: str) -> None:
        super().__init__(f"The {algorithm} of the body is not the one in Upload-Checksum.")


class ChecksumTrailerMissing(TusError):
    def __init__(self) -> None:
        super().__init__("The Upload-Checksum trailer that was announced did not come.")


class ChecksumTrailerUnreadable(TusError):
    def __init__(self) -> None:
        super().__init__("Trailers cannot be read here; send Upload-Checksum as a header.")


class ChecksumGivenTwice(TusError):
    def __init__(self) -> None:
        super().__init__("Upload-Checksum came as a header and as a trailer.")


# Concatenation


class ConcatMalformed(TusError):
    def __init__(self) -> None:
        super().__init__("Upload-Concat must be 'partial' or 'final;' and a list of upload URLs.")


class PartialUnknown(TusError):
    def __init__(self) -> None:
        super().__init__("Upload-Concat names a URL that is not one of this server's uploads.")


class NotPartial(TusError):
    def __init__(self) -> None:
        super().__init__("Upload-Concat names an upload that was not created as a partial.")


class PartialUnfinished(TusError):
    def __init__(self) -> None:
        super().__init__("Upload-Concat names a partial upload that is not complete.")


class FinalHasLength(TusError):
    def __init__(self) -> None:
        super().__init__("The length of a final upload is the sum of its partials'.")


class FinalNotAppendable(TusError):
    status = 403

    def __init__(self) -> None:
        super().__init__("A final upload takes no data of its own.")


# The upload


class UploadNotFound(TusError):
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such upload.")


class UploadDamaged(UploadNotFound):
    """What there is of an upload is not enough to be one. ``finding`` is the code that a
    verification of the store has for it, ``why`` a part of a sentence for the log.

    For clients there is no such upload. Whoever does not hold its lock may have met it while
    it was made or removed.
    """

    code = UploadNotFound.code

    def __init__(self, finding: str, why: str) -> None:
        super().__init__()
        self.finding = finding
        self.why = why


class UploadExpired(TusError):
    status = 410

    def __init__(self) -> None:
        super().__init__("The upload has expired.")


class UploadTerminated(TusError):
    status = 410

    def __init__(self) -> None:
        super().__init__("The upload has been terminated.")


class UploadExists(TusError):
    status = 409

    def __init__(self) -> None:
        super().__init__("There is an upload with this id already.")


class PathTaken(TusError):
    """The path at which ``pre_create`` wants the file published exists; nothing is replaced."""

    status = 409

    def __init__(self) -> None:
        super().__init__("There is a file already where this upload is to be published.")


class UploadLocked(TusError):
    status = 423
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The upload is in use by another request.")


class TerminationForbidden(TusError):
    status = 403

    def __init__(self) -> None:
        super().__init__("A complete upload cannot be terminated here.")


class Refuse(TusError):
    """A hook's refusal: ``raise Refuse(403, "text")``.

    ``status`` is what the client is answered, with ``body`` (bytes, or text sent as UTF-8)
    and ``headers``, printable texts that do not say where the answer ends. Nothing is stored after a refusal by
    ``authorize`` or a ``pre_`` hook. Raises TypeError or ValueError for what cannot be sent.
    """

    def __init__(
        self,
        status: int = 403,
        body: str | bytes = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(status, int):
            raise TypeError(f"Refuse takes the status first, a number, not {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal needs a status from 400 to 599, not {status}")
        super().__init__(f"A hook refused the request with {status}.")
        self.answer = status
        self.body, self.headers = encode_text(body, headers or {})
        if not are_headers(self.headers):
            why = "must be printable texts, and leave to the server where the answer ends"
            raise ValueError(f"a refusal's headers {why}: {self.headers!r}")


# Bodies that end early


class BodyTooLong(TusError):
    status = 413

    def __init__(self) -> None:
        super().__init__("The body goes on behind the end of the upload.")


class RequestTooLong(TusError):
    """``kept``: bytes have been stored before it was known."""

    status = 413

    def __init__(self, limit: int, *, kept: bool = False) -> None:
        then = "what came is kept, send the rest." if kept else "send the upload in several."
        super().__init__(f"One request may have {limit} bytes at most; {then}")


class BodyTooSlow(TusError):
    status = 408

    def __init__(self, rate: int) -> None:
        super().__init__(f"The body came at less than {rate} bytes a second.")


class TooManyBodies(TusError):
    """Nothing of the body has been read."""

    status = 503
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The server receives as many uploads as it can; try again later.")


class BodyCutShort(TusError):
    def __init__(self) -> None:
        super().__init__("The connection ended before the body did.")


class BodyMalformed(TusError):
    def __init__(self) -> None:
        super().__init__("The body's transfer coding is broken.")


class BodyTimedOut(TusError):
    def __init__(self) -> None:
        super().__init__("No byte of the body came in time.")


class UploadDisplaced(TusError):
    status = 423
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("Another request took the upload over.")


class ServerStopping(TusError):
    status = 503
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


# The store


class StoreFull(TusError):
    status = 507

    def __init__(self) -> None:
        super().__init__("There is no room left for this upload.")


class StoreFailed(TusError):
    status = 500

    def __init__(self) -> None:
        super().__init__("The bytes could not be stored; what was stored before stays.")


class HookFailed(TusError):
    status = 500

    def __init__(self) -> None:
        super().__init__("The application failed while it judged the request.")


class StoreUnavailable(TusError):
    status = 503
    retry_after = 5

    def __init__(self, explanation: str = "it has been closed") -> None:
        """``explanation`` is for the log; the client is not told about paths."""
        self.explanation = explanation
        super().__init__("The store is not available now.")
        self.add_note(explanation)
