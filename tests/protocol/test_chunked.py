"""Each case three ways: whole, byte by byte, and with bytes of a next request behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.chunked import (
    MAX_SIZE_LINE,
    MAX_TRAILERS,
    ChunkedDecoder,
    ChunkedError,
)

NEXT = b"\r\nPATCH /next HTTP/1.1\r\n\r\n"

Trailers = list[tuple[str, str]]


class Result:
    """All that a decoder gave: the body, whether it ended, its trailers, the bytes behind it,
    and whether it refused."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        decoder = ChunkedDecoder()
        self.body = b""
        self.refused = False
        rest: list[bytes] = []
        try:
            for piece in pieces:
                if decoder.done:
                    rest.append(piece)
                    continue
                for part in decoder.feed(piece):
                    assert part, "a piece of the body is never empty"
                    self.body += part
                if decoder.done:
                    rest.append(decoder.rest)
        except ChunkedError:
            self.refused = True
        self.done = decoder.done
        self.trailers = decoder.trailers
        self.rest = b"".join(rest)

    @property
    def facts(self) -> tuple[object, ...]:
        return self.body, self.done, self.trailers, self.rest, self.refused


def whole(data: bytes) -> Result:
    return Result([data])


def byte_by_byte(data: bytes) -> Result:
    return Result(bytes([byte]) for byte in data)


def left_and_gone_on_with(data: bytes) -> Result:
    """As the server does when the body's reader is slow: one piece, then ``feed(b"")``."""
    return Result([data, *[b""] * len(data)])


each_way = pytest.mark.parametrize("decode", [whole, byte_by_byte, left_and_gone_on_with])
Decode = Callable[[bytes], Result]

