from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.download import INLINE_TYPES, Selection, etag_of, headers_of, select
from aiotus_server.protocol.uploads import Final, Upload, format_metadata

from .fields import Fields, any_fields, fields

CREATED = datetime(2014, 6, 25, 16, 0, 0, 999999, UTC)
DATE = "Wed, 25 Jun 2014 16:00:00 GMT"
BEFORE = "Wed, 25 Jun 2014 15:59:59 GMT"
AFTER = "Wed, 25 Jun 2014 16:00:01 GMT"


def upload(length: int = 10, **facts: Any) -> Upload:
    return Upload(
        **{"upload_id": "a", "offset": length, "length": length, "created": CREATED, **facts}
    )


ETAG = etag_of(upload())
WHOLE = Selection(200, 0, 10)


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("bytes=0-0", Selection(206, 0, 1)),
        ("bytes=0-9", Selection(206, 0, 10)),
        ("bytes=2-4", Selection(206, 2, 5)),
        ("bytes=9-", Selection(206, 9, 10)),
        ("bytes=0-", Selection(206, 0, 10)),
        ("bytes=5-99", Selection(206, 5, 10)),
        ("bytes=5-9999999999999999999", Selection(206, 5, 10)),
        ("bytes=-1", Selection(206, 9, 10)),
        ("bytes=-10", Selection(206, 0, 10)),
        ("bytes=-99", Selection(206, 0, 10)),
        (" bytes=0-0\t", Selection(206, 0, 1)),
        ("bytes=10-", Selection(416)),
        ("bytes=10-11", Selection(416)),
        ("bytes=9999999999999999999-", Selection(416)),
        ("bytes=-0", Selection(416)),
        # Not understood, and so ignored:
        ("bytes=4-2", WHOLE),
        ("bytes=0-1,3-4", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes 0-1", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=٣-", WHOLE),
        ("lines=0-1", WHOLE),
        ("", WHOLE),
    ],
)
def test_range(text: str, selection: Selection) -> None:
    assert select(fields(Range=text), upload()) == selection


def test_without_a_range_all_is_sent() -> None:
    assert select(fields(), upload()) == WHOLE
    assert select(fields(), upload(0)) == Selection(200, 0, 0)


def test_range_of_an_empty_upload() -> None:
    assert select(fields(Range="bytes=0-"), upload(0)).status in (200, 416)


def test_two_range_fields_are_ignored() -> None:
    assert select(fields(("Range", "bytes=0-1"), ("Range", "bytes=0-1")), upload()) == WHOLE


PART = Selection(206, 0, 1)


@pytest.mark.parametrize(
    ("names", "selection"),
    [
        # RFC 9110, section 13.2.2, in its order
        ({"If_Match": "*"}, PART),
        ({"If_Match": ETAG}, PART),
        ({"If_Match": f'"x", {ETAG}'}, PART),
        ({"If_Match": '"x"'}, Selection(412)),
        ({"If_Match": f"W/{ETAG}"}, Selection(412)),
        ({"If_Match": ETAG, "If_Unmodified_Since": BEFORE}, PART),
        ({"If_Unmodified_Since": DATE}, PART),
        ({"If_Unmodified_Since": AFTER}, PART),
        ({"If_Unmodified_Since": BEFORE}, Selection(412)),
        ({"If_None_Match": '"x"'}, PART),
        ({"If_None_Match": "*"}, Selection(304)),
        ({"If_None_Match": ETAG}, Selection(304)),
        ({"If_None_Match": f"W/{ETAG}"}, Selection(304)),
        ({"If_None_Match": f'"x" ,W/{ETAG}'}, Selection(304)),
        ({"If_None_Match": '"x"', "If_Modified_Since": AFTER}, PART),
        ({"If_Modified_Since": DATE}, Selection(304)),
        ({"If_Modified_Since": AFTER}, Selection(304)),
        ({"If_Modified_Since": BEFORE}, PART),
        ({"If_Match": '"x"', "If_None_Match": ETAG}, Selection(412)),
        ({"If_Range": ETAG}, PART),
        ({"If_Range": '"x"'}, WHOLE),
        ({"If_Range": f"W/{ETAG}"}, WHOLE),
        ({"If_Range": DATE}, PART),
        ({"If_Range": BEFORE}, WHOLE),
        ({"If_Range": AFTER}, WHOLE),
        ({"If_Range": "nonsense"}, WHOLE),
        # Dates that are none
        ({"If_Modified_Since": "nonsense"}, PART),
        ({"If_Modified_Since": ""}, PART),
        ({"If_Modified_Since": "Wed, 25 Jun 2014 16:00:00"}, PART),
        ({"If_Modified_Since": "Wed, 25 Jun 99999999999999999999 16:00:00 GMT"}, PART),
        ({"If_Unmodified_Since": "Wed, 99 Jun 2014 16:00:00 GMT"}, PART),
    ],
)
def test_conditions(names: dict[str, str], selection: Selection) -> None:
    assert select(fields(**names, Range="bytes=0-0"), upload()) == selection


