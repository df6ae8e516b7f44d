"""What users may build on: names, their docstrings, and the stable codes of errors."""

from __future__ import annotations

import inspect
import re
from importlib import resources

import pytest

import aiotus_server
from aiotus_server.protocol import errors
from aiotus_server.protocol.errors import TusError


def test_the_public_names() -> None:
    """Those that README tells of stay, and the list is in order."""
    assert set(aiotus_server.__all__) >= {
        "DiskStore",
        "Expiry",
        "Hooks",
        "Options",
        "Refuse",
        "TusError",
        "setup",
        "sweep",
        "tus_routes",
    }
    assert sorted(aiotus_server.__all__) == aiotus_server.__all__
    assert len(set(aiotus_server.__all__)) == len(aiotus_server.__all__)


@pytest.mark.parametrize("name", aiotus_server.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    thing = getattr(aiotus_server, name)
    docstring = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # A dataclass without one gets its signature.
    assert docstring
    assert not docstring.startswith(f"{name}(")


@pytest.mark.parametrize(
    ("name", "member"),
    [
        (name, member)
        for name in aiotus_server.__all__
        for member, value in vars(getattr(aiotus_server, name)).items()
        if inspect.isclass(getattr(aiotus_server, name))
        and not member.startswith("_")
        and inspect.isfunction(value)
    ],
)
def test_every_public_method_has_a_docstring(name: str, member: str) -> None:
    """Its own, or that of the method of a base class that it overrides."""
    assert inspect.getdoc(getattr(getattr(aiotus_server, name), member))


@pytest.mark.parametrize("name", aiotus_server.__all__)
def test_public_names_are_typed(name: str) -> None:
    thing = getattr(aiotus_server, name)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        parts = [parameter.annotation for parameter in signature.parameters.values()]
        assert inspect.Signature.empty not in [*parts, signature.return_annotation]


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("aiotus_server").joinpath("py.typed").is_file()


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", aiotus_server.__version__)


# Programs look at the code, clients at the status: neither may change unnoticed.
CODES = {
    "BodyCutShort": (400, "BODY_CUT_SHORT"),
    "BodyMalformed": (400, "BODY_MALFORMED"),
    "BodyTimedOut": (400, "BODY_TIMED_OUT"),
    "BodyTooSlow": (408, "BODY_TOO_SLOW"),
    "RequestTooLong": (413, "REQUEST_TOO_LONG"),
    "TooManyBodies": (503, "TOO_MANY_BODIES"),
    "BodyTooLong": (413, "BODY_TOO_LONG"),
    "ChecksumAlgorithmUnknown": (400, "CHECKSUM_ALGORITHM_UNKNOWN"),
    "ChecksumGivenTwice": (400, "CHECKSUM_GIVEN_TWICE"),
    "ChecksumMalformed": (400, "CHECKSUM_MALFORMED"),
    "ChecksumMismatch": (460, "CHECKSUM_MISMATCH"),
    "ChecksumTrailerMissing": (400, "CHECKSUM_TRAILER_MISSING"),
    "ChecksumTrailerUnreadable": (400, "CHECKSUM_TRAILER_UNREADABLE"),
    "ConcatMalformed": (400, "CONCAT_MALFORMED"),
    "ContentCodingUnsupported": (415, "CONTENT_CODING_UNSUPPORTED"),
    "ContentTypeUnsupported": (415, "CONTENT_TYPE_UNSUPPORTED"),
    "ExpectationUnknown": (417, "EXPECTATION_UNKNOWN"),
    "ExtensionDisabled": (400, "EXTENSION_DISABLED"),
    "FinalHasLength": (400, "FINAL_HAS_LENGTH"),
    "FinalNotAppendable": (403, "FINAL_NOT_APPENDABLE"),
    "HeaderMalformed": (400, "HEADER_MALFORMED"),
    "HeaderMissing": (400, "HEADER_MISSING"),
    "HeaderRepeated": (400, "HEADER_REPEATED"),
    "HookFailed": (500, "HOOK_FAILED"),
    "LengthBelowOffset": (400, "LENGTH_BELOW_OFFSET"),
    "LengthChanged": (400, "LENGTH_CHANGED"),
    "LengthNotClear": (400, "LENGTH_NOT_CLEAR"),
    "MaxSizeExceeded": (413, "MAX_SIZE_EXCEEDED"),
    "MetadataMalformed": (400, "METADATA_MALFORMED"),
    "MethodNotAllowed": (405, "METHOD_NOT_ALLOWED"),
    "MethodOverrideUnusable": (400, "METHOD_OVERRIDE_UNUSABLE"),
    "NotPartial": (400, "NOT_PARTIAL"),
    "OffsetMismatch": (409, "OFFSET_MISMATCH"),
    "PartialUnfinished": (400, "PARTIAL_UNFINISHED"),
    "PartialUnknown": (400, "PARTIAL_UNKNOWN"),
    "Refuse": (400, "REFUSE"),  # the status is the hook's choice
    "ServerStopping": (503, "SERVER_STOPPING"),
    "StoreFailed": (500, "STORE_FAILED"),
    "StoreFull": (507, "STORE_FULL"),
    "StoreUnavailable": (503, "STORE_UNAVAILABLE"),
    "TerminationForbidden": (403, "TERMINATION_FORBIDDEN"),
    "TusError": (400, "TUS_ERROR"),
    "UploadDamaged": (404, "UPLOAD_NOT_FOUND"),
    "UploadDisplaced": (423, "UPLOAD_DISPLACED"),
    "UploadExists": (409, "UPLOAD_EXISTS"),
    "UploadExpired": (410, "UPLOAD_EXPIRED"),
    "PathTaken": (409, "PATH_TAKEN"),
    "UploadLocked": (423, "UPLOAD_LOCKED"),
    "UploadNotFound": (404, "UPLOAD_NOT_FOUND"),
    "UploadTerminated": (410, "UPLOAD_TERMINATED"),
    "VersionUnsupported": (412, "VERSION_UNSUPPORTED"),
}

ERRORS = {
    name: error
    for name, error in vars(errors).items()
    if inspect.isclass(error) and issubclass(error, TusError)
}


def test_codes() -> None:
    assert {name: (error.status, error.code) for name, error in ERRORS.items()} == CODES


def test_passing_problems_say_when_to_come_back() -> None:
    """ "503 (+ Retry-After), 423 or 409": those are what clients try again after."""
    waiting = {name for name, error in ERRORS.items() if error.retry_after is not None}
    assert waiting == {name for name, (status, _) in CODES.items() if status in (423, 503)}


def test_every_error_elsewhere_has_a_code_of_these() -> None:
    def below(error: type[TusError]) -> list[type[TusError]]:
        return [error, *(deeper for sub in error.__subclasses__() for deeper in below(sub))]

    ours = [error for error in below(TusError) if error.__module__.startswith("aiotus_server")]
    assert {error.code for error in ours} == {code for _, code in CODES.values()}
