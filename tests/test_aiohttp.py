"""What ``_aiohttp`` takes for granted of the installed aiohttp, and its parser under any split.

If the canaries fail after an upgrade of aiohttp: the server still works, without
``checksum-trailer`` and with slow stops, until ``_aiohttp.TESTED`` has been looked after.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web, web_protocol, web_server
from aiohttp.web_protocol import RequestHandler
from hypothesis import example, given
from hypothesis import strategies as st

from aiotus_server import MemoryStore, Options, _aiohttp, tus_routes
from aiotus_server._aiohttp import RequestSource, TrailerStream, TusRequestHandler, body_length
from aiotus_server.protocol.errors import BodyCutShort, BodyMalformed, TusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT = 64  # bytes that a stream holds before it asks the connection to pause


def created_class() -> Any:
    """What aiohttp's servers create for a connection."""
    return vars(web_server)["RequestHandler"]


def test_this_aiohttp_was_tested() -> None:
    assert _aiohttp.usable()


def test_no_private_name_is_missing() -> None:
    assert _aiohttp.missing_names() == []


def test_a_missing_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(web_protocol, "MAX_MSG_QUEUE_SIZE")
    assert _aiohttp.missing_names() == ["MAX_MSG_QUEUE_SIZE"]
    assert not _aiohttp.usable()


@pytest.mark.parametrize("version", ["3.13.9", "3.15.0", "4.0.0a1"])
def test_another_minor_release_is_not_adapted(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("aiohttp.__version__", version)
    monkeypatch.setattr("aiohttp.web_server.RequestHandler", RequestHandler)
    assert not _aiohttp.usable()
    assert not _aiohttp.install()
    assert created_class() is RequestHandler


def test_routes_make_aiohttp_create_our_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.web_server.RequestHandler", RequestHandler)
    tus_routes(MemoryStore())
    tus_routes(MemoryStore())
    assert created_class() is TusRequestHandler


def test_routes_can_be_told_to_leave_aiohttp_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.web_server.RequestHandler", RequestHandler)
    tus_routes(MemoryStore(), adapt_aiohttp=False)
    assert created_class() is RequestHandler


def test_a_class_that_somebody_else_has_installed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(RequestHandler):
        __slots__ = ()

    monkeypatch.setattr("aiohttp.web_server.RequestHandler", Theirs)
    assert not _aiohttp.install()
    assert created_class() is Theirs


# The parser. Requests are written one behind the other, cut anywhere, and given to a real
# connection on a transport that is not one.

Trailers = list[tuple[str, str]]


class FakeTransport(asyncio.Transport):
    """Takes what is written, and remembers whether it may be read from."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@dataclass
class Sent:
    """One request: its bytes, and what a handler must see of it."""

    kind: str
    data: bytes
    method: str
    path: str
    body: bytes
    trailers: Trailers | None  # None where aiohttp itself decodes


@dataclass
class Seen:
    method: str
    path: str
    body: bytes
    trailers: Trailers | None
    error: Exception | None = None


class Host:
    """A server of aiohttp's with one connection of ``connection_class``."""

    def __init__(self, connection_class: Any = TusRequestHandler, *, patient: bool = False) -> None:
        self.seen: list[Seen] = []
        self.transport = FakeTransport()
        self._patient = patient
        self._server = web.Server(self._handle)
        self._connection = connection_class(
            self._server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            read_bufsize=LIMIT,
            lingering_time=0,
        )
        self._connection.connection_made(self.transport)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.path, b"", None)
        try:
            while piece := await request.content.readany():
                seen.body += piece
                if self._patient:
                    await turns(3)
        except Exception as error:
            seen.error = error
        if isinstance(request.content, TrailerStream):
            seen.trailers = request.content.trailers
        self.seen.append(seen)
        return web.Response()

    async def receive(self, segments: Iterable[bytes], *, breathe: bool = False) -> None:
        """Hand over the segments, as fast as the connection lets."""
        for segment in segments:
            for _ in range(10_000):
                if self.transport.reading:
                    break
                await asyncio.sleep(0)
            else:
                raise AssertionError("the connection never reads again")
            self._connection.data_received(segment)
            if breathe:
                await turns(5)

    async def settle(self, count: int) -> None:
        """Until ``count`` requests have been seen, or nothing goes on any more."""
        for _ in range(100 + 100 * count):
            if len(self.seen) >= count:
                break
            await asyncio.sleep(0)
        await turns(5)

    async def close(self) -> None:
        self._connection.connection_lost(None)
        await turns(5)
        await self._server.shutdown(0)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(places)]


