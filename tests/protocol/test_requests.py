from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.options import EXTENSIONS
from aiotus_server.protocol.checksum import Checksum, TrailingChecksum, algorithms
from aiotus_server.protocol.errors import (
    ChecksumGivenTwice,
    ConcatMalformed,
    ContentCodingUnsupported,
    ContentTypeUnsupported,
    ExtensionDisabled,
    FinalHasLength,
    FinalNotAppendable,
    HeaderMalformed,
    HeaderMissing,
    HeaderRepeated,
    LengthNotClear,
    MetadataMalformed,
    PartialUnknown,
)
from aiotus_server.protocol.headers import BEYOND_63_BITS
from aiotus_server.protocol.requests import Append, Create, Offer, parse_append, parse_create
from aiotus_server.protocol.uploads import Final, Partial

from .fields import Fields, any_fields, check_outcome, fields

OFFER = Offer(EXTENSIONS, algorithms())
OCTETS = "application/offset+octet-stream"
HELLO = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="


def without(*extensions: str) -> Offer:
    return Offer(EXTENSIONS - set(extensions), algorithms())


def upload_id_of(url: str) -> str:
    if not url.startswith("/files/"):
        raise PartialUnknown
    return url.removeprefix("/files/")


def create(given: Fields, body_length: int | None = 0, offer: Offer = OFFER) -> Create:
    return parse_create(given, body_length=body_length, offer=offer, upload_id_of=upload_id_of)


def append(given: Fields, body_length: int | None = 5, offer: Offer = OFFER) -> Append:
    return parse_append(given, body_length=body_length, offer=offer)


def test_create() -> None:
    given = fields(Upload_Length=" 100 ", Upload_Metadata="filename d29ybGQ=, x")
    assert create(given) == Create(100, "filename d29ybGQ=, x", None, None, None, 0)


@pytest.mark.parametrize(
    ("given_", "length"),
    [
        (fields(Upload_Length="0"), 0),
        (fields(Upload_Length=str(2**63)), BEYOND_63_BITS),
        (fields(Upload_Length="9" * 5000), BEYOND_63_BITS),
        (fields(Upload_Defer_Length="1"), None),
        (fields(Upload_Defer_Length=" 1 "), None),
    ],
)
def test_length(given_: Fields, length: int | None) -> None:
    assert create(given_).length == length


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        (fields(), LengthNotClear),
        (fields(Upload_Length="5", Upload_Defer_Length="1"), LengthNotClear),
        (fields(Upload_Defer_Length="0"), HeaderMalformed),
        (fields(Upload_Defer_Length="2"), HeaderMalformed),
        (fields(Upload_Defer_Length="true"), HeaderMalformed),
        (fields(Upload_Defer_Length="01"), HeaderMalformed),
        (fields(Upload_Length="5", Upload_Defer_Length="0"), HeaderMalformed),
        (fields(Upload_Length=""), HeaderMalformed),
        (fields(Upload_Length="-1"), HeaderMalformed),
        (fields(("Upload-Length", "5"), ("Upload-Length", "5")), HeaderRepeated),
    ],
)
def test_length_not_clear(given_: Fields, error: type[Exception]) -> None:
    with pytest.raises(error):
        create(given_)


@pytest.mark.parametrize(
    ("pairs", "metadata"),
    [
        ([], None),
        ([""], None),
        ([" "], None),
        (["a YQ=="], "a YQ=="),
        ([" a YQ==\t"], "a YQ=="),
        (["a YQ==,b "], "a YQ==,b"),
        (["a YQ==", "b Yg=="], "a YQ==,b Yg=="),
    ],
)
def test_metadata_is_kept_as_received(pairs: list[str], metadata: str | None) -> None:
    given = fields(*[("Upload-Metadata", value) for value in pairs], Upload_Length="5")
    assert create(given).metadata == metadata


