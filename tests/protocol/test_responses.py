from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.checksum import algorithms
from aiotus_server.protocol.errors import (
    BodyTimedOut,
    BodyTooLong,
    ChecksumMismatch,
    HeaderMissing,
    MethodNotAllowed,
    OffsetMismatch,
    Refuse,
    ServerStopping,
    StoreFailed,
    StoreFull,
    StoreUnavailable,
    TusError,
    UploadExpired,
    UploadLocked,
    UploadNotFound,
    VersionUnsupported,
)
from aiotus_server.protocol.requests import Offer
from aiotus_server.protocol.responses import (
    Answer,
    appended,
    created,
    discovered,
    failed,
    failed_inspection,
    inspected,
    terminated,
)
from aiotus_server.protocol.uploads import Final, Outcome, Partial, Upload

NOW = datetime(2014, 6, 25, 16, tzinfo=UTC)
DATE = "Wed, 25 Jun 2014 16:00:00 GMT"
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def upload(**facts: Any) -> Upload:
    return Upload(**{"upload_id": "a", "offset": 3, "length": 10, "created": NOW, **facts})


@pytest.mark.parametrize(
    ("extensions", "max_size", "headers"),
    [
        (set(), None, {"Tus-Version": "1.0.0"}),
        (set(), 0, {"Tus-Version": "1.0.0", "Tus-Max-Size": "0"}),
        (
            {"termination", "creation"},
            1073741824,
            {
                "Tus-Version": "1.0.0",
                "Tus-Extension": "creation,termination",
                "Tus-Max-Size": "1073741824",
            },
        ),
        (
            {"checksum"},
            None,
            {
                "Tus-Version": "1.0.0",
                "Tus-Extension": "checksum",
                "Tus-Checksum-Algorithm": "sha1,md5",
            },
        ),
    ],
)
def test_discovered(extensions: set[str], max_size: int | None, headers: dict[str, str]) -> None:
    offer = Offer(frozenset(extensions), ("sha1", "md5"))
    assert discovered(offer, max_size) == Answer(204, headers)


def test_every_algorithm_is_listed() -> None:
    listed = discovered(Offer(frozenset({"checksum"}), algorithms()), None)
    assert listed.headers["Tus-Checksum-Algorithm"].split(",") == list(algorithms())


@pytest.mark.parametrize(
    ("facts", "with_upload", "headers"),
    [
        ({"offset": 0}, False, {}),
        ({"offset": 3}, True, {"Upload-Offset": "3"}),
        ({"offset": 0, "expires": NOW}, False, {"Upload-Expires": DATE}),
        ({"offset": 10, "expires": NOW}, True, {"Upload-Offset": "10"}),
    ],
)
def test_created(facts: dict[str, Any], with_upload: bool, headers: dict[str, str]) -> None:
    answer = created(upload(**facts), "/files/a", with_upload=with_upload)
    assert answer == Answer(201, {"Location": "/files/a", **headers})


@pytest.mark.parametrize(
    ("facts", "headers"),
    [
        ({}, {"Upload-Offset": "3"}),
        ({"expires": NOW}, {"Upload-Offset": "3", "Upload-Expires": DATE}),
        ({"offset": 10, "expires": NOW}, {"Upload-Offset": "10"}),
    ],
)
def test_appended(facts: dict[str, Any], headers: dict[str, str]) -> None:
    assert appended(upload(**facts)) == Answer(204, headers)


def test_terminated() -> None:
    assert terminated() == Answer(204)


