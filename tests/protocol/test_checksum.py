from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol import checksum
from aiotus_server.protocol.checksum import (
    Checksum,
    TrailingChecksum,
    algorithm,
    algorithms,
    format_checksum,
    hashers_for,
    parse_checksum,
    parse_checksum_trailer,
    parse_verification,
    register,
)
from aiotus_server.protocol.errors import (
    ChecksumAlgorithmUnknown,
    ChecksumGivenTwice,
    ChecksumMalformed,
    HeaderMalformed,
    HeaderRepeated,
)

from .fields import Fields, any_fields, any_text, check_outcome, fields

if TYPE_CHECKING:
    from aiotus_server.protocol.checksum import Verification

# From each algorithm's own documentation; the digests as they are printed there, which is
# big-endian for all but hashes of bytes.
VECTORS = {
    # RFC 3174, section 7.3, TEST1
    "sha1": (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    # FIPS 180-4's examples, in RFC 6234 section 8.5
    "sha256": (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    "sha512": (
        b"abc",
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ),
    ),
    # RFC 1321, appendix A.5
    "md5": (b"abc", "900150983cd24fb0d6963f7d28e17f72"),
    # RFC 7693, appendix A
    "blake2b": (
        b"abc",
        (
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
            "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
        ),
    ),
    # "Check" of CRC-32/ISO-HDLC (that of ITU-T V.42, zlib and PNG) in the RevEng catalogue
    "crc32": (b"123456789", "cbf43926"),
    # RFC 3720, appendix B.4, 32 bytes of zeros: sent there as aa 36 91 8a, least byte first
    "crc32c": (bytes(32), "8a9136aa"),
    # README of the Python package xxhash
    "xxh64": (b"xxhash", "32dd38952c4bc720"),
    # cli/xsum_sanity_check.c of xxHash: no bytes, seed 0
    "xxh3-64": (b"", "2d06800538d394c2"),
    "xxh3-128": (b"", "99aa06d3014798d86001c324468d497f"),
    # NVM Command Set Specification 1.0d, section 5.2.1.3.5: 4096 bytes of zeros
    "crc64nvme": (bytes(4096), "6482d367eb22b64e"),
}

# A second one where the first has no bytes or is not the usual one.
MORE_VECTORS = [
    # "Check" in the RevEng catalogue
    ("crc32c", b"123456789", "e3069283"),
    ("crc64nvme", b"123456789", "ae8b14860a799888"),
    # NVM Command Set Specification: 4096 bytes of ones
    ("crc64nvme", b"\xff" * 4096, "c0ddba7302eca3ac"),
    # RFC 3174, TEST2; the example of the tus specification is below
    (
        "sha1",
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
    ),
    # tests of the Python package xxhash
    ("xxh64", b"a", "d24ec4f1a98c6e5b"),
    ("xxh3-64", b"a", "e6c632b61e964e1f"),
    ("xxh3-128", b"a", "a96faf705af16834e6c632b61e964e1f"),
]


def digest(name: str, *pieces: bytes) -> bytes:
    hasher = algorithm(name).new()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def test_every_algorithm_has_a_vector() -> None:
    assert set(VECTORS) == set(algorithms())


def test_sha1_is_there() -> None:
    """ "The Server MUST support at least the SHA1 checksum algorithm identified by sha1." """
    assert algorithms()[0] == "sha1"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [*((name, *vector) for name, vector in VECTORS.items()), *MORE_VECTORS],
)
def test_vector(name: str, data: bytes, expected: str) -> None:
    assert digest(name, data).hex() == expected
    assert algorithm(name).digest_size == len(bytes.fromhex(expected))


@pytest.mark.parametrize("name", VECTORS)
@given(pieces=st.lists(st.binary(max_size=50), max_size=5))
def test_pieces_give_the_digest_of_the_whole(name: str, pieces: list[bytes]) -> None:
    assert digest(name, *pieces) == digest(name, b"".join(pieces))


def test_crc_travels_big_endian() -> None:
    text = format_checksum(Checksum("crc32", digest("crc32", b"123456789")))
    assert text == "crc32 y/Q5Jg=="


HELLO = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="


def test_the_example_of_the_specification() -> None:
    parsed = parse_checksum(HELLO, algorithms())
    assert parsed == Checksum("sha1", digest("sha1", b"hello world"))
    assert format_checksum(parsed) == HELLO


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha1",
        "sha1 ",
        " Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1\tKq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0==",
        "sha1 Kq5sNclPz7QV2-lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu1=",  # the last bits that do not count are not zero
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7o\nRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0= sha1",
        "sha1 2aae6c35c94fcfb415dbe95f408b9ce91ee846ed",
        "sha1 é",
        "sha1 \udcff",
        "sha1 AAAA",
        "md5 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1,Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    ],
)
def test_malformed(text: str) -> None:
    """Unknown algorithms have an error of their own, so an odd name may be taken for one."""
    with pytest.raises((ChecksumMalformed, ChecksumAlgorithmUnknown)):
        parse_checksum(text, algorithms())