def coded(chunks: Sequence[bytes], trailers: Trailers) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return data + b"0\r\n" + fields.encode() + b"\r\n"


def request(
    kind: str, path: str = "/", chunks: Sequence[bytes] = (), trailers: Trailers | None = None
) -> Sent:
    method = "GET" if kind in ("get", "upgrade") else "PATCH"
    body = b"" if method == "GET" else b"".join(chunks)
    packed = gzip.compress(body)
    fields = {
        "get": "",
        "upgrade": "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "counted": f"Content-Length: {len(body)}\r\n",
        "gzip": f"Content-Length: {len(packed)}\r\nContent-Encoding: gzip\r\n",
        "foreign": "Transfer-Encoding: chunked\r\n",
        "tus": "Transfer-Encoding: chunked\r\nTus-Resumable: 1.0.0\r\n",
        "announced": "transfer-encoding: Chunked\r\nTRAILER: upload-checksum\r\n",
    }[kind]
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()
    ours = kind in ("tus", "announced")
    if kind in ("counted", "gzip"):
        data = body if kind == "counted" else packed
    elif kind == "foreign" or ours:
        data = coded(chunks, trailers or [])
    else:
        data = b""
    return Sent(kind, head + data, method, path, body, (trailers or []) if ours else None)


KINDS = ("get", "upgrade", "counted", "gzip", "foreign", "tus", "announced")
pieces = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", b"x" * LIMIT, b"y" * 5 * LIMIT]),
    st.just(b"GET /inside HTTP/1.1\r\nHost: localhost\r\n\r\n"),
)
trailer_lists = st.lists(
    st.tuples(st.sampled_from(["Upload-Checksum", "x", "Y-Z"]), st.sampled_from(["sha1 a=", "v"])),
    max_size=2,
)
pipelines = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(pieces, max_size=3), trailer_lists),
    min_size=1,
    max_size=7,
).map(lambda drawn: [request(k, f"/{n}", c, t) for n, (k, c, t) in enumerate(drawn)])
cuts = st.lists(st.integers(0, 10_000), max_size=12)


def check(sent: Sequence[Sent], seen: Sequence[Seen]) -> None:
    assert [(s.method, s.path, s.body, s.error) for s in seen] == [
        (s.method, s.path, s.body, None) for s in sent
    ]
    assert [s.trailers for s in seen] == [s.trailers for s in sent]


def run(
    sent: Sequence[Sent],
    segments: Sequence[bytes],
    connection_class: Any = TusRequestHandler,
    *,
    patient: bool = False,
    breathe: bool = False,
) -> list[Seen]:
    async def main() -> list[Seen]:
        host = Host(connection_class, patient=patient)
        await host.receive(segments, breathe=breathe)
        await host.settle(len(sent))
        await host.close()
        return host.seen

    return asyncio.run(main())


def joined(sent: Iterable[Sent]) -> bytes:
    return b"".join(one.data for one in sent)


FOREIGN = request("foreign", "/0", [b"a"])
PAUSING = request("counted", "/1", [b"y" * 5 * LIMIT])
OURS = request("tus", "/2", [b"a"], [("x", "v")])


@given(pipelines, cuts, st.booleans(), st.booleans())
@example([OURS, request("get", "/1")], [], False, False).via("a message behind the trailers")
@example([FOREIGN, request("upgrade", "/1"), request("get", "/2")], [], False, False).via(
    "what stands behind an upgrade that is declined, behind a foreign message"
)
@example([FOREIGN, PAUSING, OURS], [-len(OURS.data.partition(b"\n\r\n")[2]) - 4], True, False).via(
    "a head cut in its last line while aiohttp's parser pauses"
)
def test_any_split_of_pipelined_requests_gives_the_same(
    sent: list[Sent], places: list[int], patient: bool, breathe: bool
) -> None:
    segments = split(joined(sent), places)
    check(sent, run(sent, segments, patient=patient, breathe=breathe))


@given(pipelines, cuts, st.booleans())
def test_aiohttp_itself_sees_the_same_but_for_the_trailers(
    sent: list[Sent], places: list[int], patient: bool
) -> None:
    """Not a test of ours: it tells a fault of the tests above from one of the parser."""
    seen = run(sent, split(joined(sent), places), RequestHandler, patient=patient)
    assert [(s.path, s.body, s.error) for s in seen] == [(s.path, s.body, None) for s in sent]


@given(pipelines, st.booleans())
def test_byte_by_byte_gives_the_same(sent: list[Sent], patient: bool) -> None:
    data = joined(sent)
    check(sent, run(sent, [data[n : n + 1] for n in range(len(data))], patient=patient))


