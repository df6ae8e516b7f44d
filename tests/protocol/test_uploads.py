from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.errors import MetadataMalformed
from aiotus_server.protocol.uploads import (
    UPLOAD_ID,
    Final,
    Partial,
    Upload,
    format_metadata,
    parse_metadata,
)

from .fields import any_text, check_outcome

CREATED = datetime(2024, 1, 1, tzinfo=UTC)
Metadata = dict[str, bytes | None]


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        (None, {}),
        ("", {}),
        # The example of the specification.
        (
            "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential",
            {"filename": b"world_domination_plan.pdf", "is_confidential": None},
        ),
        ("key", {"key": None}),
        ("key ", {"key": None}),
        ("a YQ==,b,c ,d ZA==", {"a": b"a", "b": None, "c": None, "d": b"d"}),
        ("a YQ==, b Yg==", {"a": b"a", "b": b"b"}),
        ("a YQ==,\t b Yg==", {"a": b"a", "b": b"b"}),
        ("A YQ==,a Yg==", {"A": b"a", "a": b"b"}),
        ("a, YQ==", {"a": None, "YQ==": None}),  # a blank behind a comma, not an empty key
        ("a AP8=", {"a": b"\x00\xff"}),
        ("!#$;:=/\"'~ YQ==", {"!#$;:=/\"'~": b"a"}),
    ],
)
def test_metadata(text: str | None, metadata: Metadata) -> None:
    assert parse_metadata(text) == metadata
    assert list(parse_metadata(text)) == list(metadata)


MALFORMED: dict[str, tuple[str, Metadata]] = {
    "an empty element": ("a YQ==,,b Yg==", {"a": b"a", "b": b"b"}),
    "an empty element at the end": ("a YQ==,", {"a": b"a"}),
    "an empty element at the start": (",a YQ==", {"a": b"a"}),
    "a key twice": ("a YQ==,a Yg==", {"a": b"a"}),
    "a key twice without value": ("a,a", {"a": None}),
    "a key not ASCII": ("é YQ==,b Yg==", {"b": b"b"}),
    "a key with a tab": ("a\tb,c Yw==", {"c": b"c"}),
    "a key with a control character": ("a\x7f YQ==,b", {"b": None}),
    "no Base64": ("a !!!!,b Yg==", {"b": b"b"}),
    "Base64 without padding": ("a YQ,b Yg==", {"b": b"b"}),
    "Base64 for URLs": ("a -_-_,b Yg==", {"b": b"b"}),
    "Base64 with too much padding": ("a YQ===,b Yg==", {"b": b"b"}),
    "Base64 not ASCII": ("a é,b Yg==", {"b": b"b"}),
    "two spaces": ("a  YQ==,b Yg==", {"b": b"b"}),
    "two values": ("a YQ== YQ==,b Yg==", {"b": b"b"}),
    "a space behind the value": ("a YQ== ,b Yg==", {"b": b"b"}),
    "a lone surrogate": ("a \udcff,b Yg==", {"b": b"b"}),
}


@pytest.mark.parametrize("text", [text for text, _ in MALFORMED.values()], ids=MALFORMED)
def test_malformed_metadata(text: str) -> None:
    with pytest.raises(MetadataMalformed):
        parse_metadata(text)


@pytest.mark.parametrize(("text", "metadata"), MALFORMED.values(), ids=MALFORMED)
def test_lenience_drops_the_malformed_pair_only(text: str, metadata: Metadata) -> None:
    assert parse_metadata(text, lenient=True) == metadata


keys = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
)
metadatas = st.dictionaries(keys, st.none() | st.binary(min_size=1), max_size=6)


@given(metadatas)
def test_metadata_round_trips(metadata: Metadata) -> None:
    text = format_metadata(metadata)
    assert parse_metadata(text) == metadata
    assert list(parse_metadata(text)) == list(metadata)
    assert text.isascii()
    assert not text or text.isprintable()


def test_an_empty_value_comes_back_as_none() -> None:
    """ "The value MAY be empty. In these cases, the space […] MAY be left out." """
    assert parse_metadata(format_metadata({"a": b"", "b": b"x"})) == {"a": None, "b": b"x"}


@given(any_text)
def test_any_text_gives_metadata_or_a_tus_error(text: str) -> None:
    check_outcome(lambda: parse_metadata(text))
    lenient = parse_metadata(text, lenient=True)
    assert parse_metadata(format_metadata(lenient)) == lenient


@pytest.mark.parametrize("text", ["a", "Z", "0", "-", "_", "a" * 64, "0a-_Z"])
def test_upload_id(text: str) -> None:
    assert UPLOAD_ID.fullmatch(text)


@pytest.mark.parametrize(
    "text", ["", "a" * 65, ".", "..", "a.info", "a/b", "a\\b", "a\n", "é", "٣", "a b", "a%2e", "\0"]
)
def test_no_upload_id(text: str) -> None:
    assert not UPLOAD_ID.fullmatch(text)


def upload(**facts: Any) -> Upload:
    return Upload(**{"upload_id": "a", "offset": 0, "length": 10, "created": CREATED, **facts})


@pytest.mark.parametrize(
    ("facts", "complete", "room"),
    [
        ({"offset": 0}, False, 10),
        ({"offset": 9}, False, 1),
        ({"offset": 10}, True, 0),
        ({"offset": 0, "length": 0}, True, 0),
        ({"offset": 0, "length": None}, False, None),
        # Unverified bytes lie behind the offset, so they take nothing away from it.
        ({"offset": 10, "unverified": True}, True, 0),
        ({"offset": 9, "unverified": True}, False, 1),
        ({"offset": 10, "concat": Partial()}, True, 0),
        ({"offset": 0, "length": 0, "concat": Final(("b",))}, False, 0),
        ({"offset": 10, "concat": Final(("b",))}, False, 0),
        ({"offset": 10, "concat": Final(("b",), joined=True)}, True, 0),
    ],
)
def test_state(facts: dict[str, Any], complete: bool, room: int | None) -> None:
    assert upload(**facts).complete is complete
    assert upload(**facts).room == room


def test_a_snapshot_cannot_change() -> None:
    with pytest.raises(AttributeError):
        upload().offset = 5  # type: ignore[misc]


@given(st.binary())
def test_values_are_standard_base64(value: bytes) -> None:
    expected = f"k {base64.b64encode(value).decode()}"
    assert format_metadata({"k": value}) == expected
