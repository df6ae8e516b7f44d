"""Any sequence of requests against a live server, and a model that says what must come."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from aiotus_server import DiskStore, Expiry, MemoryStore, Options, sweep
from aiotus_server.sweeper import Sweeper

from .client import OCTETS, TUS, DataPath, Reply, Site, chunked, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from aiohttp import web

_T = TypeVar("_T")

LIFETIME = timedelta(hours=1)
LARGE = 300_000  # bytes: more than a body's reader gathers


@dataclass
class Model:
    """What the server must know of one upload."""

    path: str
    length: int | None
    header: str | None = None  # Upload-Concat
    parts: list[Model] = field(default_factory=list)  # of a final
    expires: datetime | None = None
    data: bytes = field(default=b"", repr=False)
    joined: bool = False
    gone: bool = False

    @property
    def complete(self) -> bool:
        return self.joined if self.parts else len(self.data) == self.length

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now and not self.complete

    @property
    def known_length(self) -> int | None:
        if not self.parts:
            return self.length
        lengths = [part.length for part in self.parts]
        return None if None in lengths else sum(length or 0 for length in lengths)

    def join(self) -> None:
        """What happens by itself when the last partial is complete."""
        if self.parts and not self.joined and all(part.complete for part in self.parts):
            self.data = b"".join(part.data for part in self.parts)
            self.joined = True


CHECKSUMS = ("none", "header", "announced trailer", "trailer")


@dataclass
class Sent:
    """The body of a PATCH: how it comes, and what is wrong with it."""

    size: int
    seed: int
    in_chunks: bool
    checksum: str  # one of CHECKSUMS; a trailer comes in chunks only
    wrong: bool  # the checksum is that of other bytes
    missing: bool  # an announced trailer does not come
    cut: int | None  # the client leaves after so many bytes

    def __post_init__(self) -> None:
        self.in_chunks = self.in_chunks or self.checksum.endswith("trailer")
        self.wrong = self.wrong and self.checksum != "none"
        self.missing = self.missing and self.checksum == "announced trailer"
        if self.cut is not None:
            self.cut = self.cut % self.size if self.size else None

    @property
    def data(self) -> bytes:
        """No two bodies are alike."""
        return hashlib.shake_128(bytes([self.seed])).digest(self.size)

    @property
    def arrives(self) -> bytes:
        return self.data if self.cut is None else self.data[: self.cut]

    @property
    def atomic(self) -> bool:
        """Whether the bytes that arrive are under a checksum that is known of."""
        late = self.checksum == "trailer" and self.cut is not None
        return self.checksum != "none" and not late

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Transfer-Encoding": "chunked"} if self.in_chunks else {}
        if self.checksum == "header":
            headers["Upload-Checksum"] = self.digest
        elif self.checksum == "announced trailer":
            headers["Trailer"] = "Upload-Checksum"
        return headers

    @property
    def digest(self) -> str:
        """crc32 in a trailer and sha1 in a header: of several, the right one is compared."""
        data = self.data + b"!" if self.wrong else self.data
        name = "md5" if self.checksum.endswith("trailer") else "sha1"
        return f"{name} {base64.b64encode(hashlib.new(name, data).digest()).decode()}"

    @property
    def body(self) -> bytes:
        if not self.in_chunks:
            return self.arrives
        if self.cut is not None:
            return b"%x\r\n%s" % (len(self.data), self.arrives)
        trailers = {}
        if self.checksum.endswith("trailer") and not self.missing:
            trailers["Upload-Checksum"] = self.digest
        return chunked(*([self.data] if self.data else []), trailers=trailers)


SIZES = st.integers(0, 8) | st.sampled_from([70_000, LARGE])
bodies = st.builds(
    Sent,
    size=SIZES,
    seed=st.integers(0, 255),
    in_chunks=st.booleans(),
    checksum=st.sampled_from(CHECKSUMS),
    wrong=st.booleans(),
    missing=st.booleans(),
    cut=st.none() | st.none() | st.integers(0, LARGE),
)
lengths = st.sampled_from([0, 1, 5, 8, 16, 70_000, 70_003, LARGE, LARGE + 1])


class World:
    """One live server in a thread with a loop of its own, for all examples."""

    def __init__(self, store: Any, data_path: DataPath) -> None:
        self.now = datetime.now(UTC)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._serving = serving(store, options=self._options, data_path=data_path)
        self.site = self.run(self._serving.__aenter__())
        self.site.routes.server.clock = lambda: self.now

    def _options(self, request: web.Request) -> Options:
        return Options(expiry=Expiry(LIFETIME) if "X-Expires" in request.headers else None)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self) -> None:
        self.run(self._serving.__aexit__(None, None, None))
        self.run(self.site.routes.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Uploads(RuleBasedStateMachine):
    """What a client may do, in any order."""

    uploads: Bundle[Model] = Bundle("uploads")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.site: Site = world.site
        self.known: list[Model] = []

    @initialize(target=uploads, lengths=st.lists(st.none() | lengths, min_size=3, max_size=3))
    def begin(self, lengths: list[int | None]) -> Any:
        """Something to begin with: two partials, and one upload that expires."""
        return multiple(
            self._create(lengths[0], True, False, None),
            self._create(lengths[1], True, True, None),
            self._create(lengths[2], False, True, None),
        )

    @rule(
        target=uploads,
        length=st.none() | lengths,
        partial=st.booleans(),
        expires=st.booleans(),
        sent=st.none() | bodies,
    )
    def create(self, length: int | None, partial: bool, expires: bool, sent: Sent | None) -> Any:
        return self._create(length, partial, expires, sent)

    def _create(self, length: int | None, partial: bool, expires: bool, sent: Sent | None) -> Any:
        headers = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        if partial:
            headers["Upload-Concat"] = "partial"
        if expires:
            headers["X-Expires"] = "yes"
        body = b""
        if sent is not None:
            sent.cut = None  # nobody would learn the URL
            headers.update({**OCTETS, **sent.headers})
            body = sent.body
        reply = self.world.run(self.site.request("POST", None, headers, body))
        too_long = sent is not None and length is not None and len(sent.data) > length
        if sent is not None and too_long and not sent.in_chunks:
            assert reply.status == 413
            return multiple()
        upload = Model(reply.path, length, "partial" if partial else None)
        upload.expires = self.world.now + LIFETIME if expires else None
        self.known.append(upload)
        if sent is None:
            assert reply.status == 201
            assert "Upload-Offset" not in reply.headers
        else:
            status, upload.data = self._received(b"", length, sent)
            assert reply.status == (201 if status == 204 else status)
            assert status != 204 or reply.offset == len(upload.data)
        return upload

    @rule(
        upload=uploads,
        sent=bodies,
        beside=st.sampled_from([0, 0, 0, 0, 1, -1]),
        declared=st.sampled_from([None] * 5 + [-1, 0, 5, LARGE]),
    )
    def append(self, upload: Model, sent: Sent, beside: int, declared: int | None) -> None:
        self._append(upload, sent, beside, declared)

    @rule(upload=uploads, in_chunks=st.booleans(), checksum=st.sampled_from(CHECKSUMS))
    def fill(self, upload: Model, in_chunks: bool, checksum: str) -> None:
        """All that is missing, and without a fault."""
        offset = len(upload.data)
        length = offset + 5 if upload.length is None else upload.length
        sent = Sent(length - offset, 1, in_chunks, checksum, False, False, None)
        self._append(upload, sent, 0, None if upload.length is not None else length)

    def _append(self, upload: Model, sent: Sent, beside: int, declared: int | None) -> None:
        offset = max(len(upload.data) + beside, 0)
        if declared == -1:
            declared = offset + len(sent.data)  # the rest of it comes now
        headers = {**OCTETS, **sent.headers, "Upload-Offset": str(offset)}
        if declared is not None:
            headers["Upload-Length"] = str(declared)
        status, data, length = self._appended(upload, offset, sent, declared)
        if sent.cut is None:
            reply = self.world.run(self.site.request("PATCH", upload.path, headers, sent.body))
            assert self._is(reply, status), reply
            if status in (204, 409):
                assert reply.offset == len(data)
            else:
                assert "Upload-Offset" not in reply.headers
        else:
            if not sent.in_chunks:
                headers["Content-Length"] = str(len(sent.data))
            self.world.run(self._leave(upload.path, headers, sent.body))
            if upload.complete and not upload.gone:
                self._check_bytes(upload)  # even while the server is busy with what was sent
            self.world.run(self._settle(upload.path))
        upload.data, upload.length = data, length
        self._join_all()
        self._check(upload)

    def _appended(
        self, upload: Model, offset: int, sent: Sent, declared: int | None
    ) -> tuple[int, bytes, int | None]:
        """The status, and data and length afterwards."""
        before = upload.data, upload.length
        length = upload.length if declared is None else declared
        if upload.gone:
            return 404, *before
        if upload.parts:
            return 403, *before
        if upload.expired(self.world.now):
            return 410, *before
        if offset != len(upload.data):
            return 409, *before
        if declared is not None and (declared < offset or upload.length not in (None, declared)):
            return 400, *before
        if not sent.in_chunks and length is not None and offset + len(sent.data) > length:
            return 413, *before
        status, data = self._received(upload.data, length, sent)
        discarded = status != 204 and sent.atomic
        if sent.checksum == "trailer" and status == 413:
            discarded = False  # it ended before its trailer
        return status, data, upload.length if discarded else length

    def _received(self, before: bytes, length: int | None, sent: Sent) -> tuple[int, bytes]:
        """The status, and the data afterwards, of a body that was let in."""
        data = before + sent.arrives
        if length is not None and len(data) > length:
            known = sent.checksum in ("header", "announced trailer")
            return 413, before if known else data[:length]
        if sent.cut is not None:
            return 400, before if sent.atomic else data
        if sent.missing:
            return 400, before
        return (460, before) if sent.wrong else (204, data)

    async def _leave(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """All that was sent arrives, and then the client is gone."""
        connection = await self.site.connect()
        await connection.send_head("PATCH", path, {**TUS, **headers})
        await connection.send(body)
        connection.writer.write_eof()
        with suppress(ConnectionResetError):
            await connection.reader.read()
        await connection.close()

    async def _settle(self, path: str) -> None:
        """Until the server has done with whoever held the lock: this request waits for it."""
        await self.site.patch(path, 2**62, b"")

    @rule(
        target=uploads,
        parts=st.lists(uploads, min_size=1, max_size=3),
    )
    def concatenate(self, parts: list[Model]) -> Any:
        header = "final;" + " ".join(part.path for part in parts)
        reply = self.world.run(self.site.request("POST", None, {"Upload-Concat": header}))
        if any(part.gone or part.header != "partial" for part in parts):
            assert reply.status in (400, 410)
            return multiple()
        if any(part.expired(self.world.now) for part in parts):
            assert reply.status in (400, 410)
            return multiple()
        assert reply.status == 201, reply
        upload = Model(reply.path, None, header, list(parts))
        upload.join()
        self.known.append(upload)
        self._check(upload)
        return upload

    @rule(upload=consumes(uploads))
    def terminate(self, upload: Model) -> None:
        reply = self.world.run(self.site.delete(upload.path))
        if upload.gone:
            assert reply.status in (404, 410)
        elif upload.expired(self.world.now):
            assert reply.status == 410
        else:
            assert reply.status == 204
            self._remove(upload)
        self._check(upload)

    @rule(hours=st.sampled_from([0.1, 0.1, 0.6, 2]))
    def wait(self, hours: float) -> None:
        self.world.now += timedelta(hours=hours)

    @rule()
    def sweep(self) -> None:
        due = [up for up in self.known if not up.gone and up.expired(self.world.now)]
        assert self.world.run(sweep(self.site.routes.server)) == len(due)
        for upload in due:
            self._remove(upload)

    def teardown(self) -> None:
        """Nothing that was done to one upload has changed another."""
        for upload in self.known:
            self._check(upload)
        self.world.now += 3 * LIFETIME
        self.world.run(sweep(self.site.routes.server))
        self.site.connections.clear()

    def _remove(self, upload: Model) -> None:
        upload.gone = True
        for final in self.known:
            if upload in final.parts and not final.joined:
                final.gone = True

    def _join_all(self) -> None:
        for upload in self.known:
            if not upload.gone:
                upload.join()

    def _is(self, reply: Reply, status: int) -> bool:
        return reply.status == status or (status == 404 and reply.status == 410)

    def _check(self, upload: Model) -> None:
        """HEAD and GET tell what the model says."""
        reply = self.world.run(self.site.head(upload.path))
        self._check_bytes(upload)
        if upload.gone or upload.expired(self.world.now):
            assert self._is(reply, 404 if upload.gone else 410), reply
            return
        expected = {"Cache-Control": "no-store", "Tus-Resumable": "1.0.0"}
        if not upload.parts or upload.joined:
            expected["Upload-Offset"] = str(len(upload.data))
        if upload.known_length is not None:
            expected["Upload-Length"] = str(upload.known_length)
        elif not upload.parts:
            expected["Upload-Defer-Length"] = "1"
        if upload.header is not None:
            expected["Upload-Concat"] = upload.header
        told = {"Cache-Control", "Tus-Resumable"} | {n for n in reply.headers if n[:7] == "Upload-"}
        expires = told & {"Upload-Expires"}
        assert reply.status == 200, reply
        assert {name: reply.headers[name] for name in told - expires} == expected
        assert bool(expires) == (upload.expires is not None and not upload.complete)

    def _check_bytes(self, upload: Model) -> None:
        reply = self.world.run(self.site.get(upload.path))
        if upload.complete and not upload.gone:
            assert (reply.status, reply.body) == (200, upload.data)
        else:
            assert reply.status in (404, 410)


def _memory(folder: Path) -> World:
    return World(MemoryStore(), DataPath.AS_SET)  # only files know of paths


def _fast(folder: Path) -> World:
    return World(DiskStore(folder, durability="none"), DataPath.FAST)


def _portable(folder: Path) -> World:
    return World(DiskStore(folder, durability="none"), DataPath.PORTABLE)


@pytest.fixture(params=[_memory, _fast, _portable], ids=lambda make: make.__name__[1:])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    # The only sweeps are those of the test, however long it takes.
    monkeypatch.setattr(Sweeper, "start", lambda sweeper: None)
    make: Callable[[Path], World] = request.param
    world = make(tmp_path / "uploads")
    yield world
    world.close()


@pytest.mark.timeout(300)  # to shrink what fails takes a while
def test_any_sequence_of_requests(world: World) -> None:
    class OnThisWorld(Uploads):
        def __init__(self) -> None:
            super().__init__(world)

    run_state_machine_as_test(
        OnThisWorld,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None),
    )