@pytest.mark.parametrize("name", ["SHA1", "sha-1", "sha3", "", "none"])
def test_unknown_algorithm(name: str) -> None:
    with pytest.raises(ChecksumAlgorithmUnknown, match="sha1"):
        parse_checksum(f"{name} Kq5sNclPz7QV2+lfQIuc6R7oRu0=", algorithms())


def test_an_algorithm_that_is_not_offered_is_unknown() -> None:
    text = format_checksum(Checksum("md5", digest("md5", b"")))
    parse_checksum(text, ("sha1", "md5"))
    with pytest.raises(ChecksumAlgorithmUnknown):
        parse_checksum(text, ("sha1",))


@pytest.mark.parametrize("name", VECTORS)
@given(data=st.binary(max_size=20))
def test_checksums_round_trip(name: str, data: bytes) -> None:
    one = Checksum(name, digest(name, data))
    assert parse_checksum(format_checksum(one), algorithms()) == one


@given(any_text)
def test_any_text_gives_a_checksum_or_a_tus_error(text: str) -> None:
    check_outcome(lambda: parse_checksum(text, algorithms()))
    check_outcome(lambda: parse_checksum(f"sha1 {text}", algorithms()))
    check_outcome(lambda: parse_checksum_trailer([("Upload-Checksum", text)], algorithms()))


@given(any_fields)
def test_any_fields_give_a_verification_or_a_tus_error(given_: Fields) -> None:
    check_outcome(lambda: parse_verification(given_, algorithms()))


def test_verification_of_a_header() -> None:
    checksum_ = parse_verification(fields(Upload_Checksum=f" {HELLO}\t"), algorithms())
    assert checksum_ == Checksum("sha1", digest("sha1", b"hello world"))


def test_no_verification() -> None:
    assert parse_verification(fields(Trailer="Expires"), algorithms()) is None


def test_verification_by_trailer() -> None:
    announced = parse_verification(fields(Trailer="upload-checksum"), algorithms())
    assert isinstance(announced, TrailingChecksum)


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        (fields(Upload_Checksum=HELLO, Trailer="Upload-Checksum"), ChecksumGivenTwice),
        (fields(("Upload-Checksum", HELLO), ("Upload-Checksum", HELLO)), HeaderRepeated),
        (fields(Upload_Checksum=""), HeaderMalformed),
    ],
)
def test_bad_verification(given_: Fields, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_verification(given_, algorithms())


@pytest.mark.parametrize(
    ("trailers", "found"),
    [
        ([], False),
        ([("Expires", "never")], False),
        ([("Upload-Checksum", HELLO)], True),
        ([("x", "y"), ("UPLOAD-checksum", f"\t{HELLO} "), ("x", "z")], True),
    ],
)
def test_trailer(trailers: list[tuple[str, str]], found: bool) -> None:
    expected = Checksum("sha1", digest("sha1", b"hello world")) if found else None
    assert parse_checksum_trailer(trailers, algorithms()) == expected


def test_two_trailers() -> None:
    with pytest.raises(HeaderRepeated):
        parse_checksum_trailer([("Upload-Checksum", HELLO), ("upload-checksum", HELLO)], ("sha1",))


@pytest.mark.parametrize(
    ("verification", "names"),
    [
        (None, []),
        (Checksum("md5", b""), ["md5"]),
        (TrailingChecksum(), ["sha1", "crc32"]),
    ],
)
def test_hashers_are_those_that_may_be_asked_for(
    verification: Verification, names: list[str]
) -> None:
    assert list(hashers_for(verification, ["sha1", "crc32"])) == names


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = vars(checksum)["_algorithms"]
    monkeypatch.setattr(checksum, "_algorithms", dict(known))


@pytest.mark.usefixtures("registry")
def test_a_further_algorithm() -> None:
    register("sha3-256", 32, hashlib.sha3_256)
    assert algorithms()[-1] == "sha3-256"
    encoded = base64.b64encode(hashlib.sha3_256(b"x").digest()).decode()
    parsed = parse_checksum(f"sha3-256 {encoded}", algorithms())
    assert parsed.digest == digest("sha3-256", b"x")


@pytest.mark.usefixtures("registry")
def test_another_implementation_keeps_the_place_of_the_first() -> None:
    before = algorithms()
    register("crc32", 4, lambda: algorithm("crc32c").new())
    assert algorithms() == before
    assert digest("crc32", b"123456789").hex() == "e3069283"


@pytest.mark.usefixtures("registry")
def test_digests_must_be_as_long_as_is_said() -> None:
    with pytest.raises(ValueError, match="have 20 bytes, not 4"):
        register("short", 4, hashlib.sha1)
    assert "short" not in algorithms()


@pytest.mark.parametrize("name", ["", "SHA1", "sha 1", "sha1,", "sha1\n", "shä", "sha1\x7f", "A"])
@pytest.mark.usefixtures("registry")
def test_a_name_that_the_protocol_does_not_allow(name: str) -> None:
    """ "The names of the checksum algorithms MUST only consist of ASCII characters with the
    modification that uppercase characters are excluded." """
    with pytest.raises(ValueError, match="lower-case ASCII"):
        register(name, 1, hashlib.sha1)