@pytest.mark.parametrize(
    ("facts", "headers"),
    [
        ({}, {"Upload-Offset": "3", "Upload-Length": "10"}),
        ({"offset": 0, "length": 0}, {"Upload-Offset": "0", "Upload-Length": "0"}),
        ({"length": None}, {"Upload-Offset": "3", "Upload-Defer-Length": "1"}),
        (
            {"expires": NOW},
            {"Upload-Offset": "3", "Upload-Length": "10", "Upload-Expires": DATE},
        ),
        (
            {"offset": 10, "expires": NOW},
            {"Upload-Offset": "10", "Upload-Length": "10"},
        ),
        (
            {"metadata": "a  odd,", "concat": Partial(), "concat_header": "partial"},
            {
                "Upload-Offset": "3",
                "Upload-Length": "10",
                "Upload-Metadata": "a  odd,",
                "Upload-Concat": "partial",
            },
        ),
        (
            {"offset": 0, "length": None, "concat": Final(("b",)), "concat_header": "final;/b"},
            {"Upload-Concat": "final;/b"},
        ),
        (
            {"offset": 0, "length": 7, "concat": Final(("b",)), "concat_header": "final;/b"},
            {"Upload-Length": "7", "Upload-Concat": "final;/b"},
        ),
        (
            {
                "offset": 7,
                "length": 7,
                "concat": Final(("b",), joined=True),
                "concat_header": "final;/b",
            },
            {"Upload-Offset": "7", "Upload-Length": "7", "Upload-Concat": "final;/b"},
        ),
    ],
)
def test_inspected(facts: dict[str, Any], headers: dict[str, str]) -> None:
    assert inspected(upload(**facts)) == Answer(200, {"Cache-Control": "no-store", **headers})


@pytest.mark.parametrize(
    ("error", "status", "headers", "start"),
    [
        (HeaderMissing("Upload-Offset"), 400, {}, "HEADER_MISSING: The header Upload-Offset "),
        (VersionUnsupported(None), 412, {"Tus-Version": "1.0.0"}, "VERSION_UNSUPPORTED: "),
        (VersionUnsupported("x\r\ny"), 412, {"Tus-Version": "1.0.0"}, "VERSION_UNSUPPORTED: "),
        (OffsetMismatch(5, 3), 409, {"Upload-Offset": "3"}, "OFFSET_MISMATCH: The offset is 3"),
        (MethodNotAllowed(["HEAD", "GET"]), 405, {"Allow": "HEAD, GET"}, "METHOD_NOT_ALLOWED: "),
        (ChecksumMismatch("sha1"), 460, {}, "CHECKSUM_MISMATCH: The sha1 "),
        (UploadLocked(), 423, {"Retry-After": "1"}, "UPLOAD_LOCKED: "),
        (ServerStopping(), 503, {"Retry-After": "5"}, "SERVER_STOPPING: "),
        (StoreFull(), 507, {}, "STORE_FULL: "),
    ],
)
def test_failed(error: TusError, status: int, headers: dict[str, str], start: str) -> None:
    answer = failed(error)
    assert (answer.status, answer.headers) == (status, {**PLAIN, **headers})
    text = answer.body.decode()
    assert text.startswith(start)
    assert re.fullmatch(r"[A-Z_]+: [^\n]+\.\n", text)


def test_only_460_has_a_phrase_of_its_own() -> None:
    assert failed(ChecksumMismatch("sha1")).reason == "Checksum Mismatch"
    assert failed(UploadNotFound()).reason is None


def test_a_failure_tells_when_the_upload_expires_and_where_it_is() -> None:
    error = BodyTooLong()
    error.upload = upload(expires=NOW)
    error.location = "/files/a"
    assert failed(error).headers == {**PLAIN, "Upload-Expires": DATE, "Location": "/files/a"}
    error.upload = upload(offset=10, expires=NOW)
    assert "Upload-Expires" not in failed(error).headers


@pytest.mark.parametrize("error", [BodyTooLong(), ChecksumMismatch("sha1"), BodyTimedOut()])
def test_an_error_tells_no_offset(error: TusError) -> None:
    """TUSKit reads Upload-Offset without looking at the status."""
    error.upload = upload()
    assert "Upload-Offset" not in failed(error).headers


