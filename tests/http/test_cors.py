"""Cross-origin requests, black box: what a browser is told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from aiotus_server import AuthorizeEvent, Cors, Expiry, FinishEvent, Hooks, Options, Refuse

from .client import OCTETS, TUS, DataPath, Site, sha1

if TYPE_CHECKING:
    from .client import Reply
    from .conftest import Serve

PAGE = "https://app.example"
OTHER = "https://evil.example"
METHODS = {"POST", "HEAD", "PATCH", "DELETE", "GET"}
ALLOWED_HEADERS = {
    "authorization",
    "content-type",
    "tus-resumable",
    "upload-checksum",
    "upload-concat",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
    "x-http-method-override",
    "x-request-id",
    "x-requested-with",
}
# What a page may read of a response without being told: the Fetch standard's list.
SAFELISTED = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}
# What is the connection's or the browser's own.
NOT_FOR_PAGES = {"connection", "date", "server", "transfer-encoding", "vary"}

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)


def members(reply: Reply, name: str) -> set[str]:
    return {member.strip().lower() for member in reply.headers[name].split(",")}


def cors_of(reply: Reply) -> set[str]:
    return {name for name in reply.headers if name.lower().startswith("access-control-")}


async def preflight(
    site: Site, path: str = "/files", *, origin: str = PAGE, method: str = "PATCH"
) -> Reply:
    """What a browser sends before a page's request; without Tus-Resumable."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type,tus-resumable,upload-offset",
    }
    return await site.request("OPTIONS", path, headers, tus=False)


@pytest.mark.parametrize("path", ["/files", "/files/", "/files/unknown"])
@pytest.mark.parametrize("origin", [PAGE, "null", "http://localhost:3000"])
async def test_a_preflight_allows_all_that_tus_needs(site: Site, path: str, origin: str) -> None:
    for method in METHODS:
        reply = await preflight(site, path, origin=origin, method=method)
        assert reply.status in (200, 204)
        assert reply.headers.getall("Access-Control-Allow-Origin") == ["*"]
        assert {name.upper() for name in members(reply, "Access-Control-Allow-Methods")} >= METHODS
        assert members(reply, "Access-Control-Allow-Headers") >= ALLOWED_HEADERS
        assert int(reply.headers["Access-Control-Max-Age"]) > 0
        assert "Access-Control-Allow-Credentials" not in reply.headers
        assert "Tus-Version" in reply.headers


async def test_a_preflight_of_an_upload_that_exists(site: Site) -> None:
    reply = await preflight(site, await site.create(5))
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert {name.upper() for name in members(reply, "Access-Control-Allow-Methods")} >= METHODS


async def test_a_preflight_needs_no_authorisation(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: AuthorizeEvent) -> None:
        raise Refuse(401)

    site = await serve(hooks=hooks)
    assert (await preflight(site)).status in (200, 204)
    assert (await preflight(site, "/files/unknown")).status in (200, 204)


