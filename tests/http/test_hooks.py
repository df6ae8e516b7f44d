"""Hooks, black box: what each may do, when it runs, how often, and what its failure does."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import (
    DiskStore,
    Expiry,
    Final,
    Hooks,
    MemoryStore,
    Options,
    Partial,
    Refuse,
    sweep,
)

from .client import (
    OCTETS,
    TUS,
    Reply,
    Site,
    assert_refused,
    chunked,
    head,
    serving,
    sha1,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from aiotus_server.body import Body
    from aiotus_server.protocol.uploads import Upload

    from .conftest import Serve

    Hook = Callable[[Any], Any]
    Style = Callable[[Callable[[Any], None]], Hook]

JUDGES = ("authorize", "pre_create", "pre_receive", "pre_finish", "pre_terminate")
WITNESSES = (
    "post_create",
    "post_receive",
    "post_finish",
    "post_terminate",
    "on_expired",
    "on_interrupted",
)
ORIGIN = {"Origin": "https://app.example"}


def _as_is(hook: Callable[[Any], None]) -> Hook:
    return hook


def _awaited(hook: Callable[[Any], None]) -> Hook:
    async def later(event: Any) -> None:
        await asyncio.sleep(0)
        hook(event)

    return later


@pytest.fixture(params=[_as_is, _awaited], ids=["sync", "async"])
def style(request: pytest.FixtureRequest) -> Style:
    """A hook as a plain function, and as a coroutine function."""
    kind: Style = request.param
    return kind


class Recorder:
    """Hooks that note every event."""

    def __init__(self) -> None:
        self.hooks = Hooks()
        self.events: list[tuple[str, Any]] = []
        self._noted = asyncio.Event()
        for moment in (*JUDGES, *WITNESSES):
            getattr(self.hooks, moment)(partial(self._note, moment))

    def _note(self, moment: str, event: Any) -> None:
        self.events.append((moment, event))
        self._noted.set()

    @property
    def moments(self) -> list[str]:
        return [moment for moment, _ in self.events if moment != "authorize"]

    def of(self, moment: str) -> list[Any]:
        return [event for noted, event in self.events if noted == moment]

    async def next(self, moment: str) -> Any:
        """The first event of this moment, once it has come."""
        async with asyncio.timeout(5):
            while not self.of(moment):
                self._noted.clear()
                await self._noted.wait()
        return self.of(moment)[0]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def stored(tmp_path: Path) -> list[Path]:
    """The files of uploads in the store that ``serve`` makes."""
    return sorted((tmp_path / "uploads").glob("[0-9a-f][0-9a-f]/*"))


async def send_part(site: Site, path: str, body: bytes, *, length: int) -> Any:
    """Begin a PATCH of ``length`` bytes, and give its connection when ``body`` was sent."""
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(length)}
    await connection.send(head("PATCH", path, fields) + body)
    return connection


async def offset_becomes(site: Site, path: str, offset: int) -> bool:
    """Whether HEAD tells ``offset`` before a deadline; it displaces whoever is appending."""
    async with asyncio.timeout(5):
        while (await site.head(path)).offset != offset:
            await asyncio.sleep(0.01)
    return True


# authorize: before the store is asked, and before header syntax


class WatchedStore(MemoryStore):
    """Notes the methods that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def open(self, *, shared: bool) -> None:
        self.asked.append("open")

    async def get(self, upload_id: str) -> Upload:
        self.asked.append("get")
        return await super().get(upload_id)

    async def create(self, upload: Upload, body: Body) -> Upload:
        self.asked.append("create")
        return await super().create(upload, body)

    async def append(self, upload: Upload, body: Body) -> Upload:
        self.asked.append("append")
        return await super().append(upload, body)


@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "DELETE", "GET"])
async def test_authorize_refuses_before_the_store_is_asked(
    serve: Serve, style: Style, method: str
) -> None:
    hooks, store = Hooks(), WatchedStore()

    @style
    def refuse(event: Any) -> None:
        raise Refuse(403, "not you")

    hooks.authorize.append(refuse)
    site = await serve(store, hooks=hooks)
    path = "/files" if method == "POST" else "/files/someone"
    reply = await site.request(method, path, {"Upload-Length": "5"})
    assert reply.status == 403
    assert reply.body == (b"" if method == "HEAD" else b"not you")
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert store.asked == []


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/files", {"Upload-Length": "five"}),
        ("POST", "/files", {"Upload-Length": "5", "Upload-Metadata": ",,"}),
        ("POST", "/files", {"Upload-Concat": "final;/elsewhere/1"}),
        ("PATCH", "/files/x", {"Upload-Offset": "-1", "Content-Type": "text/plain"}),
        ("PATCH", "/files/x", {**OCTETS, "Upload-Offset": "0", "Upload-Checksum": "none"}),
        ("PATCH", "/files/x", {**OCTETS, "Upload-Offset": "0", "Content-Encoding": "gzip"}),
        ("HEAD", "/files/not.an.id", {}),
    ],
)
async def test_authorize_comes_before_header_syntax(
    serve: Serve, method: str, path: str, headers: dict[str, str]
) -> None:
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: Any) -> None:
        raise Refuse(401)

    site = await serve(hooks=hooks)
    assert (await site.request(method, path, headers)).status == 401


async def test_version_comes_before_authorize(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks)
    assert (await site.request("POST", headers={"Tus-Resumable": "0.2.2"})).status == 412
    assert (await site.request("HEAD", "/files/x", tus=False)).status == 412
    assert recorder.events == []


async def test_discovery_needs_no_authorization(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks)
    for path in ("/files", "/files/x"):
        assert (await site.request("OPTIONS", path)).status in (200, 204)
    assert recorder.events == []


async def test_authorize_is_told_verb_id_and_request(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks)
    path = await site.upload(b"x", X_User="ada")
    upload_id = path.rpartition("/")[2]
    await site.head(path)
    await site.get(path)
    await site.request("POST", path, {"X-HTTP-Method-Override": "DELETE"})
    events = recorder.of("authorize")
    assert [(event.verb, event.upload_id) for event in events] == [
        ("create", None),
        ("append", upload_id),
        ("inspect", upload_id),
        ("read", upload_id),
        ("terminate", upload_id),
    ]
    assert events[0].request.headers["X-User"] == "ada"


async def test_refused_body_is_never_asked_for(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: Any) -> None:
        if event.verb == "append":
            raise Refuse(403)

    site = await serve(hooks=hooks)
    path = await site.create(5)
    connection = await site.connect()
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "5"}
    await connection.send_head("PATCH", path, {**fields, "Expect": "100-continue"})
    reply = await connection.reply()
    assert (reply.status, reply.interim) == (403, ())
    await connection.close()


