from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.errors import (
    ContentCodingUnsupported,
    ContentTypeUnsupported,
    HeaderMalformed,
    HeaderMissing,
    HeaderRepeated,
    MethodOverrideUnusable,
    VersionUnsupported,
)
from aiotus_server.protocol.headers import (
    BEYOND_63_BITS,
    announces_checksum_trailer,
    check_content_coding,
    check_content_type,
    check_override,
    check_version,
    format_date,
    is_offset_octet_stream,
    method_of,
    parse_field,
    parse_integer,
    parse_integer_field,
    required_integer_field,
)

from .fields import Fields, any_fields, any_text, check_outcome, fields


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("007", 7),
        ("0" * 5000, 0),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), BEYOND_63_BITS),
        (str(2**63 + 1), BEYOND_63_BITS),
        (str(2**64), BEYOND_63_BITS),
        ("9" * 19, BEYOND_63_BITS),
        ("9" * 8000, BEYOND_63_BITS),  # int() refuses more than 4300 digits
        ("0" * 5000 + "12", 12),
    ],
)
def test_integer(text: str, value: int) -> None:
    assert parse_integer("Upload-Offset", text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+5",
        "-1",
        "-0",
        "1_0",
        "٣",
        "५",
        "²",
        "5.0",
        "0x1",
        "1e3",
        "1 0",
        "5,5",
        " 5",
        "5\n",
    ],
)
def test_no_integer(text: str) -> None:
    with pytest.raises(HeaderMalformed, match="Upload-Offset"):
        parse_integer("Upload-Offset", text)


@given(st.integers(0, 2**63 - 1))
def test_every_integer_round_trips(number: int) -> None:
    assert parse_integer("Upload-Length", str(number)) == number


@pytest.mark.parametrize(
    ("given_", "value"),
    [
        (fields(), None),
        (fields(Other="1"), None),
        (fields(A="v"), "v"),
        (fields(("a", "v")), "v"),
        (fields(A=" \tv w\t "), "v w"),
    ],
)
def test_field(given_: Fields, value: str | None) -> None:
    assert parse_field(given_, "A") == value


@pytest.mark.parametrize("blank", ["", " ", "\t "])
def test_an_empty_field_is_malformed(blank: str) -> None:
    with pytest.raises(HeaderMalformed):
        parse_field(fields(A=blank), "A")


def test_a_field_sent_twice_is_refused_even_if_both_are_equal() -> None:
    with pytest.raises(HeaderRepeated):
        parse_field(fields(("A", "v"), ("a", "v")), "A")


def test_integer_fields() -> None:
    assert parse_integer_field(fields(), "Upload-Length") is None
    assert parse_integer_field(fields(Upload_Length=" 12 "), "Upload-Length") == 12
    assert required_integer_field(fields(Upload_Offset="0"), "Upload-Offset") == 0
    with pytest.raises(HeaderMissing, match="Upload-Offset"):
        required_integer_field(fields(), "Upload-Offset")


def test_version() -> None:
    check_version(fields(Tus_Resumable="1.0.0"))
    check_version(fields(Tus_Resumable=" 1.0.0\t"))


@pytest.mark.parametrize(
    "given_",
    [
        fields(),
        fields(Tus_Resumable=""),
        fields(Tus_Resumable="1.0"),
        fields(Tus_Resumable="1.0.1"),
        fields(Tus_Resumable="0.2.2"),
        fields(Tus_Resumable="1.0.0, 0.2.2"),
        fields(("Tus-Resumable", "1.0.0"), ("Tus-Resumable", "1.0.0")),
    ],
)
def test_any_other_version_is_unsupported(given_: Fields) -> None:
    with pytest.raises(VersionUnsupported):
        check_version(given_)


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE"])
def test_method_override_with_a_method_of_tus(method: str) -> None:
    given_ = fields(X_HTTP_Method_Override=f" {method} ")
    check_override(given_)
    assert method_of("POST", given_) == method


def test_without_an_override_the_method_is_the_real_one() -> None:
    check_override(fields())
    assert method_of("PUT", fields()) == "PUT"


