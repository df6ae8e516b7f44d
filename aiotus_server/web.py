"""What aiohttp calls for each request below a prefix.

Text ends here and values begin; below this module nobody reads a header. And nothing below it
is ever cancelled: a request that aiohttp cancels has its body interrupted instead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from logging import getLogger
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import HttpVersion11, web
from msgspec import Struct
from msgspec.structs import replace

from . import _aiohttp, downloading
from .call import Call
from .location import LateMount
from .options import Options
from .protocol import download, responses
from .protocol.checksum import Checksum, TrailingChecksum, parse_checksum_trailer
from .protocol.errors import (
    BodyCutShort,
    BodyTimedOut,
    BodyTooSlow,
    ChecksumTrailerUnreadable,
    ExpectationUnknown,
    HookFailed,
    MethodNotAllowed,
    Refuse,
    StoreUnavailable,
    TusError,
    UploadNotFound,
)
from .protocol.headers import (
    TUS_VERSION,
    check_override,
    check_version,
    is_offset_octet_stream,
    method_of,
)
from .protocol.requests import Append, Create, Offer, parse_append, parse_create
from .protocol.sendable import FRAMING
from .protocol.uploads import UPLOAD_ID
from .recovery import recover
from .stores.base import ReadableStore
from .sweeper import Sweeper

if TYPE_CHECKING:
    from .protocol.responses import Answer
    from .server import Server

_log = getLogger("aiotus_server")
_T = TypeVar("_T")

_Verb = Callable[[web.Request, Call, str], Awaitable[web.StreamResponse]]
MAX_TERMS = 256

# None: there is no such mount point for this request.
OptionsFor = Callable[[web.Request], Options | Awaitable[Options | None] | None]


class _Terms(Struct, frozen=True):
    """What ``options`` allow: the extensions, and the methods at either kind of URL."""

    options: Options
    offer: Offer
    for_collection: tuple[str, ...]
    for_upload: tuple[str, ...]


def _terms(server: Server, options: Options, *, trailers: bool) -> _Terms:
    offer = options.offer(server.capabilities, trailers=trailers)
    creation = ("POST",) if "creation" in offer.extensions else ()
    termination = ("DELETE",) if "termination" in offer.extensions else ()
    reading = ("GET",) if options.read and isinstance(server.store, ReadableStore) else ()
    return _Terms(
        options,
        offer,
        for_collection=("OPTIONS", *creation),
        for_upload=("OPTIONS", "HEAD", "PATCH", *termination, *reading),
    )


class Handler:
    """From aiohttp's request to the server's values, and from answers to responses."""

    def __init__(self, server: Server, options: Options | OptionsFor) -> None:
        self.server = server
        self._options = options if isinstance(options, Options) else None
        self._options_of = None if isinstance(options, Options) else options
        self._sweeper = Sweeper(server)
        self._running = False
        self._known: dict[tuple[int, bool], _Terms] = {}
        self._verbs: dict[str, _Verb] = {
            "PATCH": self._append,
            "HEAD": self._inspect,
            "DELETE": self._terminate,
            "GET": self._read,
        }

    async def cleanup_ctx(self, app: web.Application) -> AsyncIterator[None]:
        await self.server.start()
        self._run()
        yield
        await self._sweeper.stop()
        self.server.interrupt()
        await self._recovery
        await self.server.stop()
        self._running = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        method = method_of(request.method, request.headers)
        options: Options | None = None
        try:
            options = self._options or await self._options_for(request)
            response = await self._dispatch(request, method, options)
        except TusError as error:
            response = _failed(request, method, error)
        except web.HTTPException as error:
            response = _failed(request, method, _refused_by(error))
        except Exception:
            _log.exception("Error handling %s", request.method)
            response = _failed(request, method, HookFailed())
        if not response.prepared:
            _mark(request, response, options or Options(), preflight=method == "OPTIONS")
        return response

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Instead of aiohttp's: "100 Continue" is sent by the first read of the body, when all
        checks have passed."""
        return None

    async def _options_for(self, request: web.Request) -> Options:
        assert self._options_of is not None
        options = self._options_of(request)
        if inspect.isawaitable(options):
            options = await options
        if options is None:
            raise UploadNotFound
        return options

    async def _dispatch(
        self, request: web.Request, method: str, options: Options
    ) -> web.StreamResponse:
        terms = self._terms_of(options, trailers=_aiohttp.reads_trailers(request))
        upload_id = request.match_info.get("upload_id") or None
        headers = request.headers
        if method == "OPTIONS":
            check_override(headers)
            return _response(responses.discovered(terms.offer, options.max_size))
        if method != "GET":
            check_version(headers)
        check_override(headers)
        _check_expectation(request)
        allowed = terms.for_collection if upload_id is None else terms.for_upload
        if method not in allowed:
            raise MethodNotAllowed(allowed)
        mount = LateMount(request, options)
        call = Call(options, terms.offer, mount.upload_url, request)
        if self.server.events.judges_access:
            owner = await self.server.events.authorize(_VERBS[method], upload_id, request)
            call = replace(call, owner=owner)
        if not self._running:
            await self.server.start()
            self._run()
        if upload_id is None:
            return await self._create(request, call, mount)
        if not UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound
        return await self._verbs[method](request, call, upload_id)

    def _terms_of(self, options: Options, *, trailers: bool) -> _Terms:
        """Worked out once for each value of the options, not for each request."""
        key = (id(options), trailers)
        known = self._known.get(key)
        if known is None or known.options is not options:
            if len(self._known) > MAX_TERMS:
                self._known.clear()  # a function that makes new options every time
            known = self._known[key] = _terms(self.server, options, trailers=trailers)
        return known

    async def _create(self, request: web.Request, call: Call, mount: LateMount) -> web.Response:
        create = parse_create(
            request.headers,
            body_length=_aiohttp.body_length(request),
            offer=call.offer,
            upload_id_of=mount.upload_id,
        )
        source = _source(request, create, call)
        upload, location = await _to_the_end(
            request, self.server.create(create, source, call), source
        )
        with_upload = is_offset_octet_stream(request.headers)
        return _response(responses.created(upload, location, with_upload=with_upload))

    async def _append(self, request: web.Request, call: Call, upload_id: str) -> web.Response:
        try:
            append = parse_append(
                request.headers, body_length=_aiohttp.body_length(request), offer=call.offer
            )
            source = _source(request, append, call)
        except TusError:
            await self.server.refuse_final(upload_id, call)
            raise
        upload = await _to_the_end(
            request, self.server.append(upload_id, append, source, call), source
        )
        return _response(responses.appended(upload))

    async def _inspect(self, request: web.Request, call: Call, upload_id: str) -> web.Response:
        upload = await _to_the_end(request, self.server.inspect(upload_id, call))
        return _response(responses.inspected(upload))

    async def _terminate(self, request: web.Request, call: Call, upload_id: str) -> web.Response:
        await _to_the_end(request, self.server.terminate(upload_id, call))
        return _response(responses.terminated())

    async def _read(self, request: web.Request, call: Call, upload_id: str) -> web.StreamResponse:
        upload = await self.server.read(upload_id, call)
        selection = download.select(request.headers, upload)
        response = web.StreamResponse(
            status=selection.status, headers=download.headers_of(upload, selection)
        )
        response.content_length = selection.stop - selection.start
        _mark(request, response, call.options, preflight=False)
        assert isinstance(self.server.store, ReadableStore)
        await downloading.send(request, response, self.server.store, upload, selection)
        return response

    def _run(self) -> None:
        """What goes on in the background. With ``add_routes`` alone the first request starts
        it; aiohttp offers no other moment."""
        if self._running:
            return
        self._running = True
        self._sweeper.start()
        options = self._options or Options()
        offer = options.offer(self.server.capabilities, trailers=False)
        call = Call(options, offer, upload_url=lambda upload_id: upload_id)
        self._recovery = asyncio.ensure_future(recover(self.server, call))