async def test_authorize_may_raise_the_frameworks_exceptions(serve: Serve, style: Style) -> None:
    hooks = Hooks()

    @style
    def refuse(event: Any) -> None:
        if "Authorization" not in event.request.headers:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"}, text="who are you?")
        raise web.HTTPForbidden(text="not you")

    hooks.authorize.append(refuse)
    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "1", **ORIGIN})
    assert (reply.status, reply.body) == (401, b"who are you?")
    assert reply.headers["WWW-Authenticate"] == "Basic"
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    reply = await site.request("DELETE", "/files/x", {"Authorization": "Basic eDp5"})
    assert (reply.status, reply.body) == (403, b"not you")
    reply = await site.request("HEAD", "/files/x", {"Authorization": "Basic eDp5"})
    assert (reply.status, reply.headers["Cache-Control"]) == (403, "no-store")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_passing_refusal_of_head_drops_the_connection(serve: Serve, status: int) -> None:
    """tus-js-client would upload everything again from 0."""
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: Any) -> None:
        raise Refuse(status) if event.request.path.endswith("a") else _framework_error(status)

    site = await serve(hooks=hooks)
    for path in ("/files/a", "/files/b"):
        connection = await site.connect()
        await connection.send_head("HEAD", path, TUS)
        assert await connection.closed()


def _framework_error(status: int) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        408: web.HTTPRequestTimeout,
        429: web.HTTPTooManyRequests,
        500: web.HTTPInternalServerError,
        503: web.HTTPServiceUnavailable,
    }
    return kinds[status]()


# Refusals and errors of the hooks that are awaited


class Judged:
    """A server of which one judging hook raises what it is given, once ``error`` is set."""

    def __init__(self, moment: str, recorder: Recorder, style: Style) -> None:
        self.moment = moment
        self.error: Exception | None = None
        self.path = ""

        def judge(event: Any) -> None:
            if self.error is not None:
                raise self.error

        getattr(recorder.hooks, moment).append(style(judge))

    async def ask(self, site: Site) -> Reply:
        """An upload with 2 of 5 bytes, and then the request that this moment judges."""
        self.path = await site.create(5)
        assert (await site.patch(self.path, 0, b"he")).status == 204
        self.error, error = None, self.error
        return await self.ask_again(site, error)

    async def ask_again(self, site: Site, error: Exception | None) -> Reply:
        self.error = error
        try:
            if self.moment in ("authorize", "pre_create"):
                return await site.request("POST", headers={"Upload-Length": "5", **ORIGIN})
            if self.moment == "pre_terminate":
                return await site.request("DELETE", self.path, ORIGIN)
            fields = {**OCTETS, **ORIGIN, "Upload-Offset": "2"}
            return await site.request("PATCH", self.path, fields, b"llo")
        finally:
            self.error = None


@pytest.mark.parametrize("moment", JUDGES)
async def test_refusal_has_status_body_and_headers(
    serve: Serve, recorder: Recorder, style: Style, moment: str
) -> None:
    judged = Judged(moment, recorder, style)
    site = await serve(hooks=recorder.hooks)
    await judged.ask(site)
    await site.request("DELETE", judged.path)
    judged.path = await site.create(5)
    assert (await site.patch(judged.path, 0, b"he")).status == 204
    reply = await judged.ask_again(site, Refuse(451, "grüß Gott", {"X-Why": "law"}))
    assert reply.status == 451
    assert reply.body == "grüß Gott".encode()
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.headers["X-Why"] == "law"
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Upload-Offset" not in reply.headers
    reply = await judged.ask_again(site, Refuse(400, b"\x00\x01", {"Content-Type": "x/y"}))
    if moment != "pre_finish":  # its refusal stands, and is given again
        assert (reply.status, reply.body) == (400, b"\x00\x01")
        assert reply.headers["Content-Type"] == "x/y"


async def test_refused_creation_stores_nothing(serve: Serve, style: Style, tmp_path: Path) -> None:
    for moment in ("authorize", "pre_create", "pre_receive"):
        hooks = Hooks()

        @style
        def refuse(event: Any) -> None:
            raise Refuse(403)

        getattr(hooks, moment).append(refuse)
        store = DiskStore(tmp_path / moment, durability="none")
        site = await serve(store, hooks=hooks)
        reply = await site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"hello")
        assert reply.status == 403, moment
        assert "Location" not in reply.headers
        assert not list((tmp_path / moment).glob("[0-9a-f][0-9a-f]/*"))


async def test_refused_receive_stores_no_byte(serve: Serve, tmp_path: Path) -> None:
    hooks = Hooks()

    @hooks.pre_receive
    def refuse(event: Any) -> None:
        if event.upload.offset == 2:
            raise Refuse(403)

    site = await serve(hooks=hooks)
    path = await site.create(None, Upload_Defer_Length="1")
    await site.patch(path, 0, b"he")
    assert (await site.patch(path, 2, b"llo", Upload_Length="5")).status == 403
    reply = await site.head(path)
    assert (reply.offset, reply.headers["Upload-Defer-Length"]) == (2, "1")
    assert "Upload-Length" not in reply.headers
    assert min(file.stat().st_size for file in stored(tmp_path)) == 2


async def test_refused_termination_keeps_the_upload(serve: Serve, recorder: Recorder) -> None:
    @recorder.hooks.pre_terminate
    def refuse(event: Any) -> None:
        raise Refuse(403)

    site = await serve(hooks=recorder.hooks)
    path = await site.upload(b"hello")
    assert (await site.delete(path)).status == 403
    assert (await site.get(path)).body == b"hello"
    assert recorder.of("post_terminate") == []


async def test_refused_finish_keeps_the_bytes_and_is_given_again(
    serve: Serve, recorder: Recorder, tmp_path: Path
) -> None:
    @recorder.hooks.pre_create
    def place(event: Any) -> None:
        event.path = str(tmp_path / "published")

    @recorder.hooks.pre_finish
    def refuse(event: Any) -> None:
        raise Refuse(422, "no picture", {"X-Why": "virus"})

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    first = await site.patch(path, 0, b"hello")
    again = await site.patch(path, 5, b"")
    for reply in (first, again):
        assert (reply.status, reply.body) == (422, b"no picture")
        assert reply.headers["X-Why"] == "virus"
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "Upload-Offset" not in reply.headers  # some clients read it on any answer
    assert (await site.head(path)).offset == 5
    assert len(recorder.of("pre_finish")) == 1
    assert recorder.of("post_finish") == []
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize("headers", [{"X-Why": 7}, {"X-Why": "a\r\nSet-Cookie: b"}, {7: "x"}])
async def test_refusal_of_finish_that_cannot_be_sent_is_not_kept(
    serve: Serve, headers: Any
) -> None:
    """Kept with the upload, it would make its info file unreadable."""
    hooks = Hooks()

    @hooks.pre_finish
    def refuse(event: Any) -> None:
        raise Refuse(422, b"no picture", headers)

    site = await serve(hooks=hooks)
    path = await site.create(5)
    assert (await site.patch(path, 0, b"hello")).status == 500
    hooks.pre_finish.clear()
    assert (await site.patch(path, 5, b"")).status == 204
    assert (await site.get(path)).body == b"hello"