async def every_answer(site: Site, origin: str) -> list[Reply]:
    """Answers of all kinds, good and bad, to requests from a page."""
    browser = {"Origin": origin}

    async def ask(
        method: str,
        path: str = "/files",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        return await site.request(method, path, {**browser, **(headers or {})}, body)

    metadata = {"Upload-Metadata": "filename YQ=="}
    created = await ask("POST", headers={"Upload-Length": "10", **metadata})
    patch = {**OCTETS, "Upload-Offset": "0"}
    empty = await ask("POST", headers={"Upload-Length": "0", **metadata})
    deferred = await ask("POST", headers={"Upload-Defer-Length": "1"})
    partial = await ask("POST", headers={"Upload-Length": "1", "Upload-Concat": "partial"})
    return [
        created,
        empty,
        deferred,
        partial,
        await ask("HEAD", created.path),
        await ask("HEAD", deferred.path),
        await ask("HEAD", partial.path),
        await ask("PATCH", created.path, patch, b"hello"),
        await ask("PATCH", created.path, patch, b"hello"),  # 409
        await ask("PATCH", created.path, {**patch, "Upload-Offset": "x"}),  # 400
        await ask("PATCH", created.path, {**patch, "Content-Type": "text/plain"}),  # 415
        await ask("PATCH", created.path, {**patch, "Upload-Offset": "5"}, b"x" * 9),  # 413
        await ask(
            "PATCH",
            created.path,
            {**patch, "Upload-Offset": "5", "Upload-Checksum": sha1(b"")},
            b"x",
        ),  # 460
        await ask("PATCH", created.path, {**patch, "Upload-Offset": "5"}, b"world"),
        await ask("GET", created.path),
        await ask("GET", created.path, {"Range": "bytes=0-4"}),
        await ask("GET", created.path, {"Range": "bytes=99-"}),  # 416
        await ask("GET", created.path, {"If-None-Match": "*"}),  # 304
        await ask("GET", "/files/unknown"),  # 404
        await ask("HEAD", "/files/unknown"),  # 404
        await ask("HEAD", "/files/%0a"),  # 404
        await ask("HEAD", "/files"),  # 405
        await ask("PUT", created.path),  # 405
        await ask("HEAD", created.path, {"Tus-Resumable": "0.2.2"}),  # 412
        await ask("PATCH", created.path, {"X-HTTP-Method-Override": "x"}),  # 400
        await ask("PATCH", created.path, {**patch, "Expect": "the unexpected"}, b"x"),  # 417
        await ask("DELETE", deferred.path),
        await ask("OPTIONS"),
    ]


@pytest.fixture
async def busy(serve: Serve) -> Site:
    """A server with all the options that put something on answers, from any origin."""
    hooks = Hooks()

    @hooks.pre_finish
    def thank(event: FinishEvent) -> None:
        event.headers["X-Application"] = "yes"

    options = Options(
        max_size=10,
        expiry=Expiry(timedelta(days=1)),
        cors=Cors(expose_headers=["X-Application"]),
    )
    return await serve(options=options, hooks=hooks)


async def test_every_answer_tells_that_any_page_may_read_it(busy: Site) -> None:
    replies = await every_answer(busy, PAGE)
    statuses = {200, 201, 204, 206, 304, 400, 404, 405, 409, 412, 413, 415, 416, 417, 460}
    assert {reply.status for reply in replies} == statuses
    for reply in replies:
        assert reply.headers.getall("Access-Control-Allow-Origin") == ["*"], reply
        assert "Access-Control-Allow-Credentials" not in reply.headers


async def test_pages_may_read_every_header_that_we_send(busy: Site) -> None:
    replies = await every_answer(busy, PAGE)
    for reply in replies[:-1]:  # the last is the preflight's twin
        exposed = members(reply, "Access-Control-Expose-Headers")
        names = {name.lower() for name in reply.headers} - SAFELISTED - NOT_FOR_PAGES
        names -= {name.lower() for name in cors_of(reply)}
        assert names <= exposed, reply
    exposed = members(replies[0], "Access-Control-Expose-Headers")
    assert exposed >= {
        "location",
        "retry-after",
        "tus-checksum-algorithm",
        "tus-extension",
        "tus-max-size",
        "tus-resumable",
        "tus-version",
        "upload-concat",
        "upload-defer-length",
        "upload-expires",
        "upload-length",
        "upload-metadata",
        "upload-offset",
        "x-application",
    }


async def test_a_page_may_read_what_options_tells(site: Site) -> None:
    """A page's own OPTIONS request looks like a preflight without its headers."""
    reply = await site.request("OPTIONS", "/files", {"Origin": PAGE}, tus=False)
    exposed = members(reply, "Access-Control-Expose-Headers")
    assert exposed >= {"tus-version", "tus-extension", "tus-checksum-algorithm", "tus-max-size"}


async def test_requests_that_come_from_no_page_work_too(site: Site) -> None:
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert reply.status == 201
    assert "Access-Control-Allow-Credentials" not in reply.headers


# An option narrows it


async def test_other_origins_are_not_allowed(serve: Serve) -> None:
    site = await serve(options=Options(cors=Cors(origins=[PAGE, "https://b.example"])))
    for origin in (PAGE, "https://b.example"):
        for reply in (await preflight(site, origin=origin), *await every_answer(site, origin)):
            assert reply.headers.getall("Access-Control-Allow-Origin") == [origin], reply
            assert "Origin" in reply.headers["Vary"]
    for origin in (OTHER, "null", PAGE + ".evil.example", PAGE.upper(), ""):
        for reply in (await preflight(site, origin=origin), *await every_answer(site, origin)):
            assert cors_of(reply) == set(), reply
            assert "Origin" in reply.headers["Vary"]


async def test_cookies_come_along_only_where_allowed(serve: Serve) -> None:
    site = await serve(options=Options(cors=Cors(origins=[PAGE], credentials=True)))
    for reply in (await preflight(site), *await every_answer(site, PAGE)):
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    for reply in (await preflight(site, origin=OTHER), *await every_answer(site, OTHER)):
        assert cors_of(reply) == set()


async def test_further_names_and_the_age_of_a_preflight(serve: Serve) -> None:
    cors = Cors(allow_headers=["X-Token"], expose_headers=["X-Seen"], max_age=timedelta(minutes=5))
    site = await serve(options=Options(cors=cors))
    reply = await preflight(site)
    assert members(reply, "Access-Control-Allow-Headers") >= ALLOWED_HEADERS | {"x-token"}
    assert reply.headers["Access-Control-Max-Age"] == "300"
    reply = await site.request("POST", headers={"Upload-Length": "5", "Origin": PAGE})
    assert members(reply, "Access-Control-Expose-Headers") >= {"location", "x-seen"}


async def test_cors_switched_off_is_off(serve: Serve) -> None:
    site = await serve(options=Options(cors=None))
    for reply in (await preflight(site), *await every_answer(site, PAGE)):
        assert cors_of(reply) == set()
    assert (await preflight(site)).status in (200, 204)


async def test_each_request_gets_the_cors_of_its_options(serve: Serve) -> None:
    def options(request: object) -> Options | None:
        path = str(getattr(request, "path", ""))
        return None if path.endswith("/none") else Options(cors=Cors(origins=[PAGE]))

    site = await serve(options=options)
    reply = await preflight(site, origin=OTHER)
    assert cors_of(reply) == set()
    reply = await site.request("HEAD", "/files/none", {**TUS, "Origin": PAGE})
    assert reply.status == 404
    assert "Access-Control-Allow-Origin" in reply.headers


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"credentials": True}, "credentials"),
        ({"origins": "https://app.example"}, "collection"),
    ],
)
def test_what_would_be_dangerous_or_meant_otherwise_is_refused(
    arguments: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Cors(**arguments)  # type: ignore[arg-type]