@pytest.mark.parametrize(
    ("refusal", "status", "headers", "body"),
    [
        (Refuse(), 403, PLAIN, b""),
        (Refuse(402, "pay é"), 402, PLAIN, "pay é".encode()),
        (Refuse(403, b"\0"), 403, {}, b"\0"),
        (Refuse(403, "{}", {"content-type": "x/y"}), 403, {"content-type": "x/y"}, b"{}"),
        (Refuse(403, b"", {"X": "y"}), 403, {"X": "y"}, b""),
    ],
)
def test_refused(refusal: Refuse, status: int, headers: dict[str, str], body: bytes) -> None:
    answer = failed(refusal)
    assert (answer.status, answer.headers, answer.body) == (status, headers, body)


def test_a_refusal_cannot_change_what_is_the_protocols_to_say() -> None:
    refusal = Refuse(403, b"", {"upload-expires": "never", "LOCATION": "/x", "X": "y"})
    refusal.upload = upload(expires=NOW)
    refusal.location = "/files/a"
    assert failed(refusal).headers == {
        "X": "y",
        "Upload-Expires": DATE,
        "Location": "/files/a",
    }


@pytest.mark.parametrize("status", [0, 200, 204, 302, 399, 600])
def test_a_refusal_needs_an_error_status(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        Refuse(status)


@pytest.mark.parametrize(
    "error", [UploadNotFound(), UploadExpired(), UploadLocked(), VersionUnsupported("2"), Refuse()]
)
def test_a_failed_inspection_is_not_stored_either(error: TusError) -> None:
    answer = failed_inspection(error)
    assert answer is not None
    assert answer.status == failed(error).status
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "error",
    [
        StoreFailed(),
        StoreUnavailable(),
        ServerStopping(),
        StoreFull(),
        Refuse(408),
        Refuse(429),
        Refuse(500),
    ],
)
def test_a_passing_problem_is_no_answer_to_head(error: TusError) -> None:
    """tus-js-client would upload everything again from 0."""
    assert failed_inspection(error) is None


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Outcome(), Answer(204, {"Upload-Offset": "10"})),
        (Outcome(headers={"X": "y"}), Answer(204, {"X": "y", "Upload-Offset": "10"})),
        (Outcome(body=b"text"), Answer(200, {"Upload-Offset": "10"}, b"text")),
        (Outcome(201, {"X": "y"}, b"t"), Answer(201, {"X": "y", "Upload-Offset": "10"}, b"t")),
        (
            Outcome(headers={"upload-offset": "99"}),
            Answer(204, {"Upload-Offset": "10"}),
        ),
        (Outcome(422, {"X": "y"}, b"no"), Answer(422, {"X": "y"}, b"no")),
    ],
)
def test_pre_finish_shapes_the_last_answer_but_not_the_protocol(
    outcome: Outcome, answer: Answer
) -> None:
    assert appended(upload(offset=10, outcome=outcome)) == answer


def test_pre_finish_shapes_the_answer_to_a_creation_too() -> None:
    done = upload(offset=10, outcome=Outcome(None, {"location": "/x", "X": "y"}, b"text"))
    assert created(done, "/files/a", with_upload=True) == Answer(
        201, {"X": "y", "Location": "/files/a", "Upload-Offset": "10"}, b"text"
    )


def test_the_outcome_is_not_told_by_head() -> None:
    done = upload(offset=10, outcome=Outcome(422, {"X": "y"}, b"no"))
    assert inspected(done) == inspected(upload(offset=10))


texts = st.text(max_size=30)


@given(st.integers(0, 2**64), st.integers(0, 2**64), texts)
def test_no_error_echoes_more_than_one_line(given_: int, current: int, text: str) -> None:
    for error in (OffsetMismatch(given_, current), VersionUnsupported(text)):
        answer = failed(error)
        assert answer.body.count(b"\n") == 1
        for value in answer.headers.values():
            assert value.isascii()
            assert value.isprintable()