async def test_passing_refusal_of_finish_can_be_tried_again(
    serve: Serve, recorder: Recorder
) -> None:
    waits = [Refuse(503, "scanner busy", {"Retry-After": "1"})]

    @recorder.hooks.pre_finish
    def refuse(event: Any) -> None:
        if waits:
            raise waits.pop()

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert recorder.of("post_finish") == []
    assert (await site.patch(path, 5, b"")).status == 204
    assert len(recorder.of("post_finish")) == 1


def test_refusal_needs_a_status_of_an_error() -> None:
    with pytest.raises(ValueError, match="204"):
        Refuse(204)


@pytest.mark.parametrize("moment", JUDGES)
async def test_error_in_a_judging_hook_is_500_and_logged(
    serve: Serve,
    recorder: Recorder,
    style: Style,
    moment: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    judged = Judged(moment, recorder, style)
    site = await serve(hooks=recorder.hooks)
    judged.path = await site.create(5)
    assert (await site.patch(judged.path, 0, b"he")).status == 204
    reply = await judged.ask_again(site, RuntimeError("the password is swordfish"))
    assert (reply.status, reply.code) == (500, "HOOK_FAILED")
    assert b"swordfish" not in reply.body
    assert "swordfish" in caplog.text
    assert recorder.of("post_finish") == recorder.of("post_terminate") == []
    assert (await site.head(judged.path)).offset == (5 if moment == "pre_finish" else 2)


async def _await_what_was_cancelled(event: Any) -> None:
    other = asyncio.ensure_future(asyncio.sleep(10))
    other.cancel()
    await other


async def _exit(event: Any) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("hook", [_await_what_was_cancelled, _exit])
@pytest.mark.parametrize("moment", ["authorize", "pre_create", "pre_receive", "pre_finish"])
async def test_a_hook_that_ends_unlike_others_has_failed(
    serve: Serve, moment: str, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    getattr(hooks, moment)(hook)
    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"hello")
    assert (reply.status, reply.code) == (500, "HOOK_FAILED")
    assert "CancelledError" in caplog.text or "SystemExit" in caplog.text


async def test_a_watching_hook_that_ends_unlike_others_is_harmless(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    hooks.post_create(_await_what_was_cancelled)
    hooks.post_finish(_exit)
    site = await serve(hooks=hooks)
    assert (await site.get(await site.upload(b"hello"))).body == b"hello"
    assert caplog.text.count("failed for the upload") == 2


async def test_error_in_authorize_drops_a_head(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    def fail(event: Any) -> None:
        raise RuntimeError

    site = await serve(hooks=hooks)
    connection = await site.connect()
    await connection.send_head("HEAD", "/files/x", TUS)
    assert await connection.closed()


async def is_dropped(site: Site, path: str) -> bool:
    """Whether a HEAD gets no answer."""
    connection = await site.connect()
    await connection.send_head("HEAD", path, TUS)
    return await connection.closed()


async def recovery_is_over() -> None:
    """It begins with the first request, and finishes uploads too."""
    tasks = [task for task in asyncio.all_tasks() if "recover" in str(task.get_coro())]
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("failure", [RuntimeError(), Refuse(503), 503])
async def test_a_head_does_not_tell_the_end_before_pre_finish_has_let_it_pass(
    serve: Serve, recorder: Recorder, failure: Any
) -> None:
    """tus-js-client and tuspy ask for the offset after a 5xx, and take a full one for success."""
    failures = [failure, failure, failure]

    @recorder.hooks.pre_finish
    def fail(event: Any) -> None:
        if not failures:
            return
        if isinstance(failure, Exception):
            raise failures.pop()
        event.status = failures.pop()

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    await recovery_is_over()
    assert (await site.patch(path, 0, b"hello")).status in (500, 503)
    assert await is_dropped(site, path)
    assert await is_dropped(site, path)
    assert recorder.of("post_finish") == []
    reply = await site.head(path)
    assert (reply.status, reply.offset) == (200, 5)
    assert len(recorder.of("post_finish")) == 1
    assert (await site.get(path)).body == b"hello"


async def test_a_refusal_that_a_head_meets_is_its_answer(serve: Serve, recorder: Recorder) -> None:
    refusals = [Refuse(415, "no video"), Refuse(503)]

    @recorder.hooks.pre_finish
    def refuse(event: Any) -> None:
        raise refusals.pop()

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    await recovery_is_over()
    assert (await site.patch(path, 0, b"hello")).status == 503
    assert (await site.head(path)).status == 415
    reply = await site.patch(path, 5, b"")
    assert (reply.status, reply.body) == (415, b"no video")


async def test_a_status_of_an_error_refuses(serve: Serve, recorder: Recorder) -> None:
    @recorder.hooks.pre_finish
    def refuse(event: Any) -> None:
        event.status, event.body, event.headers = 415, "no video", {"X-Why": "codec"}

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    for data in (b"hello", b""):
        reply = await site.patch(path, 5 - len(data), data)
        assert (reply.status, reply.body, reply.headers["X-Why"]) == (415, b"no video", "codec")
    assert recorder.moments.count("pre_finish") == 1
    assert recorder.of("post_finish") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("headers", {name: "3"}) for name in ("Content-Length", "transfer-encoding", "X Y")),
        *(("headers", None), ("body", {"a": 1}), ("body", 5), ("status", "200")),
    ],
)
async def test_what_cannot_be_sent_is_an_error_of_the_application(
    serve: Serve, name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And the client of a creation still learns where its upload is."""
    hooks = Hooks()

    @hooks.pre_finish
    def shape(event: Any) -> None:
        setattr(event, name, value)

    site = await serve(hooks=hooks)
    headers = {"Upload-Length": "5", **OCTETS}
    reply = await site.request("POST", headers=headers, body=b"hello")
    assert (reply.status, reply.code) == (500, "HOOK_FAILED")
    assert reply.headers["Location"]
    assert "pre_finish set" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("metadata", None), ("path", 5)])
async def test_what_cannot_be_made_is_an_error_of_the_application(
    serve: Serve, name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def shape(event: Any) -> None:
        setattr(event, name, value)

    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert (reply.status, reply.code) == (500, "HOOK_FAILED")
    assert "pre_create" in caplog.text


async def test_failed_pre_finish_is_run_again_by_an_empty_patch(
    serve: Serve, recorder: Recorder
) -> None:
    errors = [RuntimeError("database away")]

    @recorder.hooks.pre_finish
    def fail_once(event: Any) -> None:
        if errors:
            raise errors.pop()
        event.headers["X-Done"] = "yes"

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    assert (await site.patch(path, 0, b"hello")).status == 500
    reply = await site.patch(path, 5, b"")
    assert (reply.status, reply.headers["X-Done"]) == (204, "yes")
    await site.patch(path, 5, b"")
    assert len(recorder.of("pre_finish")) == 2
    assert len(recorder.of("post_finish")) == 1


async def test_hooks_run_in_order_and_a_refusal_ends_them(serve: Serve, style: Style) -> None:
    hooks, ran = Hooks(), []

    def note(name: str, event: Any) -> None:
        ran.append(name)
        if name == "second":
            raise Refuse(403)

    for name in ("first", "second", "third"):
        hooks.pre_create.append(style(partial(note, name)))
    site = await serve(hooks=hooks)
    assert (await site.request("POST", headers={"Upload-Length": "1"})).status == 403
    assert ran == ["first", "second"]


def test_decorated_hook_is_still_the_function() -> None:
    hooks = Hooks()

    @hooks.pre_create
    def hook(event: Any) -> None:
        pass

    assert hooks.pre_create == [hook]


# Errors in the hooks that only watch


async def _all_moments(site: Site, recorder: Recorder) -> list[int]:
    """Requests that bring every watching hook but on_expired; their statuses."""
    path = await site.create(5)
    connection = await send_part(site, path, b"he", length=5)
    await recorder.next("post_receive")  # the bytes have come
    assert await offset_becomes(site, path, 2)  # the HEAD interrupts the PATCH
    displaced = await connection.reply()
    finished = await site.patch(path, 2, b"llo")
    deleted = await site.delete(path)
    return [displaced.status, finished.status, deleted.status]


@pytest.mark.parametrize("moment", WITNESSES)
async def test_error_in_a_watching_hook_is_logged_and_harmless(
    serve: Serve,
    recorder: Recorder,
    style: Style,
    moment: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @style
    def fail(event: Any) -> None:
        raise RuntimeError("swordfish")

    ran: list[Any] = []
    hook_list = getattr(recorder.hooks, moment)
    hook_list.append(fail)
    hook_list.append(ran.append)
    options = Options(progress_interval=timedelta(0), expiry=Expiry(after=timedelta(hours=1)))
    site = await serve(hooks=recorder.hooks, options=options)
    assert await _all_moments(site, recorder) == [423, 204, 204]
    await site.create(5)
    assert await sweep_after(site, hours=2) == 1
    assert moment in recorder.moments
    assert ran, "the hook behind the one that failed was not run"
    errors = [record for record in caplog.records if record.levelno >= ERROR]
    assert errors
    assert all(record.exc_info and "swordfish" in str(record.exc_info[1]) for record in errors)


async def sweep_after(site: Site, *, hours: float) -> int:
    server = site.routes.server
    server.clock = lambda: datetime.now(UTC) + timedelta(hours=hours)
    return await sweep(server)


# pre_create


async def test_pre_create_sets_the_id(serve: Serve, style: Style) -> None:
    hooks = Hooks()

    @style
    def name(event: Any) -> None:
        assert len(event.upload_id) >= 22
        event.upload_id = "ada-1_" + event.metadata["filename"].decode()

    hooks.pre_create.append(name)
    site = await serve(hooks=hooks)
    path = await site.upload(b"hello", Upload_Metadata="filename bm90ZXM=")
    assert path == "/files/ada-1_notes"
    assert (await site.get(path)).body == b"hello"


async def test_id_that_is_taken_is_409_and_harms_nothing(serve: Serve, recorder: Recorder) -> None:
    @recorder.hooks.pre_create
    def name(event: Any) -> None:
        event.upload_id = "same"

    site = await serve(hooks=recorder.hooks)
    path = await site.upload(b"hello", Upload_Metadata="a YQ==")
    fields = {"Upload-Length": "3", **OCTETS}
    reply = await site.request("POST", headers=fields, body=b"bye")
    assert (reply.status, reply.code) == (409, "UPLOAD_EXISTS")
    assert "Location" not in reply.headers
    assert (await site.get(path)).body == b"hello"
    assert (await site.head(path)).headers["Upload-Metadata"] == "a YQ=="
    assert recorder.moments.count("post_create") == 1


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "a/b", "a.info", "x" * 65, "ä", "a\n"])
async def test_id_that_is_none_is_500(
    serve: Serve, bad: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def name(event: Any) -> None:
        event.upload_id = bad

    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "3"})
    assert (reply.status, stored(tmp_path)) == (500, [])
    assert repr(bad) in caplog.text


async def test_pre_create_sets_metadata_of_the_application(
    serve: Serve, recorder: Recorder, style: Style
) -> None:
    @style
    def describe(event: Any) -> None:
        event.metadata = {**event.metadata, "owner": b"ada", "draft": None}

    recorder.hooks.pre_create.insert(0, describe)
    site = await serve(hooks=recorder.hooks)
    path = await site.upload(b"hello", Upload_Metadata="filename bm90ZXM=")
    await site.delete(path)
    expected = {"filename": b"notes", "owner": b"ada", "draft": None}
    for moment in ("post_create", "pre_receive", "pre_finish", "post_finish", "pre_terminate"):
        assert dict(recorder.of(moment)[0].metadata) == expected, moment


async def test_head_shows_what_the_client_sent(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def describe(event: Any) -> None:
        event.metadata = {"secret": b"of the application"}

    site = await serve(hooks=hooks)
    path = await site.create(5, Upload_Metadata="filename bm90ZXM=,empty")
    assert (await site.head(path)).headers["Upload-Metadata"] == "filename bm90ZXM=,empty"
    path = await site.create(5)
    assert "Upload-Metadata" not in (await site.head(path)).headers


async def test_metadata_changed_in_place_is_not_lost(serve: Serve, recorder: Recorder) -> None:
    @recorder.hooks.pre_create
    def describe(event: Any) -> None:
        event.metadata["owner"] = b"ada"

    site = await serve(hooks=recorder.hooks)
    await site.create(0)
    assert recorder.of("post_create")[0].metadata["owner"] == b"ada"


async def test_metadata_that_is_not_bytes_is_500_and_stores_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def describe(event: Any) -> None:
        event.metadata = {"owner": "ada"}

    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "3"})
    assert (reply.status, stored(tmp_path)) == (500, [])


async def test_publishing_makes_the_file_appear_and_get_still_works(
    serve: Serve, recorder: Recorder, style: Style, tmp_path: Path
) -> None:
    target = tmp_path / "new folder" / "notes.txt"

    @style
    def place(event: Any) -> None:
        event.path = target

    recorder.hooks.pre_create.append(place)
    site = await serve(hooks=recorder.hooks)
    path = await site.create(10)
    await site.patch(path, 0, b"hello")
    assert not target.exists()
    assert (await site.patch(path, 5, b"world")).status == 204
    assert target.read_bytes() == b"helloworld"
    assert [file.name for file in target.parent.iterdir()] == ["notes.txt"]
    reply = await site.get(path, Range="bytes=5-")
    assert (reply.status, reply.body) == (206, b"world")
    reply = await site.head(path)
    assert (reply.offset, reply.headers["Upload-Length"]) == (10, "10")
    assert (await site.patch(path, 10, b"")).status == 204
    assert recorder.of("post_finish")[0].upload.published
    async with recorder.of("post_finish")[0].open() as file:
        assert await file.read() == b"helloworld"
    assert (await site.delete(path)).status == 204
    assert target.read_bytes() == b"helloworld"
    assert stored(tmp_path) == []


@pytest.mark.parametrize("now", ["shorter", "folder", "pipe", "gone"])
@pytest.mark.parametrize("size", [5, 200_000])
async def test_what_an_application_did_to_a_published_file_is_no_error(
    serve: Serve, recorder: Recorder, tmp_path: Path, now: str, size: int
) -> None:
    @recorder.hooks.pre_create
    def place(event: Any) -> None:
        event.path = tmp_path / "published"

    site = await serve(hooks=recorder.hooks)
    path = await site.upload(bytes(size))
    published = tmp_path / "published"
    published.unlink()
    if now == "shorter":
        published.write_bytes(b"x")
    elif now == "folder":
        published.mkdir()
    elif now == "pipe":
        os.mkfifo(published)
    for fields in ({}, {"Range": "bytes=2-"}):
        async with asyncio.timeout(5):
            assert (await site.get(path, **fields)).status == 404
    assert (await site.head(path)).offset == size


async def test_publishing_never_replaces_a_file(
    serve: Serve, recorder: Recorder, tmp_path: Path
) -> None:
    target = tmp_path / "taken"
    target.write_bytes(b"somebody's")

    @recorder.hooks.pre_create
    def place(event: Any) -> None:
        event.path = str(target)

    site = await serve(hooks=recorder.hooks)
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert (reply.status, reply.code) == (409, "PATH_TAKEN")
    target.unlink()
    path = await site.create(5)
    target.write_bytes(b"somebody's")
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.code) == (409, "PATH_TAKEN")
    assert target.read_bytes() == b"somebody's"
    assert await is_dropped(site, path)
    assert recorder.of("post_finish") == []
    target.unlink()
    assert (await site.head(path)).offset == 5
    assert (await site.patch(path, 5, b"")).status == 204
    assert target.read_bytes() == b"hello"
    assert len(recorder.of("post_finish")) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the store's."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield folder
    shutil.rmtree(folder)


async def test_copied_publication_is_never_seen_half_written(
    serve: Serve, tmp_path: Path, elsewhere: Path
) -> None:
    data = os.urandom(1024) * 24 * 1024
    target = elsewhere / "big"
    sizes: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if target.exists():
                sizes.add(target.stat().st_size)

    hooks = Hooks()

    @hooks.pre_create
    def place(event: Any) -> None:
        event.path = str(target)

    site = await serve(hooks=hooks)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        path = await site.upload(data)
        sizes.add(target.stat().st_size)
    finally:
        over.set()
        watcher.join()
    assert sizes == {len(data)}
    assert target.read_bytes() == data
    assert [file.name for file in elsewhere.iterdir()] == ["big"]
    assert (await site.get(path)).body == data


async def test_zero_length_and_concatenated_uploads_are_published(
    serve: Serve, tmp_path: Path
) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def place(event: Any) -> None:
        if not isinstance(event.upload.concat, Partial):
            event.path = str(tmp_path / event.metadata["name"].decode())

    site = await serve(hooks=hooks)
    await site.create(0, Upload_Metadata="name ZW1wdHk=")
    parts = [await site.upload(piece, Upload_Concat="partial") for piece in (b"hello", b"world")]
    path = await site.create(
        Upload_Concat=f"final;{parts[0]} {parts[1]}", Upload_Metadata="name Ym90aA=="
    )
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "both").read_bytes() == b"helloworld"
    assert (await site.get(path)).body == b"helloworld"


# post_create


async def test_post_create_sets_location(serve: Serve, style: Style) -> None:
    hooks, before = Hooks(), []

    @style
    def locate(event: Any) -> None:
        before.append(event.location)
        event.location = f"https://cdn.example/up/{event.upload.upload_id}"

    hooks.post_create.append(locate)
    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert reply.headers["Location"].startswith("https://cdn.example/up/")
    assert before[0].startswith("http://localhost/files/")
    # A failure behind the creation tells the same URL.
    fields = {"Upload-Length": "5", "Upload-Checksum": sha1(b"other"), **OCTETS}
    reply = await site.request("POST", headers=fields, body=b"hello")
    assert reply.status == 460
    assert reply.headers["Location"].startswith("https://cdn.example/up/")


async def test_events_of_creation_have_upload_metadata_and_request(
    serve: Serve, recorder: Recorder
) -> None:
    site = await serve(hooks=recorder.hooks)
    await site.create(5, Upload_Metadata="a YQ==,b", X_User="ada")
    for moment in ("pre_create", "post_create"):
        (event,) = recorder.of(moment)
        assert (event.upload.length, event.upload.offset) == (5, 0)
        assert dict(event.metadata) == {"a": b"a", "b": None}
        assert event.request.headers["X-User"] == "ada"
    assert recorder.moments == ["pre_create", "post_create"]


# pre_receive and post_receive


async def test_pre_receive_runs_for_every_body_and_no_other_request(
    serve: Serve, recorder: Recorder
) -> None:
    site = await serve(hooks=recorder.hooks)
    fields = {"Upload-Length": "8", **OCTETS}
    path = (await site.request("POST", headers=fields, body=b"he")).path
    await site.patch(path, 2, b"")
    await site.patch(path, 2, b"llo")
    coded = chunked(b"wor")
    await site.patch(path, 5, coded, Transfer_Encoding="chunked")
    await site.patch(path, 8, b"")
    await site.create(5)
    assert [event.upload.offset for event in recorder.of("pre_receive")] == [0, 2, 5]


async def test_no_hook_runs_before_the_checks_have_passed(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks, options=Options(max_size=10))
    path = await site.create(5)
    recorder.events.clear()
    assert (await site.patch(path, 1, b"x")).status == 409
    assert (await site.patch(path, 0, b"123456")).status == 413
    assert (await site.patch("/files/unknown", 0, b"x")).status == 404
    assert (await site.request("POST", headers={"Upload-Length": "11"})).status == 413
    assert (await site.request("POST", headers={"Upload-Length": "x"})).status == 400
    assert (await site.delete("/files/unknown")).status == 404
    assert recorder.moments == []


async def test_post_receive_tells_progress(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks, options=Options(progress_interval=timedelta(0)))
    path = await site.create(400_000)
    connection = await send_part(site, path, bytes(300_000), length=400_000)
    event = await recorder.next("post_receive")
    assert 0 < event.upload.offset <= 300_000
    assert event.upload.length == 400_000
    await connection.send(bytes(100_000))
    assert (await connection.reply()).status == 204
    offsets = [event.upload.offset for event in recorder.of("post_receive")]
    assert offsets == sorted(set(offsets))


async def test_post_receive_is_rate_limited(serve: Serve, recorder: Recorder) -> None:
    interval = 0.2
    options = Options(progress_interval=timedelta(seconds=interval))
    site = await serve(MemoryStore(), hooks=recorder.hooks, options=options)
    path = await site.create(100_000)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connection = await send_part(site, path, b"", length=100_000)
    for _ in range(50):
        await connection.send(bytes(2_000))
        await asyncio.sleep(0.01)
    assert (await connection.reply()).status == 204
    assert 1 <= len(recorder.of("post_receive")) <= (loop.time() - begun) / interval


async def test_post_receive_is_silent_within_the_first_interval(
    serve: Serve, recorder: Recorder
) -> None:
    options = Options(progress_interval=timedelta(hours=1))
    site = await serve(hooks=recorder.hooks, options=options)
    await site.upload(bytes(1_000_000))
    assert recorder.of("post_receive") == []


# Finish


async def test_pre_finish_shapes_the_last_answer_and_it_is_given_again(
    serve: Serve, recorder: Recorder, style: Style
) -> None:
    @style
    def shape(event: Any) -> None:
        event.status = 200
        event.headers["X-File"] = "42"
        event.headers["Content-Type"] = "application/json"
        event.body = '{"id": 42}'

    recorder.hooks.pre_finish.append(shape)
    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    assert (await site.patch(path, 0, b"he")).status == 204
    last = await site.patch(path, 2, b"llo")
    again = await site.patch(path, 5, b"")
    for reply in (last, again):
        assert (reply.status, reply.offset) == (200, 5)
        assert (reply.headers["X-File"], reply.body) == ("42", b'{"id": 42}')
        assert reply.headers["Content-Type"] == "application/json"
    assert recorder.moments.count("pre_finish") == recorder.moments.count("post_finish") == 1


async def test_outcome_is_given_again_after_a_restart(recorder: Recorder, tmp_path: Path) -> None:
    @recorder.hooks.pre_finish
    def shape(event: Any) -> None:
        event.headers["X-File"] = "42"

    store = DiskStore(tmp_path / "uploads")
    async with serving(store, hooks=recorder.hooks) as site:
        path = await site.upload(b"hello")
    await store.close()
    async with serving(DiskStore(tmp_path / "uploads"), hooks=recorder.hooks) as site:
        reply = await site.patch(path, 5, b"")
        assert (reply.status, reply.headers["X-File"]) == (204, "42")
    assert recorder.moments.count("pre_finish") == recorder.moments.count("post_finish") == 1


async def test_an_end_stays_noted_while_there_is_nobody_to_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start without its hooks, by mistake say, takes nothing from the application."""
    hooks, told = Hooks(), []

    @hooks.post_finish
    def fail_once(event: Any) -> None:
        told.append(event.upload.upload_id)
        if len(told) == 1:
            raise ValueError

    store = DiskStore(tmp_path / "uploads")
    async with serving(store, hooks=hooks) as site:
        path = await site.upload(b"hello")
    await store.close()
    upload_id = path.rpartition("/")[2]
    assert f"failed for the upload {upload_id}" in caplog.text
    store = DiskStore(tmp_path / "uploads")
    async with serving(store) as site:
        assert (await site.head(path)).offset == 5
        async with asyncio.timeout(5):
            while "not told of the end of 1 upload," not in caplog.text:
                await asyncio.sleep(0.01)
    await store.close()
    async with serving(DiskStore(tmp_path / "uploads"), hooks=hooks) as site:
        await site.head(path)
        async with asyncio.timeout(5):
            while len(told) < 2:
                await asyncio.sleep(0.01)
    assert told == [upload_id, upload_id]


async def test_pre_finish_cannot_change_the_protocols_headers(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_finish
    def shape(event: Any) -> None:
        event.headers["upload-offset"] = "999"
        event.headers["LOCATION"] = "/elsewhere"

    site = await serve(hooks=hooks)
    fields = {"Upload-Length": "5", **OCTETS}
    reply = await site.request("POST", headers=fields, body=b"hello")
    assert reply.headers.getall("Upload-Offset") == ["5"]
    assert len(reply.headers.getall("Location")) == 1
    assert reply.path != "/elsewhere"
    reply = await site.patch(reply.path, 5, b"")
    assert reply.headers.getall("Upload-Offset") == ["5"]


async def test_body_of_the_last_answer_turns_204_into_200(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_finish
    def shape(event: Any) -> None:
        event.body = b"thanks"

    site = await serve(hooks=hooks)
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.body, reply.offset) == (200, b"thanks", 5)


async def _finish_plainly(site: Site) -> str:
    return await site.upload(b"hello")


async def _finish_zero_length(site: Site) -> str:
    return await site.create(0)


async def _finish_with_creation(site: Site) -> str:
    fields = {"Upload-Length": "5", **OCTETS}
    return (await site.request("POST", headers=fields, body=b"hello")).path


async def _finish_by_declaring_the_length(site: Site) -> str:
    path = await site.create(None, Upload_Defer_Length="1")
    await site.patch(path, 0, b"hello")
    assert (await site.patch(path, 5, b"", Upload_Length="5")).status == 204
    return path


async def _finish_too_long(site: Site) -> str:
    path = await site.create(5)
    coded = chunked(b"hello world")
    assert (await site.patch(path, 0, coded, Transfer_Encoding="chunked")).status == 413
    return path


async def _finish_with_creation_too_long(site: Site) -> str:
    fields = {"Upload-Length": "5", **OCTETS, "Transfer-Encoding": "chunked"}
    reply = await site.request("POST", headers=fields, body=chunked(b"hello world"))
    assert reply.status == 413
    return reply.path


async def _finish_with_checksum(site: Site) -> str:
    path = await site.create(5)
    wrong = await site.patch(path, 0, b"hallo", Upload_Checksum=sha1(b"hello"))
    assert wrong.status == 460
    right = await site.patch(path, 0, b"hello", Upload_Checksum=sha1(b"hello"))
    assert right.status == 204
    return path


async def _finish_with_trailer(site: Site) -> str:
    path = await site.create(5)
    coded = chunked(b"hello", trailers={"Upload-Checksum": sha1(b"hello")})
    fields = {"Transfer_Encoding": "chunked", "Trailer": "Upload-Checksum"}
    assert (await site.patch(path, 0, coded, **fields)).status == 204
    return path


async def _finish_a_concatenation(site: Site) -> str:
    parts = [await site.upload(piece, Upload_Concat="partial") for piece in (b"he", b"llo")]
    return await site.create(Upload_Concat=f"final;{parts[0]} {parts[1]}")


async def _finish_an_unfinished_concatenation(site: Site) -> str:
    part = await site.create(5, Upload_Concat="partial")
    path = await site.create(Upload_Concat=f"final;{part}")
    assert (await site.patch(part, 0, b"hello")).status == 204
    return path


FINISHES = [
    _finish_plainly,
    _finish_zero_length,
    _finish_with_creation,
    _finish_by_declaring_the_length,
    _finish_too_long,
    _finish_with_creation_too_long,
    _finish_with_checksum,
    _finish_with_trailer,
    _finish_a_concatenation,
    _finish_an_unfinished_concatenation,
]


@pytest.mark.parametrize("finish", FINISHES, ids=lambda function: function.__name__[8:])
@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_finish_runs_once_for_every_upload(
    serve: Serve, recorder: Recorder, kind: str, finish: Callable[[Site], Awaitable[str]]
) -> None:
    contents: list[bytes] = []

    @recorder.hooks.pre_finish
    @recorder.hooks.post_finish
    async def read(event: Any) -> None:
        async with event.open() as file:
            contents.append(await file.read())

    site = await serve(MemoryStore() if kind == "memory" else None, hooks=recorder.hooks)
    path = await finish(site)
    data = b"" if finish is _finish_zero_length else b"hello"
    assert (await site.get(path)).body == data
    for _ in range(2):  # a client whose last answer was lost
        await site.patch(path, len(data), b"")
    assert contents == [data, data]
    finished = [moment for moment in recorder.moments if moment.endswith("_finish")]
    assert finished == ["pre_finish", "post_finish"]
    for moment in finished:
        (event,) = recorder.of(moment)
        assert event.upload.complete
        assert event.upload.offset == event.upload.length == len(data)
        assert event.upload.upload_id == path.rpartition("/")[2]


async def test_finish_never_runs_for_partials(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks)
    parts = [await site.upload(b"hello", Upload_Concat="partial")]
    parts.append(await site.create(0, Upload_Concat="partial"))
    fields = {"Upload-Length": "2", "Upload-Concat": "partial", **OCTETS}
    parts.append((await site.request("POST", headers=fields, body=b"ho")).path)
    for path, length in zip(parts, (5, 0, 2), strict=True):
        assert (await site.patch(path, length, b"")).status == 204
    assert not [moment for moment in recorder.moments if moment.endswith("_finish")]
    await site.create(Upload_Concat=f"final;{' '.join(parts)}")
    (event,) = recorder.of("post_finish")
    assert isinstance(event.upload.concat, Final)


async def test_finish_shapes_the_answer_to_a_creation(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_finish
    def shape(event: Any) -> None:
        event.headers["X-File"] = "42"
        event.body = "thanks"

    site = await serve(hooks=hooks)
    part = await site.upload(b"hello", Upload_Concat="partial")
    for fields in ({"Upload-Length": "0"}, {"Upload-Concat": f"final;{part}"}):
        reply = await site.request("POST", headers=fields)
        assert (reply.status, reply.body) == (201, b"thanks")
        assert reply.headers["X-File"] == "42"
        assert reply.path.startswith("/files/")


async def test_get_does_not_give_out_what_pre_finish_refused(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.pre_finish
    def refuse(event: Any) -> None:
        raise Refuse(415, "no programs, please")

    site = await serve(hooks=hooks)
    path = await site.create(5)
    assert (await site.patch(path, 0, b"hello")).status == 415
    assert_refused(await site.get(path), 404)


@pytest.mark.parametrize("store", ["disk", "memory"])
async def test_get_gives_out_what_pre_finish_has_let_pass(
    serve: Serve, recorder: Recorder, tmp_path: Path, store: str
) -> None:
    verdicts: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future()]

    @recorder.hooks.pre_finish
    async def judge(event: Any) -> None:
        await verdicts[0]

    kind = MemoryStore() if store == "memory" else DiskStore(tmp_path / "uploads")
    site = await serve(kind, hooks=recorder.hooks)
    path = await site.create(5)
    patching = asyncio.create_task(site.patch(path, 0, b"hello"))
    await recorder.next("pre_finish")
    assert_refused(await site.get(path), 404)
    verdicts[0].set_exception(Refuse(503))
    assert (await patching).status == 503
    assert_refused(await site.get(path), 404)
    verdicts[0] = asyncio.get_running_loop().create_future()
    verdicts[0].set_result(None)
    assert (await site.patch(path, 5, b"")).status == 204
    assert (await site.get(path)).body == b"hello"


async def test_get_gives_out_what_was_complete_before_there_was_a_pre_finish(
    serve: Serve, tmp_path: Path
) -> None:
    site = await serve(DiskStore(tmp_path / "uploads"))
    path = await site.upload(b"hello")
    await site.routes.server.stop()
    hooks = Hooks()
    hooks.pre_finish(lambda event: None)
    site = await serve(DiskStore(tmp_path / "uploads"), hooks=hooks)
    assert (await site.get(path)).body == b"hello"


async def test_refusal_of_a_waiting_final_is_not_its_partials(
    serve: Serve, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    @recorder.hooks.pre_finish
    def refuse(event: Any) -> None:
        raise Refuse(422)

    site = await serve(hooks=recorder.hooks)
    part = await site.create(5, Upload_Concat="partial")
    final = await site.create(Upload_Concat=f"final;{part}")
    assert (await site.patch(part, 0, b"hello")).status == 204
    assert (await site.head(final)).offset == 5
    assert len(recorder.of("pre_finish")) == 1


async def test_finish_runs_once_for_two_requests_at_a_time(
    serve: Serve, recorder: Recorder
) -> None:
    go_on = asyncio.Event()

    @recorder.hooks.pre_finish
    async def wait(event: Any) -> None:
        await go_on.wait()
        event.headers["X-File"] = "42"

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await recorder.next("pre_finish")
    second = asyncio.create_task(site.patch(path, 5, b""))
    assert (await site.head(path)).status == 423  # at once: it is not yet the end
    go_on.set()
    for reply in (await first, await second):
        assert (reply.status, reply.headers["X-File"]) == (204, "42")
    assert recorder.moments.count("pre_finish") == recorder.moments.count("post_finish") == 1


async def test_post_finish_alone_runs_once(serve: Serve) -> None:
    hooks, finished = Hooks(), []

    @hooks.post_finish
    def note(event: Any) -> None:
        finished.append(event.upload)

    site = await serve(hooks=hooks)
    path = await site.upload(b"hello")
    await site.patch(path, 5, b"")
    assert len(finished) == 1


# Termination and expiry


async def test_an_end_is_told_before_the_upload_is_removed(serve: Serve) -> None:
    """Nobody could tell of it later: the first time may have failed, or a crash come between."""
    hooks, told = Hooks(), []

    @hooks.post_finish
    async def fail_once(event: Any) -> None:
        told.append(event.idempotency_key)
        if len(told) == 1:
            raise ValueError

    @hooks.post_terminate
    async def removed(event: Any) -> None:
        told.append("removed")

    site = await serve(hooks=hooks)
    path = await site.upload(b"abc")
    assert (await site.delete(path)).status == 204
    assert told == [told[0], told[0], "removed"]
    path = await site.upload(b"abc")
    assert (await site.delete(path)).status == 204
    assert told[3:] == [told[3], "removed"]


async def test_termination_events_come_before_and_after(serve: Serve, recorder: Recorder) -> None:
    contents: list[bytes] = []

    @recorder.hooks.pre_terminate
    async def read(event: Any) -> None:
        async with event.open() as file:
            contents.append(await file.read())

    site = await serve(hooks=recorder.hooks)
    path = await site.create(5, Upload_Metadata="a YQ==")
    await site.patch(path, 0, b"he")
    recorder.events.clear()
    assert (await site.delete(path)).status == 204
    assert (await site.delete(path)).status in (404, 410)
    assert recorder.moments == ["pre_terminate", "post_terminate"]
    for moment in recorder.moments:
        (event,) = recorder.of(moment)
        assert (event.upload.offset, event.metadata["a"]) == (2, b"a")
        assert event.request.method == "DELETE"
    assert contents == [b"he"]


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_expired_uploads_are_told_about_once(
    serve: Serve, recorder: Recorder, kind: str, sliding: bool
) -> None:
    options = Options(expiry=Expiry(after=timedelta(hours=1), sliding=sliding))
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, hooks=recorder.hooks, options=options)
    path = await site.create(5, Upload_Metadata="a YQ==")
    await site.patch(path, 0, b"he")
    complete = await site.upload(b"hello")
    recorder.events.clear()
    assert await sweep_after(site, hours=0.5) == 0
    assert await sweep_after(site, hours=2) == 1
    assert await sweep_after(site, hours=3) == 0
    assert recorder.moments == ["on_expired"]
    (event,) = recorder.of("on_expired")
    assert event.upload.upload_id == path.rpartition("/")[2]
    assert (event.upload.offset, event.metadata["a"], event.request) == (2, b"a", None)
    assert (await site.head(path)).status in (404, 410)
    assert (await site.get(complete)).body == b"hello"


# on_interrupted


async def _vanish(site: Site, path: str, connection: Any) -> None:
    connection.reset()


async def _hang_up(site: Site, path: str, connection: Any) -> None:
    await connection.close()


async def _inspect(site: Site, path: str, connection: Any) -> None:
    assert (await site.head(path)).offset == 2


async def _append(site: Site, path: str, connection: Any) -> None:
    assert (await site.patch(path, 2, b"llo")).status == 204


async def _terminate(site: Site, path: str, connection: Any) -> None:
    assert (await site.delete(path)).status == 204


async def _keep_silent(site: Site, path: str, connection: Any) -> None:
    pass


async def _stop(site: Site, path: str, connection: Any) -> None:
    await site.runner.cleanup()


@pytest.mark.parametrize(
    ("interrupt", "code"),
    [
        (_vanish, "BODY_CUT_SHORT"),
        (_hang_up, "BODY_CUT_SHORT"),
        (_inspect, "UPLOAD_DISPLACED"),
        (_append, "UPLOAD_DISPLACED"),
        (_terminate, "UPLOAD_TERMINATED"),
        (_keep_silent, "BODY_TIMED_OUT"),
        (_stop, "SERVER_STOPPING"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_interrupted_body_is_told_about_with_what_was_kept(
    serve: Serve,
    recorder: Recorder,
    kind: str,
    interrupt: Callable[[Site, str, Any], Awaitable[None]],
    code: str,
) -> None:
    contents: list[bytes] = []

    @recorder.hooks.on_interrupted
    async def read(event: Any) -> None:
        async with event.open() as file:
            contents.append(await file.read())

    timeout = timedelta(seconds=0.3 if interrupt is _keep_silent else 60)
    options = Options(read_timeout=timeout, progress_interval=timedelta(0))
    store = MemoryStore() if kind == "memory" else None
    site = await serve(store, hooks=recorder.hooks, options=options)
    path = await site.create(5)
    connection = await send_part(site, path, b"he", length=5)
    await recorder.next("post_receive")  # the bytes have come
    await interrupt(site, path, connection)
    event = await recorder.next("on_interrupted")
    assert (event.error.code, event.upload.offset, event.upload.length) == (code, 2, 5)
    assert event.request.method == "PATCH"
    async with asyncio.timeout(5):
        while not contents:
            await asyncio.sleep(0.01)
    assert contents == [b"he"]
    assert len(recorder.of("on_interrupted")) == 1


async def test_interrupted_under_a_checksum_tells_that_nothing_was_kept(
    serve: Serve, recorder: Recorder
) -> None:
    site = await serve(hooks=recorder.hooks)
    path = await site.create(5)
    await site.patch(path, 0, b"he")
    reply = await site.patch(path, 2, b"xxx", Upload_Checksum=sha1(b"llo"))
    assert reply.status == 460
    (event,) = recorder.of("on_interrupted")
    assert (event.error.code, event.upload.offset) == ("CHECKSUM_MISMATCH", 2)
    assert recorder.of("post_finish") == []


async def test_whole_bodies_are_no_interruption(serve: Serve, recorder: Recorder) -> None:
    site = await serve(hooks=recorder.hooks)
    await site.upload(b"hello")
    await site.create(0)
    assert recorder.of("on_interrupted") == []


# Several mounts


@pytest.fixture
async def two_mounts(tmp_path: Path) -> AsyncIterator[tuple[Site, Site, Recorder, Recorder]]:
    one, two = Recorder(), Recorder()
    async with (
        serving(MemoryStore(), hooks=one.hooks, prefix="/one") as first,
        serving(MemoryStore(), hooks=two.hooks, prefix="/two") as second,
    ):
        yield first, second, one, two


async def test_hooks_belong_to_their_mount(
    two_mounts: tuple[Site, Site, Recorder, Recorder],
) -> None:
    first, _, one, two = two_mounts
    await first.upload(b"hello")
    assert one.moments
    assert two.events == []


UNSENDABLE = [{"X-Name": "a\r\nb"}, {"X-Name": 5}, {"X\n": "a"}]


@pytest.mark.parametrize("moment", ["authorize", "pre_create", "pre_receive", "pre_terminate"])
@pytest.mark.parametrize("headers", UNSENDABLE, ids=repr)
async def test_a_refusal_that_cannot_be_sent_is_an_error_of_the_application(
    serve: Serve, moment: str, headers: dict[str, Any]
) -> None:
    hooks = Hooks()
    site = await serve(hooks=hooks)
    path = await site.create(5)

    def refuse(event: Any) -> None:
        raise Refuse(403, "no", headers)

    getattr(hooks, moment).append(refuse)
    if moment == "pre_receive":
        reply = await site.patch(path, 0, b"hello")
    elif moment == "pre_terminate":
        reply = await site.delete(path)
    else:
        reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert_refused(reply, 500, "HOOK_FAILED")


@pytest.mark.parametrize("location", ["/files/a\r\nX-Evil: b", 5])
async def test_a_location_that_cannot_be_sent_is_not(serve: Serve, location: Any) -> None:
    hooks = Hooks()

    @hooks.post_create
    def move(event: Any) -> None:
        event.location = location

    site = await serve(hooks=hooks)
    path = await site.upload(b"hello")
    assert (await site.get(path)).body == b"hello"