@pytest.mark.parametrize(
    "given_",
    [
        fields(X_HTTP_Method_Override=""),
        fields(X_HTTP_Method_Override="PUT"),
        fields(X_HTTP_Method_Override="patch"),
        fields(X_HTTP_Method_Override="PATCH, DELETE"),
        fields(("X-HTTP-Method-Override", "PATCH"), ("X-HTTP-Method-Override", "PATCH")),
    ],
)
def test_other_overrides_are_unusable(given_: Fields) -> None:
    with pytest.raises(MethodOverrideUnusable):
        check_override(given_)


@pytest.mark.parametrize(
    ("given_", "right"),
    [
        (fields(Content_Type="application/offset+octet-stream"), True),
        (fields(Content_Type="Application/OFFSET+octet-stream"), True),
        (fields(Content_Type="application/offset+octet-stream; charset=utf-8"), True),
        (fields(Content_Type=" application/offset+octet-stream ;x=y"), True),
        (fields(), False),
        (fields(Content_Type=""), False),
        (fields(Content_Type="application/octet-stream"), False),
        (fields(Content_Type="application/offset+octet-streams"), False),
        (fields(Content_Type="x; application/offset+octet-stream"), False),
        (fields(Content_Type="application/offset octet-stream"), False),
    ],
)
def test_content_type(given_: Fields, right: bool) -> None:
    assert is_offset_octet_stream(given_) is right
    if not right:
        with pytest.raises(ContentTypeUnsupported):
            check_content_type(given_)


@pytest.mark.parametrize("value", ["", "identity", "Identity", " identity , identity", ","])
def test_no_content_coding(value: str) -> None:
    check_content_coding(fields(Content_Encoding=value))


@pytest.mark.parametrize("value", ["gzip", "GZIP", "identity, gzip", "br,identity", "x-unknown"])
def test_content_coding(value: str) -> None:
    with pytest.raises(ContentCodingUnsupported):
        check_content_coding(fields(Content_Encoding=value))


def test_content_coding_in_a_second_field() -> None:
    with pytest.raises(ContentCodingUnsupported):
        check_content_coding(fields(("Content-Encoding", "identity"), ("content-encoding", "br")))


@pytest.mark.parametrize(
    ("given_", "announced"),
    [
        (fields(), False),
        (fields(Trailer="Expires"), False),
        (fields(Trailer="Upload-Checksum"), True),
        (fields(Trailer="expires , UPLOAD-CHECKSUM"), True),
        (fields(("Trailer", "Expires"), ("trailer", "upload-checksum")), True),
        (fields(Trailer="X-Upload-Checksum"), False),
    ],
)
def test_announced_trailer(given_: Fields, announced: bool) -> None:
    assert announces_checksum_trailer(given_) is announced


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        # The example of the specification.
        (datetime(2014, 6, 25, 16, 0, tzinfo=UTC), "Wed, 25 Jun 2014 16:00:00 GMT"),
        (datetime(2014, 6, 25, 16, 0, 0, 999999, UTC), "Wed, 25 Jun 2014 16:00:00 GMT"),
        (
            datetime(2014, 6, 25, 18, 0, tzinfo=timezone(timedelta(hours=2))),
            "Wed, 25 Jun 2014 16:00:00 GMT",
        ),
        (datetime(1999, 1, 1, tzinfo=UTC), "Fri, 01 Jan 1999 00:00:00 GMT"),
    ],
)
def test_date(moment: datetime, text: str) -> None:
    assert format_date(moment) == text


@given(any_fields)
def test_any_fields_give_a_value_or_a_tus_error(given_: Fields) -> None:
    for check in (
        check_version,
        check_override,
        check_content_type,
        check_content_coding,
        announces_checksum_trailer,
        partial(parse_field, name="Upload-Length"),
        partial(parse_integer_field, name="Upload-Length"),
        partial(required_integer_field, name="Upload-Offset"),
        partial(method_of, "GET"),
    ):
        check_outcome(partial(check, given_))


@given(any_text)
def test_any_text_gives_an_integer_or_a_tus_error(text: str) -> None:
    try:
        value = parse_integer("Upload-Length", text)
    except HeaderMalformed:
        return
    assert 0 <= value <= BEYOND_63_BITS
