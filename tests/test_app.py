"""The bundled application, without its command line."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import Hooks, MemoryStore, Options, Refuse, tus_routes
from aiotus_server.app import Settings, make_app
from aiotus_server.protocol.errors import StoreUnavailable

from .http.client import OCTETS, Reply, Site, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@asynccontextmanager
async def application(directory: Path, **kwargs: Any) -> AsyncIterator[Site]:
    settings = Settings(directory=directory, **kwargs)
    async with running(make_app(settings)) as (runner, port):
        yield Site(port, None, settings.prefix, runner)


async def test_uploads_are_received_at_the_prefix_and_stored_in_the_directory(
    tmp_path: Path,
) -> None:
    async with application(tmp_path / "kept", prefix="/up/here/") as site:
        path = await site.upload(b"hello")
        assert path.startswith("/up/here/")
        assert (await site.get(path)).body == b"hello"
    assert any(file.read_bytes() == b"hello" for file in tmp_path.glob("kept/??/*"))


async def test_the_options_and_hooks_of_the_settings_count(tmp_path: Path) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def refuse(event: object) -> None:
        raise Refuse(403, "not today")

    options = Options(max_size=7)
    async with application(tmp_path, options=options, hooks=hooks) as site:
        assert (await site.request("OPTIONS")).headers["Tus-Max-Size"] == "7"
        assert (await site.request("POST", headers={"Upload-Length": "5"})).status == 403


async def test_a_store_that_is_in_use_stops_the_start(tmp_path: Path) -> None:
    async with application(tmp_path):
        runner = web.AppRunner(make_app(Settings(directory=tmp_path)))
        with pytest.raises(StoreUnavailable):
            await runner.setup()
        await runner.cleanup()


async def test_making_the_application_touches_no_file(tmp_path: Path) -> None:
    make_app(Settings(directory=tmp_path / "later"))
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize("prefix", ["/", "/f", "/files", "/files/", "/a/b-c/d.e_f~1/"])
def test_a_path_can_be_the_prefix(prefix: str) -> None:
    assert Settings(prefix=prefix).prefix == prefix


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "files",
        "files/",
        "//",
        "/files//",
        "/a b",
        "/{id}",
        "/a?b",
        "/a#b",
        "/é",
        "/a%20b",
        "/\n",
    ],
)
def test_anything_else_cannot(prefix: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        Settings(prefix=prefix)


# The word at /


async def front_page(site: Site, headers: dict[str, str]) -> Reply:
    connection = await site.connect()
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    await connection.send(f"GET / HTTP/1.1\r\n{fields}\r\n".encode())
    reply = await connection.reply()
    await connection.close()
    return reply


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "application/json"])
async def test_curl_is_told_in_text_how_to_upload(tmp_path: Path, accept: str) -> None:
    async with application(tmp_path) as site:
        reply = await site.get("/", Accept=accept)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/plain")
        assert "aiotus-server" in reply.body.decode()
        assert "http://localhost/files\n" in reply.body.decode()


async def test_a_browser_is_told_in_html(tmp_path: Path) -> None:
    async with application(tmp_path) as site:
        reply = await site.get("/", Accept=BROWSER)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/html")
        assert "<pre>http://localhost/files</pre>" in reply.body.decode()
        assert reply.headers["Vary"] == "Accept"


async def test_what_the_text_shows_for_curl_works(tmp_path: Path) -> None:
    async with application(tmp_path) as site:
        text = (await site.get("/")).body.decode()
        shown = dict(re.findall(r'-H "([^:]+): ([^"]+)"', text))
        assert shown.pop("Upload-Length") == "$(wc -c < FILE)"
        url = re.search(r"-X POST -T FILE (\S+)", text)
        assert url is not None
        path = url[1].removeprefix("http://localhost")
        reply = await site.request(
            "POST", path, {**shown, "Upload-Length": "5"}, b"hello", tus=False
        )
        assert reply.status == 201
        assert (await site.get(reply.path)).body == b"hello"


@pytest.mark.parametrize(
    ("options", "headers", "url"),
    [
        (Options(location="https://up.example/f/"), {}, "https://up.example/f"),
        (Options(location="path"), {}, "/files"),
        (Options(), {"X-Forwarded-Proto": "https"}, "/files"),
        (
            Options(trust_forwarded=True),
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "up.example"},
            "https://up.example/files",
        ),
        (Options(), {"Host": "up.example:8080"}, "http://up.example:8080/files"),
        (Options(), {"Host": "<script>"}, "/files"),
        (Options(), {"Host": 'a"b'}, "/files"),
    ],
)
async def test_the_address_shown_is_the_one_clients_can_use(
    tmp_path: Path, options: Options, headers: dict[str, str], url: str
) -> None:
    async with application(tmp_path, options=options) as site:
        for accept in ("*/*", BROWSER):
            reply = await front_page(site, {"Host": "localhost", "Accept": accept, **headers})
            text = reply.body.decode()
            assert reply.status == 200
            assert re.search(rf"(^  |<pre>){re.escape(url)}(</pre>)?$", text, re.MULTILINE)
            assert "<script" not in text


async def test_uploads_may_be_at_the_root_and_then_there_is_no_such_page(tmp_path: Path) -> None:
    async with application(tmp_path, prefix="/") as site:
        assert (await site.get("/")).status == 405
        reply = await site.request("POST", "/", {**OCTETS, "Upload-Length": "2"}, b"ab")
        assert reply.status == 201
        assert (await site.get(reply.path)).body == b"ab"


async def test_beside_the_prefix_there_is_nothing(tmp_path: Path) -> None:
    async with application(tmp_path) as site:
        assert (await site.get("/favicon.ico")).status == 404
        assert (await site.request("POST", "/", {"Upload-Length": "2"})).status == 405


@pytest.mark.parametrize(
    ("name", "value"),
    [("store", "uploads"), ("options", Options), ("options", 5), ("hooks", 5), ("locker", Hooks)],
)
def test_a_mistake_is_told_when_the_routes_are_made(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} cannot be"):
        tus_routes(**{"store": MemoryStore(), name: value})


def test_a_hook_is_a_function() -> None:
    with pytest.raises(TypeError, match="a hook must be a function, not 3"):
        Hooks().pre_create(3)  # type: ignore[type-var]