@pytest.mark.parametrize("kinds", [("tus",), ("get", "tus"), ("counted", "tus", "foreign")])
@pytest.mark.parametrize("patient", [False, True])
def test_more_requests_in_one_segment_than_aiohttp_queues(
    kinds: tuple[str, ...], patient: bool
) -> None:
    sent = [
        request(kinds[n % len(kinds)], f"/{n}", [b"%d" % n], [("x", str(n))])
        for n in range(3 * web_protocol.MAX_MSG_QUEUE_SIZE)
    ]
    check(sent, run(sent, [joined(sent)], patient=patient))


def test_a_large_body_in_chunks_pauses_the_connection() -> None:
    async def main() -> None:
        host = Host(patient=True)
        head, _, body = request("tus", "/", [b"x" * 1000] * 5).data.partition(b"\r\n\r\n")
        await host.receive([head + b"\r\n\r\n", body])
        assert not host.transport.reading
        await host.settle(1)
        assert host.transport.reading
        assert host.seen[0].body == b"x" * 5000
        await host.close()

    asyncio.run(main())


class Uploads(Host):
    """Reads bodies as the server does, and keeps what came when they end early."""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        source = RequestSource(
            request,  # type: ignore[arg-type] # a web.Request only has a match_info more
            length=body_length(request),
            options=Options(),
            parse_trailers=lambda trailers: None,
        )
        seen = Seen(request.method, request.path, b"", None)
        self.seen.append(seen)
        try:
            while piece := await source.read():
                seen.body += piece
                if self._patient:
                    await turns(3)
        except TusError as error:
            seen.error = error
        return web.Response()


bodies = st.tuples(st.sampled_from(["counted", "tus"]), st.lists(pieces, min_size=1, max_size=4))


@given(bodies, cuts, st.integers(0, 10_000), st.booleans())
def test_what_came_before_the_client_went_is_read(
    drawn: tuple[str, list[bytes]], places: list[int], end: int, patient: bool
) -> None:
    sent = request(drawn[0], "/", drawn[1])
    head = sent.data.index(b"\r\n\r\n") + 4
    arrived = sent.data[: head + end % (len(sent.data) - head)]

    async def main() -> Seen:
        host = Uploads(patient=patient)
        await host.receive(split(arrived, places))
        await turns(2)
        await host.close()
        await turns(200)
        return host.seen[0]

    seen = asyncio.run(main())
    if drawn[0] == "counted":
        assert seen.body == arrived[head:]
    else:
        assert seen.body == plain(arrived[head:])
    assert isinstance(seen.error, BodyCutShort)


def plain(data: bytes) -> bytes:
    """As much of a body as is in the beginning of its coded form."""
    body = b""
    while (end := data.find(b"\r\n")) >= 0 and (size := int(data[:end], 16)):
        body += data[end + 2 : end + 2 + size]
        data = data[end + 4 + size :]
    return body


@pytest.mark.parametrize(
    "broken", [b"5\r\nhello", b"g\r\n", b"1\r\nab\r\n", b"0\r\nno trailer\r\n\r\n"]
)
def test_a_body_badly_chunked_is_an_error_and_the_last_of_its_connection(broken: bytes) -> None:
    """Where it ends nobody can tell: what follows is never taken for a request."""
    good = request("tus", "/", [b"whole"])
    start = good.data.rindex(b"0\r\n\r\n")
    sent = good.data[:start] + broken + request("get", "/inside").data

    async def main() -> list[Seen]:
        host = Uploads()
        await host.receive([sent])
        await host.settle(2)
        await host.close()
        return host.seen

    (seen,) = asyncio.run(main())
    assert seen.body.startswith(b"whole")
    assert isinstance(seen.error, BodyMalformed)


@pytest.mark.parametrize(
    "line", [b"0" * 20 + b"5", b"5;" + b"x" * 2000], ids=["a long size", "a long extension"]
)
def test_chunks_that_only_aiohttp_understands_are_left_to_it(line: bytes) -> None:
    first = request("foreign", "/0")
    head = first.data[: first.data.index(b"\r\n\r\n") + 4]
    data = head + line + b"\r\nhello\r\n0\r\n\r\n" + request("get", "/1").data
    sent = [first, request("get", "/1")]
    for segments in ([data], [head, data[len(head) :]]):
        seen = run(sent, segments)
        assert [(one.path, one.body, one.error) for one in seen] == [
            ("/0", b"hello", None),
            ("/1", b"", None),
        ]