# What the hook ``authorize`` is told.
_VERBS = {
    "POST": "create",
    "PATCH": "append",
    "HEAD": "inspect",
    "DELETE": "terminate",
    "GET": "read",
}


def _source(request: web.Request, asked: Create | Append, call: Call) -> _aiohttp.RequestSource:
    def parse_trailers(trailers: list[tuple[str, str]]) -> Checksum | None:
        if "checksum-trailer" not in call.offer.extensions:
            return None
        return parse_checksum_trailer(trailers, call.offer.algorithms)

    if isinstance(asked.verification, TrailingChecksum) and _aiohttp.lost_trailer(request):
        raise ChecksumTrailerUnreadable
    return _aiohttp.RequestSource(
        request,
        length=asked.body_length,
        options=call.options,
        parse_trailers=parse_trailers,
    )


async def _to_the_end(
    request: web.Request,
    work: Coroutine[Any, Any, _T],
    source: _aiohttp.RequestSource | None = None,
) -> _T:
    """Run ``work`` to its end even if aiohttp cancels the request: a body ends early instead,
    so that its bytes are kept and no lock or descriptor is left behind."""
    if not _aiohttp.may_cancel(request):
        return await work
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if source is not None:
            source.interrupt(BodyCutShort())
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen
        raise


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        reason=answer.reason,
        headers=answer.headers,
        body=answer.body or None,
    )