GOOD: dict[str, tuple[bytes, bytes, Trailers]] = {
    "empty": (b"0\r\n\r\n", b"", []),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    "several chunks": (b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", b"hello world", []),
    "hexadecimal, either case": (
        b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n",
        b"01234567890123456789a",
        [],
    ),
    "leading zeros": (b"0005\r\nhello\r\n0000\r\n\r\n", b"hello", []),
    "the size of 16 digits": (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", []),
    "an extension": (b"5;name=value\r\nhello\r\n0;last\r\n\r\n", b"hello", []),
    "a quoted extension": (b'5;name="a;b"\r\nhello\r\n0\r\n\r\n', b"hello", []),
    "blanks behind the size": (b"5 \t\r\nhello\r\n0 \r\n\r\n", b"hello", []),
    "CRLF in the data": (b"8\r\n\r\n0\r\n\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\r", []),
    "one trailer": (
        b"0\r\nUpload-Checksum: sha1 abc=\r\n\r\n",
        b"",
        [("Upload-Checksum", "sha1 abc=")],
    ),
    "trailers in their order, names as sent": (
        b"1\r\nx\r\n0\r\nb: 2\r\nA: 1\r\nb: 3\r\n\r\n",
        b"x",
        [("b", "2"), ("A", "1"), ("b", "3")],
    ),
    "blanks around a trailer's value": (b"0\r\nA: \t v w \t\r\n\r\n", b"", [("A", "v w")]),
    "a trailer without blank": (b"0\r\nA:v\r\n\r\n", b"", [("A", "v")]),
    "an empty trailer": (b"0\r\nA:\r\n\r\n", b"", [("A", "")]),
    "a trailer in UTF-8": ("0\r\nA: é\r\n\r\n".encode(), b"", [("A", "é")]),
    "a trailer in no UTF-8": (b"0\r\nA: \xe9\r\n\r\n", b"", [("A", "�")]),
    "a colon in a trailer's value": (b"0\r\nA: b:c\r\n\r\n", b"", [("A", "b:c")]),
    "the longest trailer": (
        b"0\r\nA:" + b"v" * (MAX_TRAILERS - 2) + b"\r\n\r\n",
        b"",
        [("A", "v" * (MAX_TRAILERS - 2))],
    ),
    "the longest size line": (
        b"1;" + b"e" * (MAX_SIZE_LINE - 2) + b"\r\nx\r\n0\r\n\r\n",
        b"x",
        [],
    ),
}

BAD: dict[str, tuple[bytes, bytes]] = {
    "no size": (b"\r\nhello\r\n0\r\n\r\n", b""),
    "no hexadecimal size": (b"g\r\nhello\r\n0\r\n\r\n", b""),
    "a size with a sign": (b"+5\r\nhello\r\n0\r\n\r\n", b""),
    "a negative size": (b"-5\r\nhello\r\n0\r\n\r\n", b""),
    "a size with 0x": (b"0x5\r\nhello\r\n0\r\n\r\n", b""),
    "a size with an underscore": (b"1_0\r\nhello\r\n0\r\n\r\n", b""),
    "a size in other digits": ("٣\r\nabc\r\n0\r\n\r\n".encode(), b""),
    "a blank before the size": (b" 5\r\nhello\r\n0\r\n\r\n", b""),
    "two sizes": (b"5 5\r\nhello\r\n0\r\n\r\n", b""),
    "a size of 17 digits": (b"00000000000000005\r\nhello\r\n0\r\n\r\n", b""),
    "LF behind the size": (b"5\nhello\r\n0\r\n\r\n", b""),
    "CR in a size line": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", b""),
    "a size line too long": (b"1;" + b"e" * (MAX_SIZE_LINE - 1) + b"\r\nx\r\n0\r\n\r\n", b""),
    "a size line without end": (b"1" * (MAX_SIZE_LINE + 10), b""),
    "a chunk longer than its size": (b"4\r\nhello\r\n0\r\n\r\n", b"hell"),
    "a chunk shorter than its size": (b"6\r\nhello\r\n0\r\n\r\n", b"hello\r"),
    "LF behind a chunk": (b"5\r\nhello\n0\r\n\r\n", b"hello"),
    "CR behind a chunk": (b"5\r\nhello\r0\r\n\r\n", b"hello"),
    "LF at the very end": (b"0\r\n\n", b""),
    "LF behind a trailer": (b"0\r\nA: v\n\r\n", b""),
    "a trailer without colon": (b"0\r\nA\r\n\r\n", b""),
    "a trailer without name": (b"0\r\n: v\r\n\r\n", b""),
    "a blank before a trailer's colon": (b"0\r\nA : v\r\n\r\n", b""),
    "a folded trailer": (b"0\r\nA: v\r\n w\r\n\r\n", b""),
    "NUL in a trailer": (b"0\r\nA: v\0w\r\n\r\n", b""),
    "CR in a trailer": (b"0\r\nA: v\rw\r\n\r\n", b""),
    "a trailer too long": (b"0\r\nA:" + b"v" * (MAX_TRAILERS - 1) + b"\r\n\r\n", b""),
    "a trailer without end": (b"0\r\nA:" + b"v" * (MAX_TRAILERS + 10), b""),
    "trailers too long together": (
        b"0\r\n" + b"".join(b"A%d:%s\r\n" % (n, b"v" * 2000) for n in range(5)) + b"\r\n",
        b"",
    ),
}


@each_way
@pytest.mark.parametrize(("data", "body", "trailers"), GOOD.values(), ids=GOOD)
def test_body_and_trailers(decode: Decode, data: bytes, body: bytes, trailers: Trailers) -> None:
    assert decode(data).facts == (body, True, trailers, b"", False)


@each_way
@pytest.mark.parametrize(("data", "body", "trailers"), GOOD.values(), ids=GOOD)
def test_bytes_behind_the_body_are_left(
    decode: Decode, data: bytes, body: bytes, trailers: Trailers
) -> None:
    assert decode(data + NEXT).facts == (body, True, trailers, NEXT, False)


@each_way
@pytest.mark.parametrize(("data", "body", "trailers"), GOOD.values(), ids=GOOD)
def test_not_done_before_the_last_byte(
    decode: Decode, data: bytes, body: bytes, trailers: Trailers
) -> None:
    result = decode(data[:-1])
    assert (result.done, result.refused, result.rest) == (False, False, b"")
    assert result.body == body


@each_way
@pytest.mark.parametrize(("data", "body"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("behind", [b"", NEXT], ids=["alone", "with bytes behind"])
def test_no_chunked_body(decode: Decode, data: bytes, body: bytes, behind: bytes) -> None:
    """What came before the fault is the body's, whole chunks or not."""
    result = decode(data + behind)
    assert (result.refused, result.done) == (True, False)
    assert result.body == body


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"e" * 100_000, b"0\r\nA:" + b"v" * 100_000, b"1\r\nx" + b"\r" * 100_000],
    ids=["size line", "trailer", "end of a chunk"],
)
def test_a_line_without_end_is_not_collected(endless: bytes) -> None:
    assert byte_by_byte(endless[:10_000]).refused


def test_data_is_given_out_before_its_chunk_is_whole() -> None:
    decoder = ChunkedDecoder()
    assert list(decoder.feed(b"ffffffff\r\nfirst")) == [b"first"]
    assert list(decoder.feed(b"second")) == [b"second"]


def test_a_generator_may_be_left() -> None:
    decoder = ChunkedDecoder()
    coded = b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\nA: v\r\n\r\nrest"
    assert next(iter(decoder.feed(coded))) == b"a"
    assert next(iter(decoder.feed(b""))) == b"b"
    assert not decoder.done
    assert list(decoder.feed(b"!")) == [b"c"]
    assert (decoder.done, decoder.rest, decoder.trailers) == (True, b"rest!", [("A", "v")])


names = st.text("!#$%&'*+-.^_`|~0Aa", min_size=1, max_size=8)
values = st.text("!~ :;,=\té0Aa", max_size=8).map(lambda text: text.strip(" \t"))


@st.composite
def coded(draw: st.DrawFn) -> tuple[bytes, bytes, Trailers]:
    """A body in chunks, the body, and its trailers."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    trailers = draw(st.lists(st.tuples(names, values), max_size=3))
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return data + b"0\r\n" + fields.encode() + b"\r\n", b"".join(chunks), trailers


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(places)]


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(coded(), st.binary(max_size=20), cuts)
def test_any_split_gives_the_same(
    message: tuple[bytes, bytes, Trailers], behind: bytes, places: list[int]
) -> None:
    data, body, trailers = message
    result = Result(split(data + behind, places))
    assert result.facts == (body, True, trailers, behind, False)


mutations = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from(b"\r\n0Aa;: \xff")), min_size=1, max_size=3
)


@given(coded(), mutations, cuts)
def test_any_split_of_broken_bytes_gives_the_same(
    message: tuple[bytes, bytes, Trailers], changes: list[tuple[int, int]], places: list[int]
) -> None:
    data = bytearray(message[0])
    for place, byte in changes:
        data[place % len(data)] = byte
    broken = bytes(data)
    assert Result(split(broken, places)).facts == whole(broken).facts
    assert byte_by_byte(broken).facts == whole(broken).facts


@given(st.binary(max_size=60), cuts)
def test_any_bytes_give_a_body_or_chunked_error(data: bytes, places: list[int]) -> None:
    assert Result(split(data, places)).facts == whole(data).facts