def described(filetype: str | None = None, filename: str | None = None, **more: str) -> Any:
    pairs = {"filetype": filetype, "filename": filename, **more}
    metadata = format_metadata({k: v.encode() for k, v in pairs.items() if v is not None})
    headers = headers_of(upload(metadata=metadata or None), WHOLE)
    return headers["Content-Type"], headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("given_", "sent", "disposition"),
    [
        (None, "application/octet-stream", "attachment"),
        ("", "application/octet-stream", "attachment"),
        ("image/png", "image/png", "inline"),
        ("IMAGE/PNG", "image/png", "inline"),
        ("text/plain; charset=utf-8", "text/plain", "inline"),
        ("text/html", "text/html", "attachment"),
        ("image/svg+xml", "image/svg+xml", "attachment"),
        ("application/vnd.api+json", "application/vnd.api+json", "attachment"),
        ("text/html\r\nX: y", "application/octet-stream", "attachment"),
        ("text/html, image/png", "application/octet-stream", "attachment"),
        ("image", "application/octet-stream", "attachment"),
        ("image/png/x", "application/octet-stream", "attachment"),
        ("imäge/png", "application/octet-stream", "attachment"),
    ],
)
def test_type(given_: str | None, sent: str, disposition: str) -> None:
    assert described(given_) == (sent, disposition)


@pytest.mark.parametrize("media_type", sorted(INLINE_TYPES))
def test_nothing_that_may_run_a_script_is_shown_inline(media_type: str) -> None:
    assert not any(word in media_type for word in ("html", "xml", "svg", "script", "json"))


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("a.txt", '; filename="a.txt"'),
        ("a b;c.txt", '; filename="a b;c.txt"'),
        ("", ""),
        ("é.txt", "; filename=\"_.txt\"; filename*=UTF-8''%C3%A9.txt"),
        ('a"b.txt', "; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
        ("a%20b", "; filename=\"a_20b\"; filename*=UTF-8''a%2520b"),
        ("a'b", '; filename="a\'b"'),
        ("/etc/passwd", '; filename="passwd"'),
        ("..\\..\\a.txt", '; filename="a.txt"'),
        ("a/", ""),
        ("a\r\nX: y", '; filename="aX: y"'),
        ("a\0b", '; filename="ab"'),
        ("a\u202etxt.exe", '; filename="atxt.exe"'),
        ("漢.txt", "; filename=\"_.txt\"; filename*=UTF-8''%E6%BC%A2.txt"),
    ],
)
def test_name(name: str, rest: str) -> None:
    assert described(None, name)[1] == f"attachment{rest}"


def test_the_names_that_other_clients_use() -> None:
    assert described(type="image/png", name="a.png") == ("image/png", 'inline; filename="a.png"')
    assert described("image/gif", "b.gif", type="image/png", name="a.png") == (
        "image/gif",
        'inline; filename="b.gif"',
    )


def test_a_name_in_no_utf_8() -> None:
    raw = base64.b64encode(b"\xff.txt").decode()
    headers = headers_of(upload(metadata=f"filename {raw}"), WHOLE)
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"_.txt\"; filename*=UTF-8''%EF%BF%BD.txt"
    )


@pytest.mark.parametrize(
    ("selection", "content_range", "described_"),
    [
        (WHOLE, None, True),
        (Selection(206, 2, 5), "bytes 2-4/10", True),
        (Selection(416), "bytes */10", False),
        (Selection(304), None, False),
        (Selection(412), None, False),
    ],
)
def test_headers(selection: Selection, content_range: str | None, described_: bool) -> None:
    headers = headers_of(upload(), selection)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"] == ETAG
    assert headers["Last-Modified"] == DATE
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers.get("Content-Range") == content_range
    assert ("Content-Type" in headers) is described_
    assert ("Content-Disposition" in headers) is described_


def test_etags_differ_where_the_bytes_do() -> None:
    final = upload(concat=Final(("b",), joined=True), upload_id="b")
    assert len({etag_of(upload()), etag_of(upload(9)), etag_of(final)}) == 3


@given(any_fields, st.integers(0, 20))
def test_any_fields_select_a_part_of_the_upload(given_: Fields, length: int) -> None:
    selection = select(given_, upload(length))
    assert selection.status in (200, 206, 304, 412, 416)
    assert 0 <= selection.start <= selection.stop <= length
    assert (selection.status == 206) <= (selection.start < selection.stop)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_metadata_gives_harmless_headers(filetype: bytes, filename: bytes) -> None:
    metadata = format_metadata({"filetype": filetype, "filename": filename})
    for value in headers_of(upload(metadata=metadata), WHOLE).values():
        assert value.isascii()
        assert value.isprintable()