@pytest.mark.parametrize("text", ["a,a", "a !", "a  YQ==", "é", ",", "a YQ==,", "a\tb"])
def test_malformed_metadata(text: str) -> None:
    with pytest.raises(MetadataMalformed):
        create(fields(Upload_Length="5", Upload_Metadata=text))


def test_a_key_twice_in_two_fields() -> None:
    pairs = [("Upload-Metadata", "a YQ=="), ("Upload-Metadata", "a Yg==")]
    with pytest.raises(MetadataMalformed):
        create(fields(*pairs, Upload_Length="5"))


@given(any_fields)
def test_lenient_metadata_is_never_refused_and_may_stand_in_a_header(given_: Fields) -> None:
    lenient = Offer(EXTENSIONS, algorithms(), lenient_metadata=True)
    values = [("Upload-Metadata", value) for value in given_.values()]
    metadata = create(fields(*values, Upload_Length="5"), offer=lenient).metadata
    assert metadata is None or (metadata.isascii() and metadata.isprintable())


@pytest.mark.parametrize(
    ("text", "concat"),
    [
        ("partial", Partial()),
        ("final;/files/a", Final(("a",))),
        ("final;/files/a /files/b /files/a", Final(("a", "b", "a"))),
    ],
)
def test_concat(text: str, concat: Partial | Final) -> None:
    given = fields(Upload_Concat=text)
    if isinstance(concat, Partial):
        given = fields(Upload_Concat=text, Upload_Length="5")
    assert (create(given).concat, create(given).concat_header) == (concat, text)


@pytest.mark.parametrize(
    "text",
    [
        "final",
        "final;",
        "final; ",
        "final; /files/a",
        "final;/files/a  /files/b",
        "final;/files/a\t/files/b",
        "Final;/files/a",
        "final ;/files/a",
        "Partial",
        "partial;",
        "partial; ",
        "partial;/files/a",
        "other",
        ";",
        "final;/files/\udcff",
        "final;/files/é",
    ],
)
def test_malformed_concat(text: str) -> None:
    for names in ({}, {"Upload_Length": "5"}):
        with pytest.raises(ConcatMalformed):
            create(fields(Upload_Concat=text, **names))


def test_a_partial_that_is_not_ours() -> None:
    with pytest.raises(PartialUnknown):
        create(fields(Upload_Concat="final;/files/a /other/b"))


@pytest.mark.parametrize("names", [{"Upload_Length": "5"}, {"Upload_Defer_Length": "1"}])
def test_a_final_takes_no_length(names: dict[str, str]) -> None:
    with pytest.raises(FinalHasLength):
        create(fields(Upload_Concat="final;/files/a", **names))


@pytest.mark.parametrize("body_length", [None, 5])
def test_a_final_takes_no_body(body_length: int | None) -> None:
    with pytest.raises(FinalNotAppendable):
        create(fields(Upload_Concat="final;/files/a", Content_Type=OCTETS), body_length)


def test_a_partial_may_have_its_length_deferred() -> None:
    assert create(fields(Upload_Concat="partial", Upload_Defer_Length="1")).length is None


