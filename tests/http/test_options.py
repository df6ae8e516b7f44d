"""Every option does what it says, black box; and what is switched off is off."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Expiry, HookEvent, Hooks, MemoryStore, Options
from aiotus_server.options import BASES, EXTENSIONS

from .client import OCTETS, TUS, Reply, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Serve

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_size": -1},
        {"reserve": -1},
        {"extensions": "creation"},
        {"extensions": frozenset({"creation", "teleportation"})},
        {"algorithms": ("sha1", "sha0")},
        {"algorithms": ("md5",)},
        {"location": "relative"},
        {"location": "ftp://example.org/files"},
        {"location": "https://"},
        {"location": "https://example.org/\u00fc"},
        {"location": "/files"},
        {"read_timeout": timedelta(0)},
        {"lock_timeout": timedelta(seconds=-1)},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        Options(**wrong)


@pytest.mark.parametrize("after", [timedelta(0), timedelta(seconds=-1)])
def test_an_expiry_needs_some_time(after: timedelta) -> None:
    with pytest.raises(ValueError, match="after"):
        Expiry(after)


# Extensions


def hanging_on(extension: str) -> set[str]:
    """The extension and all that cannot be without it."""
    found = {extension}
    for _ in BASES:
        found |= {name for name, base in BASES.items() if base in found}
    return found


async def offered(site: Site) -> set[str]:
    reply = await site.request("OPTIONS", tus=False)
    return set(reply.headers.get("Tus-Extension", "").split(",")) - {""}


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
async def test_an_extension_goes_together_with_those_that_need_it(
    serve: Serve, extension: str
) -> None:
    options = Options(expiry=Expiry(DAY), extensions=EXTENSIONS - {extension})
    site = await serve(options=options)
    assert await offered(site) == EXTENSIONS - hanging_on(extension)


def test_what_the_protocol_says_hangs_on_what() -> None:
    assert hanging_on("creation") == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "concatenation",
        "concatenation-unfinished",
    }
    assert hanging_on("checksum") == {"checksum", "checksum-trailer"}
    assert hanging_on("concatenation") == {"concatenation", "concatenation-unfinished"}


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
async def test_an_extension_alone_is_offered_if_it_can_be(serve: Serve, extension: str) -> None:
    site = await serve(options=Options(expiry=Expiry(DAY), extensions=frozenset({extension})))
    assert await offered(site) == ({extension} if extension not in BASES else set())


async def without(serve: Serve, *extensions: str, store: Any = None) -> Site:
    options = Options(expiry=Expiry(DAY), extensions=EXTENSIONS - set(extensions))
    return await serve(store, options=options)


async def test_without_extensions_only_the_core_is_left(serve: Serve) -> None:
    store = MemoryStore()
    path = await (await serve(store)).create(10)
    site = await serve(store, options=Options(expiry=Expiry(DAY), extensions=frozenset()))
    reply = await site.request("OPTIONS", tus=False)
    assert "Tus-Extension" not in reply.headers
    assert "Tus-Checksum-Algorithm" not in reply.headers
    assert (await site.patch(path, 0, b"hello")).offset == 5
    assert (await site.head(path)).offset == 5
    assert_refused(await site.delete(path), 405)
    assert_refused(await site.request("POST", headers={"Upload-Length": "5"}), 405)


async def test_creation_off(serve: Serve) -> None:
    site = await without(serve, "creation")
    for headers in ({"Upload-Length": "5"}, {"Upload-Defer-Length": "1"}, OCTETS):
        reply = await site.request("POST", headers=headers)
        assert_refused(reply, 405, "METHOD_NOT_ALLOWED")
        assert reply.headers["Allow"] == "OPTIONS"
        assert "Location" not in reply.headers


@pytest.mark.parametrize("chunks", [True, False])
async def test_creation_with_upload_off(serve: Serve, tmp_path: Path, chunks: bool) -> None:
    site = await without(serve, "creation-with-upload", store=DiskStore(tmp_path / "uploads"))
    fields = {**OCTETS, "Upload-Length": "5"}
    if chunks:
        fields["Transfer-Encoding"] = "chunked"
    body = chunked(b"hello") if chunks else b"hello"
    reply = await site.request("POST", headers=fields, body=body)
    assert_refused(reply, 400, "EXTENSION_DISABLED")
    assert not list(tmp_path.rglob("*.info"))
    path = await site.upload(b"hello")
    assert (await site.get(path)).body == b"hello"


async def test_creation_defer_length_off(serve: Serve) -> None:
    site = await without(serve, "creation-defer-length")
    reply = await site.request("POST", headers={"Upload-Defer-Length": "1"})
    assert_refused(reply, 400, "EXTENSION_DISABLED")
    await site.upload(b"hello")


async def test_termination_off(serve: Serve) -> None:
    site = await without(serve, "termination")
    path = await site.upload(b"hello")
    reply = await site.delete(path)
    assert_refused(reply, 405)
    assert "DELETE" not in reply.headers["Allow"]
    assert_refused(await site.request("POST", path, {"X-HTTP-Method-Override": "DELETE"}), 405)
    assert (await site.get(path)).body == b"hello"


async def test_expiration_off(serve: Serve) -> None:
    site = await without(serve, "expiration")
    reply = await site.request("POST", headers={"Upload-Length": "5"})
    assert "Upload-Expires" not in reply.headers
    assert "Upload-Expires" not in (await site.head(reply.path)).headers
    assert "Upload-Expires" not in (await site.patch(reply.path, 0, b"x")).headers


async def test_checksum_off(serve: Serve) -> None:
    site = await without(serve, "checksum")
    assert "Tus-Checksum-Algorithm" not in (await site.request("OPTIONS", tus=False)).headers
    path = await site.create(5)
    reply = await site.patch(path, 0, b"hello", Upload_Checksum=sha1(b"hello"))
    assert_refused(reply, 400, "EXTENSION_DISABLED")
    assert (await site.head(path)).offset == 0


@pytest.mark.parametrize("extension", ["checksum", "checksum-trailer"])
async def test_checksum_trailer_off(serve: Serve, extension: str) -> None:
    site = await without(serve, extension)
    path = await site.create(5)
    body = chunked(b"hello", trailers={"Upload-Checksum": sha1(b"hello")})
    coding = {"Transfer_Encoding": "chunked"}
    reply = await site.patch(path, 0, body, Trailer="Upload-Checksum", **coding)
    assert_refused(reply, 400, "EXTENSION_DISABLED")
    assert (await site.head(path)).offset == 0
    # Nothing announced it, nobody reads it.
    other = chunked(b"hello", trailers={"Upload-Checksum": sha1(b"other")})
    assert (await site.patch(path, 0, other, **coding)).offset == 5


async def test_concatenation_off(serve: Serve) -> None:
    site = await without(serve, "concatenation")
    for headers in (
        {"Upload-Concat": "partial", "Upload-Length": "5"},
        {"Upload-Concat": "final;/files/a /files/b"},
    ):
        reply = await site.request("POST", headers=headers)
        assert_refused(reply, 400, "EXTENSION_DISABLED")


async def test_concatenation_unfinished_off(serve: Serve) -> None:
    site = await without(serve, "concatenation-unfinished")
    path = await site.create(5, Upload_Concat="partial")
    final = {"Upload-Concat": f"final;{path}"}
    assert_refused(await site.request("POST", headers=final), 400, "PARTIAL_UNFINISHED")
    await site.patch(path, 0, b"hello")
    reply = await site.request("POST", headers=final)
    assert (await site.get(reply.path)).body == b"hello"


# Options that depend on the request


async def test_each_request_may_have_options_of_its_own(serve: Serve) -> None:
    def options(request: web.Request) -> Options | None:
        match request.headers.get("X-Plan"):
            case "small":
                return Options(max_size=5, extensions=frozenset({"creation"}))
            case "big":
                return Options(max_size=50)
            case _:
                return None

    site = await serve(options=options)
    small, big = {"X-Plan": "small"}, {"X-Plan": "big"}
    reply = await site.request("OPTIONS", headers=small)
    assert reply.headers["Tus-Max-Size"] == "5"
    assert reply.headers["Tus-Extension"] == "creation"
    reply = await site.request("OPTIONS", headers=big)
    assert reply.headers["Tus-Max-Size"] == "50"
    assert "termination" in reply.headers["Tus-Extension"]
    assert_refused(await site.request("POST", headers={**small, "Upload-Length": "6"}), 413)
    reply = await site.request("POST", headers={**big, "Upload-Length": "6"})
    assert reply.status == 201
    assert_refused(await site.request("DELETE", reply.path, small), 405)
    assert (await site.request("HEAD", reply.path, small)).status == 200
    assert (await site.request("DELETE", reply.path, big)).status == 204


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "HEAD", "PATCH", "DELETE", "GET", "PUT"])
@pytest.mark.parametrize("path", ["/files", "/files/unknown", None])
async def test_where_there_are_no_options_there_is_nothing(
    serve: Serve, method: str, path: str | None
) -> None:
    store = MemoryStore()
    if path is None:
        path = await (await serve(store)).upload(b"hello")
    site = await serve(store, options=lambda request: None)
    fields = {**OCTETS, "Upload-Offset": "5", "Upload-Length": "5"}
    reply = await site.request(method, path, fields)
    assert_refused(reply, 404, None if method == "HEAD" else "UPLOAD_NOT_FOUND", method=method)
    # Not even another version changes that: there is nobody who could speak it.
    reply = await site.request(method, path, {"Tus-Resumable": "0.1"})
    assert reply.status in (404, 412)


async def test_the_function_sees_the_upload_that_is_asked_for(serve: Serve) -> None:
    seen: list[str | None] = []

    def options(request: web.Request) -> Options:
        seen.append(request.match_info.get("upload_id"))
        return Options()

    site = await serve(options=options)
    await site.head("/files/abc")
    await site.request("OPTIONS", "/files/def", tus=False)
    assert seen == ["abc", "def"]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("a mistake"), 500), (web.HTTPForbidden(), 403)]
)
async def test_a_function_that_fails_is_answered_for(
    serve: Serve, error: Exception, status: int
) -> None:
    def options(request: web.Request) -> Options:
        raise error

    site = await serve(options=options)
    for method in ("POST", "PATCH", "DELETE", "OPTIONS"):
        reply = await site.request(method, "/files/x", {"Upload-Length": "5"})
        assert reply.status == status
        assert reply.headers.getall("Tus-Resumable") == ["1.0.0"]
        assert b"a mistake" not in reply.body
    connection = await site.connect()
    await connection.send(head("HEAD", "/files/x", TUS))
    if status == 500:
        assert await connection.closed()
    else:
        assert_refused(await connection.reply(method="HEAD"), 403, method="HEAD")


# One by one


async def test_max_size_is_told_and_kept(serve: Serve) -> None:
    site = await serve(options=Options(max_size=5))
    assert (await site.request("OPTIONS", tus=False)).headers["Tus-Max-Size"] == "5"
    assert_refused(await site.request("POST", headers={"Upload-Length": "6"}), 413)
    await site.upload(b"hello")


@pytest.mark.parametrize("sliding", [True, False])
async def test_expiry_is_told(serve: Serve, sliding: bool) -> None:
    site = await serve(options=Options(expiry=Expiry(timedelta(hours=1), sliding=sliding)))
    created = await site.request("POST", headers={"Upload-Length": "6"})
    for reply in (
        created,
        await site.head(created.path),
        await site.patch(created.path, 0, b"hello"),
        await site.patch(created.path, 0, b"hello"),
    ):
        left = parsedate_to_datetime(reply.headers["Upload-Expires"]) - datetime.now(UTC)
        assert timedelta(minutes=55) < left <= timedelta(hours=1)
    assert "Upload-Expires" not in (await site.patch(created.path, 5, b"!")).headers


async def test_algorithms_are_those_that_are_told(serve: Serve) -> None:
    site = await serve(options=Options(algorithms=("sha1", "crc32")))
    reply = await site.request("OPTIONS", tus=False)
    assert reply.headers["Tus-Checksum-Algorithm"] == "sha1,crc32"
    path = await site.create(10)
    for checksum, status in (
        ("md5 XUFAKrxLKna5cZ2REBfFkg==", 400),
        ("crc32 NhCmhg==", 204),
    ):
        reply = await site.patch(path, 0, b"hello", Upload_Checksum=checksum)
        assert reply.status == status
    assert (await site.patch(path, 5, b"hello", Upload_Checksum=sha1(b"hello"))).offset == 10


@pytest.mark.parametrize("origin", [{}, {"Origin": "https://app.example"}])
@pytest.mark.parametrize(
    ("location", "pattern"),
    [
        ("path", r"/files/[0-9a-f]+"),
        ("absolute", r"http://localhost/files/[0-9a-f]+"),
        ("https://public.example/up", r"https://public\.example/up/[0-9a-f]+"),
        ("https://public.example:8443/up/", r"https://public\.example:8443/up/[0-9a-f]+"),
        ("https://public.example", r"https://public\.example/[0-9a-f]+"),
    ],
)
async def test_location_is_as_wanted(
    serve: Serve, location: str, pattern: str, origin: dict[str, str]
) -> None:
    site = await serve(options=Options(location=location))
    reply = await site.request("POST", headers={"Upload-Length": "5", **origin})
    assert re.fullmatch(pattern, reply.headers["Location"])
    upload_id = reply.path.rpartition("/")[2]
    assert (await site.head(f"/files/{upload_id}")).status == 200


async def concatenate(site: Site, *urls: str) -> Reply:
    return await site.request("POST", headers={"Upload-Concat": f"final;{' '.join(urls)}"})


async def test_a_public_location_may_be_named_in_a_concatenation(serve: Serve) -> None:
    site = await serve(options=Options(location="https://public.example/up/"))
    reply = await site.request("POST", headers={"Upload-Length": "0", "Upload-Concat": "partial"})
    url, path = reply.headers["Location"], reply.path
    for named in (url, path, path.replace("/up/", "/files/")):
        assert (await concatenate(site, named)).status == 201
    assert_refused(await concatenate(site, path.replace("/up/", "/down/")), 400)


@pytest.mark.parametrize("prefix", ["/outside/files", "/outside/files/"])
async def test_public_prefixes_may_be_named_in_a_concatenation(serve: Serve, prefix: str) -> None:
    store = MemoryStore()
    site = await serve(store, options=Options(public_prefixes=[prefix, "/other"]))
    path = await site.upload(b"hello", Upload_Concat="partial")
    outside = path.replace("/files/", "/outside/files/")
    other = path.replace("/files/", "https://public.example/other/")
    reply = await concatenate(site, outside, path, other)
    assert (await site.get(reply.path)).body == b"hello" * 3
    plain = await serve(store)
    assert_refused(await concatenate(plain, outside), 400, "PARTIAL_UNKNOWN")


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example"}, "https://a.example"),
        ({"Forwarded": "for=1.2.3.4;proto=https;host=a.example"}, "https://a.example"),
        ({"Forwarded": 'proto=https;host="a.example:8443"'}, "https://a.example:8443"),
        ({"X-Forwarded-Proto": "https"}, "https://localhost"),
        ({"X-Forwarded-Host": "a.example"}, "http://a.example"),
        ({}, "http://localhost"),
    ],
)
async def test_forwarding_headers_are_believed_only_by_option(
    serve: Serve, headers: dict[str, str], origin: str
) -> None:
    for location in ("auto", "absolute"):
        site = await serve(MemoryStore(), options=Options(trust_forwarded=True, location=location))
        reply = await site.request("POST", headers={"Upload-Length": "5", **headers})
        assert reply.headers["Location"].startswith(f"{origin}/files/")
    site = await serve(MemoryStore(), options=Options(location="absolute"))
    reply = await site.request("POST", headers={"Upload-Length": "5", **headers})
    assert reply.headers["Location"].startswith("http://localhost/files/")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Host": '"><script>'},
        {"X-Forwarded-Host": "a.example/evil?"},
        {"Forwarded": "proto=gopher"},
        {"Forwarded": ";;;,,,"},
    ],
)
async def test_what_a_proxy_forwards_stands_in_no_url_unless_it_can(
    serve: Serve, headers: dict[str, str]
) -> None:
    site = await serve(options=Options(trust_forwarded=True))
    reply = await site.request("POST", headers={"Upload-Length": "5", **headers})
    assert re.fullmatch(r"(http://localhost)?/files/[0-9a-f]+", reply.headers["Location"])


async def test_complete_uploads_may_be_kept_from_termination(serve: Serve) -> None:
    site = await serve(options=Options(terminate_complete=False))
    complete, unfinished = await site.upload(b"hello"), await site.create(5)
    assert_refused(await site.delete(complete), 403, "TERMINATION_FORBIDDEN")
    assert (await site.get(complete)).body == b"hello"
    assert (await site.delete(unfinished)).status == 204


@pytest.mark.parametrize("delete", [True, False])
async def test_partials_are_deleted_only_by_option(serve: Serve, delete: bool) -> None:
    site = await serve(options=Options(delete_partials=delete))
    one = await site.upload(b"hello", Upload_Concat="partial")
    two = await site.upload(b" you", Upload_Concat="partial")
    reply = await concatenate(site, one, two, one)
    assert (await site.get(reply.path)).body == b"hello youhello"
    for path in (one, two):
        assert (await site.head(path)).status == (404 if delete else 200)


@pytest.mark.parametrize("checked", [True, False])
async def test_a_body_that_falls_silent_ends(serve: Serve, checked: bool) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.2)))
    path = await site.create(100_000)
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "100000"}
    if checked:
        fields["Upload-Checksum"] = sha1(b"")
    connection = await site.connect()
    begun = asyncio.get_running_loop().time()
    await connection.send(head("PATCH", path, fields) + b"hello")
    # "A timeout SHOULD be handled by closing the underlying connection."
    async with asyncio.timeout(3):
        assert await connection.closed()
    assert asyncio.get_running_loop().time() - begun >= 0.2
    assert (await site.head(path)).offset == (0 if checked else 5)


async def test_a_body_that_is_slow_but_not_silent_goes_on(serve: Serve) -> None:
    site = await serve(options=Options(read_timeout=timedelta(seconds=0.5)))
    path = await site.create(100_000)
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "7"}
    connection = await site.connect()
    await connection.send_head("PATCH", path, fields)
    for byte in b"patient":
        await asyncio.sleep(0.1)
        await connection.send(bytes([byte]))
    assert (await connection.reply()).offset == 7


async def test_nobody_waits_longer_for_a_lock_than_is_set(serve: Serve) -> None:
    hooks = Hooks()
    holding, let_go = asyncio.Event(), asyncio.Event()

    @hooks.pre_receive
    async def hold(event: HookEvent) -> None:
        holding.set()
        await let_go.wait()

    site = await serve(hooks=hooks, options=Options(lock_timeout=timedelta(seconds=0.2)))
    path = await site.create(5)
    holder = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holding.wait()
    for method in ("HEAD", "DELETE", "PATCH"):
        begun = asyncio.get_running_loop().time()
        fields = {**OCTETS, "Upload-Offset": "0"}
        reply = await site.request(method, path, fields)
        assert_refused(reply, 423, None if method == "HEAD" else "UPLOAD_LOCKED", method=method)
        assert int(reply.headers["Retry-After"]) > 0
        assert 0.2 <= asyncio.get_running_loop().time() - begun < 2
    let_go.set()
    await holder


@pytest.mark.parametrize("often", [True, False])
async def test_progress_is_told_as_often_as_is_set(serve: Serve, often: bool) -> None:
    hooks = Hooks()
    offsets: list[int] = []
    hooks.post_receive.append(lambda event: offsets.append(event.upload.offset))
    interval = timedelta(0) if often else timedelta(hours=1)
    site = await serve(hooks=hooks, options=Options(progress_interval=interval))
    path = await site.create(300_000)
    connection = await site.begin(path, 0, b"", length=300_000)
    for size in (100_000, 200_000, 300_000):
        await connection.send(bytes(100_000))
        await site.until_stored(path, size)
    assert (await connection.reply()).status == 204
    assert offsets == sorted(offsets)
    assert (len(offsets) >= 3) if often else not offsets


async def test_no_upload_is_created_below_the_reserve(serve: Serve, tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "uploads")
    site = await serve(store, options=Options(reserve=2**62))
    fields = {**OCTETS, "Upload-Length": "5"}
    for body in (b"", b"hello"):
        assert_refused(await site.request("POST", headers=fields, body=body), 507, "STORE_FULL")
    assert not list(tmp_path.rglob("*.info"))
    site = await serve(MemoryStore(), options=Options(reserve=1))
    assert (await site.request("POST", headers=fields, body=b"hello")).status == 201


async def test_ids_are_made_as_wanted(serve: Serve) -> None:
    ids = iter(["first", "Second_2-", "x" * 64])
    site = await serve(options=Options(new_id=lambda: next(ids)))
    assert await site.upload(b"hello") == "/files/first"
    assert await site.create(5) == "/files/Second_2-"
    assert await site.create(5) == "/files/" + "x" * 64
    assert (await site.get("/files/first")).body == b"hello"


@pytest.mark.parametrize("bad", ["../evil", "", "a/b", "a.info", "x" * 65, "\u00fc", "a b", "."])
@pytest.mark.parametrize("memory", [True, False])
async def test_an_id_that_could_not_stand_in_an_url_is_not_used(
    serve: Serve, tmp_path: Path, bad: str, memory: bool
) -> None:
    store = MemoryStore() if memory else DiskStore(tmp_path / "below" / "uploads")
    site = await serve(store, options=Options(new_id=lambda: bad))
    reply = await site.request("POST", headers={**OCTETS, "Upload-Length": "5"}, body=b"hello")
    assert_refused(reply, 500)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("*.info"))
