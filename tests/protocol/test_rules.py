from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.errors import (
    BodyTooLong,
    FinalNotAppendable,
    LengthBelowOffset,
    LengthChanged,
    MaxSizeExceeded,
    NotPartial,
    OffsetMismatch,
    PartialUnfinished,
    TerminationForbidden,
    TusError,
    UploadExpired,
    UploadNotFound,
)
from aiotus_server.protocol.headers import BEYOND_63_BITS
from aiotus_server.protocol.requests import Append, Create
from aiotus_server.protocol.rules import (
    check_append,
    check_create,
    check_max_size,
    check_parts,
    check_read,
    check_terminate,
    not_expired,
)
from aiotus_server.protocol.uploads import Final, Partial, Upload

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FINAL = Final(("b",), joined=True)


def upload(**facts: Any) -> Upload:
    return Upload(**{"upload_id": "a", "offset": 3, "length": 10, "created": NOW, **facts})


def append(**asked: Any) -> Append:
    known: dict[str, Any] = {"offset": 3, "length": None, "verification": None, "body_length": 5}
    return Append(**{**known, **asked})


def create(**asked: Any) -> Create:
    known: dict[str, Any] = {
        "length": 10,
        "metadata": None,
        "concat": None,
        "concat_header": None,
        "verification": None,
        "body_length": 0,
    }
    return Create(**{**known, **asked})


ALLOWED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "in the middle": ({}, {}),
    "to the very end": ({"body_length": 7}, {}),
    "in chunks": ({"body_length": None}, {}),
    "nothing": ({"body_length": 0}, {}),
    "nothing to a complete one": ({"body_length": 0, "offset": 10}, {"offset": 10}),
    "in chunks to a complete one": ({"body_length": None, "offset": 10}, {"offset": 10}),
    "the same length again": ({"length": 10}, {}),
    "a length that was deferred": ({"length": 8}, {"length": None}),
    "a length at the offset": ({"length": 3, "body_length": 0}, {"length": None}),
    "still deferred": ({"body_length": 10**12}, {"length": None}),
    "not expired yet": ({}, {"expires": NOW + SECOND}),
    "expired but complete": (
        {"offset": 10, "body_length": 0},
        {"offset": 10, "expires": NOW - SECOND},
    ),
    "a partial": ({}, {"concat": Partial()}),
}


@pytest.mark.parametrize(("asked", "facts"), ALLOWED.values(), ids=ALLOWED)
def test_append_is_allowed(asked: dict[str, Any], facts: dict[str, Any]) -> None:
    check_append(append(**asked), upload(**facts), NOW, None)


FORBIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any], type[TusError]]] = {
    "behind the offset": ({"offset": 2}, {}, OffsetMismatch),
    "beyond the offset": ({"offset": 4}, {}, OffsetMismatch),
    "beyond 63 bits": ({"offset": BEYOND_63_BITS}, {}, OffsetMismatch),
    "beyond the offset without body": ({"offset": 4, "body_length": 0}, {}, OffsetMismatch),
    "one byte too many": ({"body_length": 8}, {}, BodyTooLong),
    "data to a complete one": ({"offset": 10, "body_length": 1}, {"offset": 10}, BodyTooLong),
    "data to an empty one": (
        {"offset": 0, "body_length": 1},
        {"offset": 0, "length": 0},
        BodyTooLong,
    ),
    "longer than it declares": ({"length": 7, "body_length": 5}, {"length": None}, BodyTooLong),
    "another length": ({"length": 11}, {}, LengthChanged),
    "a smaller length": ({"length": 9}, {}, LengthChanged),
    "another length for a complete one": (
        {"offset": 10, "body_length": 0, "length": 11},
        {"offset": 10},
        LengthChanged,
    ),
    "a length below the offset": (
        {"length": 2, "body_length": 0},
        {"length": None},
        LengthBelowOffset,
    ),
    "expired": ({}, {"expires": NOW - SECOND}, UploadExpired),
    "expired right now": ({}, {"expires": NOW}, UploadExpired),
    "expired, its length deferred": (
        {},
        {"expires": NOW, "length": None},
        UploadExpired,
    ),
    "a final": (
        {"offset": 10, "body_length": 0},
        {"offset": 10, "concat": FINAL},
        FinalNotAppendable,
    ),
    "a final that waits": (
        {"offset": 0},
        {"offset": 0, "concat": Final(("b",))},
        FinalNotAppendable,
    ),
    # In which order the rules apply, where two are broken:
    "a final, at another offset": ({"offset": 99}, {"concat": FINAL}, FinalNotAppendable),
    "an expired final": ({}, {"concat": Final(("b",)), "expires": NOW}, FinalNotAppendable),
    "expired, at another offset": ({"offset": 99}, {"expires": NOW}, UploadExpired),
    "too long, at another offset": ({"offset": 9, "body_length": 99}, {}, OffsetMismatch),
    "another length, at another offset": ({"offset": 9, "length": 99}, {}, OffsetMismatch),
}