def _failed(request: web.Request, method: str, error: TusError) -> web.StreamResponse:
    if isinstance(error, HookFailed):
        if isinstance(error.__cause__, web.HTTPException):
            error = _refused_by(error.__cause__)
        elif error.__cause__ is not None:
            _log.error("A hook failed for %s", _about(request, error), exc_info=error.__cause__)
    if isinstance(error, StoreUnavailable):
        _log.error("The store is not available: %s", error.explanation)
    answer = responses.failed(error)
    if method == "HEAD":
        inspected = responses.failed_inspection(error)
        drops, answer = inspected is None, inspected or answer
    else:
        # Its client would give up for good, and may well be back in a moment.
        drops = method == "PATCH" and isinstance(error, (BodyTimedOut, BodyTooSlow))
    if drops:
        _log.info("No answer for %s, it is cut off: %s", _about(request, error), error)
        _aiohttp.drop(request)
    return _response(answer)


def _about(request: web.Request, error: TusError) -> str:
    """What it was about, for the log."""
    of = f" of the upload {error.upload.upload_id}" if error.upload else ""
    return f"a {request.method}{of}"


def _refused_by(error: web.HTTPException) -> TusError:
    """A hook may refuse with aiohttp's own exceptions too."""
    if error.status < 400:
        _log.error("A hook raised %r, which refuses nothing", error)
        return HookFailed()
    try:
        headers = {k: v for k, v in error.headers.items() if k.lower() not in FRAMING}
        return Refuse(error.status, error.text or "", headers)
    except ValueError as wrong:
        _log.error("A hook's %r cannot be sent: %s", error, wrong)
        return HookFailed()


def _mark(
    request: web.Request, response: web.StreamResponse, options: Options, *, preflight: bool
) -> None:
    """What every answer below the prefix has."""
    response.headers["Tus-Resumable"] = TUS_VERSION
    _aiohttp.close_after(request, response)
    if options.cors is not None:
        origin = request.headers.get("Origin")
        response.headers.update(options.cors.headers(origin, preflight=preflight))


def _check_expectation(request: web.Request) -> None:
    expectation = request.headers.get("Expect", "100-continue")
    if expectation.lower() != "100-continue" and request.version >= HttpVersion11:
        raise ExpectationUnknown