@pytest.mark.parametrize("body_length", [None, 1])
@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({}, ContentTypeUnsupported),
        ({"Content_Type": "text/plain"}, ContentTypeUnsupported),
        ({"Content_Type": OCTETS, "Content_Encoding": "gzip"}, ContentCodingUnsupported),
    ],
)
def test_a_body_needs_its_type_and_no_coding(
    body_length: int | None, names: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        create(fields(Upload_Length="5", **names), body_length)


def test_without_a_body_type_and_coding_do_not_matter() -> None:
    given = fields(Upload_Length="5", Content_Type="text/plain", Content_Encoding="gzip")
    assert create(given).length == 5


def test_a_created_upload_may_have_a_checksum() -> None:
    given = fields(Upload_Length="5", Content_Type=OCTETS, Upload_Checksum=HELLO)
    assert isinstance(create(given, 5).verification, Checksum)


@pytest.mark.parametrize(
    ("extension", "names", "body_length"),
    [
        ("creation", {"Upload_Length": "5"}, 0),
        ("creation-with-upload", {"Upload_Length": "5", "Content_Type": OCTETS}, 5),
        ("creation-with-upload", {"Upload_Length": "5", "Content_Type": OCTETS}, None),
        ("creation-defer-length", {"Upload_Defer_Length": "1"}, 0),
        ("concatenation", {"Upload_Concat": "partial", "Upload_Length": "5"}, 0),
        ("concatenation", {"Upload_Concat": "final;/files/a"}, 0),
        (
            "checksum",
            {"Upload_Length": "5", "Content_Type": OCTETS, "Upload_Checksum": HELLO},
            5,
        ),
        (
            "checksum-trailer",
            {"Upload_Length": "5", "Content_Type": OCTETS, "Trailer": "Upload-Checksum"},
            None,
        ),
    ],
)
def test_what_is_not_offered_is_refused(
    extension: str, names: dict[str, str], body_length: int | None
) -> None:
    create(fields(**names), body_length)
    with pytest.raises(ExtensionDisabled, match=extension):
        create(fields(**names), body_length, without(extension))


PATCH = {"Content_Type": OCTETS, "Upload_Offset": "3"}


def test_append() -> None:
    assert append(fields(**PATCH)) == Append(3, None, None, 5)
    assert append(fields(**PATCH, Upload_Length="9"), None) == Append(3, 9, None, None)


def test_append_with_a_checksum() -> None:
    assert isinstance(append(fields(**PATCH, Upload_Checksum=HELLO)).verification, Checksum)
    given = fields(**PATCH, Trailer="Upload-Checksum")
    assert isinstance(append(given, None).verification, TrailingChecksum)


def changed(**names: str | None) -> Fields:
    merged = {**PATCH, **names}
    return fields(**{name: value for name, value in merged.items() if value is not None})


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({"Content_Type": None}, ContentTypeUnsupported),
        ({"Content_Type": "application/octet-stream"}, ContentTypeUnsupported),
        ({"Content_Encoding": "gzip"}, ContentCodingUnsupported),
        ({"Upload_Offset": None}, HeaderMissing),
        ({"Upload_Offset": ""}, HeaderMalformed),
        ({"Upload_Offset": "-1"}, HeaderMalformed),
        ({"Upload_Offset": "3.0"}, HeaderMalformed),
        ({"Upload_Length": "x"}, HeaderMalformed),
        ({"Upload_Checksum": HELLO, "Trailer": "Upload-Checksum"}, ChecksumGivenTwice),
        # The type first: it says whether this is a PATCH of tus at all.
        ({"Content_Type": None, "Upload_Offset": None}, ContentTypeUnsupported),
    ],
)
def test_bad_append(names: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        append(changed(**names))


def test_an_append_without_body_needs_its_type_too() -> None:
    """ "All PATCH requests MUST use Content-Type: application/offset+octet-stream." """
    with pytest.raises(ContentTypeUnsupported):
        append(changed(Content_Type="text/plain"), 0)


@pytest.mark.parametrize(
    ("extension", "names"),
    [
        ("checksum", {"Upload_Checksum": HELLO}),
        ("checksum-trailer", {"Trailer": "Upload-Checksum"}),
    ],
)
def test_a_checksum_that_is_not_offered_is_refused(extension: str, names: dict[str, str]) -> None:
    with pytest.raises(ExtensionDisabled):
        append(fields(**PATCH, **names), 5, without(extension))


body_lengths = st.none() | st.integers(0, 100)
offers = st.builds(
    Offer, st.frozensets(st.sampled_from(sorted(EXTENSIONS))), st.just(("sha1",)), st.booleans()
)


@given(any_fields, body_lengths, offers)
def test_any_fields_give_a_value_or_a_tus_error(
    given_: Fields, body_length: int | None, offer: Offer
) -> None:
    check_outcome(lambda: create(given_, body_length, offer))
    check_outcome(lambda: append(given_, body_length, offer))