@pytest.mark.parametrize(("asked", "facts", "error"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_append_is_refused(
    asked: dict[str, Any], facts: dict[str, Any], error: type[TusError]
) -> None:
    with pytest.raises(error):
        check_append(append(**asked), upload(**facts), NOW, None)


def test_a_mismatch_tells_the_current_offset() -> None:
    with pytest.raises(OffsetMismatch) as caught:
        check_append(append(offset=9), upload(), NOW, None)
    assert caught.value.current == 3


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"length": 20}, True),
        ({"length": 21}, False),
        ({"length": BEYOND_63_BITS, "body_length": 0}, False),
        ({"body_length": 17}, True),
        ({"body_length": 18}, False),
        ({"body_length": None}, True),  # it is stopped on its way
        ({"body_length": 0}, True),
    ],
)
def test_max_size_holds_for_an_upload_without_length(asked: dict[str, Any], allowed: bool) -> None:
    deferred = upload(length=None)
    if allowed:
        check_append(append(**asked), deferred, NOW, 20)
    else:
        with pytest.raises(MaxSizeExceeded):
            check_append(append(**asked), deferred, NOW, 20)


def test_max_size_lowered_later_does_not_stop_an_upload_that_was_promised() -> None:
    check_append(append(), upload(), NOW, 5)


@pytest.mark.parametrize(
    ("size", "max_size", "allowed"),
    [
        (None, None, True),
        (None, 0, True),
        (0, 0, True),
        (1, 0, False),
        (10, 10, True),
        (11, 10, False),
        (2**63 - 1, None, True),
        (BEYOND_63_BITS, None, False),
        (BEYOND_63_BITS, BEYOND_63_BITS + 5, False),
    ],
)
def test_max_size(size: int | None, max_size: int | None, allowed: bool) -> None:
    if allowed:
        check_max_size(size, max_size)
    else:
        with pytest.raises(MaxSizeExceeded):
            check_max_size(size, max_size)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({}, None),
        ({"length": 0}, None),
        ({"length": None}, None),
        ({"length": 20}, None),
        ({"length": 21}, MaxSizeExceeded),
        ({"body_length": 10}, None),
        ({"body_length": 11}, BodyTooLong),
        ({"body_length": None}, None),
        ({"length": None, "body_length": 20}, None),
        ({"length": None, "body_length": 21}, MaxSizeExceeded),
        ({"length": 21, "body_length": 22}, MaxSizeExceeded),
    ],
)
def test_create(asked: dict[str, Any], error: type[TusError] | None) -> None:
    if error is None:
        check_create(create(**asked), 20)
    else:
        with pytest.raises(error):
            check_create(create(**asked), 20)


def part(offset: int = 5, length: int | None = 5, **facts: Any) -> Upload:
    return upload(**{"offset": offset, "length": length, "concat": Partial(), **facts})


@pytest.mark.parametrize(
    ("parts", "unfinished", "outcome"),
    [
        ([part()], False, 5),
        ([part(), part(7, 7), part()], False, 17),
        ([part(0, 0)], False, 0),
        ([part(expires=NOW)], False, 5),
        ([part(2)], True, 5),
        ([part(2), part()], True, 10),
        ([part(2, None)], True, None),
        ([part(), part(2, None), part()], True, None),
        ([part(2)], False, PartialUnfinished),
        ([part(2, None)], False, PartialUnfinished),
        ([part(), upload(offset=10)], True, NotPartial),
        ([part(), upload(offset=10, concat=FINAL)], True, NotPartial),
        ([part(2, expires=NOW)], True, UploadExpired),
        ([part(11, 11), part(10, 10)], False, MaxSizeExceeded),
        ([part(2, 11), part(2, 10)], True, MaxSizeExceeded),
        ([part(10, 10), part(10, 10)], False, 20),
    ],
)
def test_parts(parts: list[Upload], unfinished: bool, outcome: int | type[TusError] | None) -> None:
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            check_parts(parts, unfinished=unfinished, max_size=20, now=NOW)
    else:
        assert check_parts(parts, unfinished=unfinished, max_size=20, now=NOW) == outcome


@pytest.mark.parametrize(
    ("facts", "complete_allowed", "allowed"),
    [
        ({}, False, True),
        ({}, True, True),
        ({"offset": 10}, True, True),
        ({"offset": 10}, False, False),
        ({"offset": 10, "concat": FINAL}, False, False),
        ({"concat": Final(("b",))}, False, True),
    ],
)
def test_terminate(facts: dict[str, Any], complete_allowed: bool, allowed: bool) -> None:
    if allowed:
        check_terminate(upload(**facts), complete_allowed=complete_allowed)
    else:
        with pytest.raises(TerminationForbidden):
            check_terminate(upload(**facts), complete_allowed=complete_allowed)


def test_only_complete_uploads_are_read() -> None:
    check_read(upload(offset=10))
    for facts in ({}, {"length": None}, {"offset": 9, "unverified": True}):
        with pytest.raises(UploadNotFound):
            check_read(upload(**facts))


def test_a_complete_upload_never_expires() -> None:
    not_expired(upload(offset=10, expires=NOW - SECOND), NOW)
    not_expired(upload(offset=10, expires=NOW - SECOND, unverified=True), NOW)
    not_expired(upload(), NOW)
    with pytest.raises(UploadExpired):
        not_expired(upload(offset=9, expires=NOW - SECOND, unverified=True), NOW)


numbers = st.integers(0, 30)


@given(numbers, numbers, st.none() | numbers, st.none() | numbers, st.none() | numbers)
def test_what_is_allowed_never_leaves_the_upload(
    offset: int, at: int, length: int | None, declared: int | None, body_length: int | None
) -> None:
    facts = upload(offset=offset, length=length)
    try:
        check_append(append(offset=at, length=declared, body_length=body_length), facts, NOW, 20)
    except TusError:
        return
    end = at + (body_length or 0)
    assert at == offset
    assert end <= (20 if length is None else length) or end == offset
    if length is None and declared is not None:
        assert end <= declared <= 20
