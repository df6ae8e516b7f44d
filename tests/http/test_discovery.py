"""OPTIONS, versions, the method and its override, and the order in which a request is judged."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from multidict import MultiDict

from aiotus_server import (
    AuthorizeEvent,
    DiskStore,
    Expiry,
    Hooks,
    MemoryStore,
    Options,
    Refuse,
)
from aiotus_server.options import EXTENSIONS
from aiotus_server.stores.base import CreationStore, Store

from .client import OCTETS, TUS, DataPath, Site, assert_refused, chunked, head, sha1

if TYPE_CHECKING:
    from pathlib import Path

    from aiotus_server import Upload
    from aiotus_server.body import Body

    from .conftest import Serve

METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS")

pytestmark = pytest.mark.data_paths(DataPath.AS_SET)


def listed(text: str) -> set[str]:
    """The members of a list, which must be separated by commas and come once."""
    members = text.replace(" ", "").split(",")
    assert all(members)
    assert len(set(members)) == len(members)
    return set(members)


# OPTIONS


@pytest.mark.parametrize("path", ["/files", "/files/", "/files/unknown", "/files/a%2Fb"])
@pytest.mark.parametrize("version", [None, "1.0.0", "0.2.2", "nonsense", ""])
async def test_options_tells_what_there_is(serve: Serve, path: str, version: str | None) -> None:
    site = await serve(options=Options(max_size=1000, expiry=Expiry(timedelta(days=1))))
    fields = {} if version is None else {"Tus-Resumable": version}
    reply = await site.request("OPTIONS", path, fields, tus=False)
    assert reply.status in (200, 204)
    assert reply.body == b""
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert reply.headers["Tus-Version"] == "1.0.0"
    assert reply.headers["Tus-Max-Size"] == "1000"
    assert listed(reply.headers["Tus-Extension"]) == EXTENSIONS
    algorithms = listed(reply.headers["Tus-Checksum-Algorithm"])
    assert {"sha1", "sha256", "md5", "crc32", "crc32c", "xxh64", "xxh3-64"} <= algorithms
    assert reply.headers["Tus-Checksum-Algorithm"].islower()


async def test_options_on_an_upload_that_exists(site: Site) -> None:
    path = await site.create(5)
    collection = await site.request("OPTIONS", tus=False)
    upload = await site.request("OPTIONS", path, tus=False)
    assert upload.status == collection.status
    assert upload.headers["Tus-Extension"] == collection.headers["Tus-Extension"]


async def test_what_is_not_set_is_not_told(site: Site) -> None:
    reply = await site.request("OPTIONS", tus=False)
    assert "Tus-Max-Size" not in reply.headers
    assert listed(reply.headers["Tus-Extension"]) == EXTENSIONS - {"expiration"}


async def test_options_needs_no_authorisation(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: AuthorizeEvent) -> None:
        raise Refuse(401)

    site = await serve(hooks=hooks)
    for path in ("/files", "/files/unknown"):
        assert (await site.request("OPTIONS", path, tus=False)).status in (200, 204)
    assert (await site.request("POST", headers={"Upload-Length": "1"})).status == 401


async def test_the_body_of_an_options_request_is_no_request(site: Site) -> None:
    path = await site.create(5)
    smuggled = head("DELETE", path, TUS)
    connection = await site.connect()
    await connection.send(
        head("OPTIONS", "/files", {"Content-Length": str(len(smuggled))}) + smuggled
    )
    assert (await connection.reply()).status in (200, 204)
    assert (await site.head(path)).status == 200


class CoreStore(Store):
    """The core protocol and nothing else; ``inner`` keeps the bytes."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner

    async def get(self, upload_id: str) -> Upload:
        return await self.inner.get(upload_id)

    async def append(self, upload: Upload, body: Body) -> Upload:
        return await self.inner.append(upload, body)


class SmallStore(CoreStore, CreationStore):
    async def create(self, upload: Upload, body: Body) -> Upload:
        return await self.inner.create(upload, body)


async def test_a_store_that_can_only_append_offers_no_extension(serve: Serve) -> None:
    inner = MemoryStore()
    whole = await serve(inner)
    path = await whole.create(5)
    site = await serve(CoreStore(inner))
    reply = await site.request("OPTIONS", tus=False)
    assert "Tus-Extension" not in reply.headers
    assert "Tus-Checksum-Algorithm" not in reply.headers
    assert reply.headers["Tus-Version"] == "1.0.0"
    assert_refused(await site.request("POST", headers={"Upload-Length": "5"}), 405)
    assert_refused(await site.delete(path), 405)
    assert_refused(await site.get(path), 405)
    assert_refused(await site.patch(path, 0, b"hello", Upload_Checksum=sha1(b"hello")), 400)
    assert (await site.head(path)).offset == 0
    assert (await site.patch(path, 0, b"hello")).offset == 5


async def test_a_store_is_asked_for_no_more_than_it_can_do(serve: Serve) -> None:
    site = await serve(SmallStore(MemoryStore()))
    reply = await site.request("OPTIONS", tus=False)
    assert listed(reply.headers["Tus-Extension"]) == {"creation", "creation-with-upload"}
    for refused in (
        {"Upload-Defer-Length": "1"},
        {"Upload-Length": "5", "Upload-Concat": "partial"},
    ):
        assert_refused(await site.request("POST", headers=refused), 400, "EXTENSION_DISABLED")
    reply = await site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"hello")
    assert (reply.status, reply.offset) == (201, 5)


# The version


@pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0", "1.0.1", "1.0.0, 0.2.2", "v1.0.0"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE", "PUT"])
async def test_another_version_is_refused_and_nothing_done(
    serve: Serve, tmp_path: Path, method: str, version: str | None
) -> None:
    hooks = Hooks()
    asked: list[AuthorizeEvent] = []
    hooks.authorize.append(asked.append)
    site = await serve(hooks=hooks)
    path = await site.create(5)
    asked.clear()
    before = files_below(tmp_path)
    fields = {**OCTETS, "Upload-Offset": "0", "Upload-Length": "5", "Content-Length": "5"}
    if version is not None:
        fields["Tus-Resumable"] = version
    target = "/files" if method == "POST" else path
    reply = await site.raw(head(method, target, fields) + b"hello", method=method)
    assert_refused(reply, 412, "VERSION_UNSUPPORTED" if method != "HEAD" else None, method=method)
    assert reply.headers["Tus-Version"] == "1.0.0"
    assert not asked
    assert files_below(tmp_path) == before
    assert (await site.head(path)).offset == 0


async def test_a_repeated_version_is_refused(site: Site) -> None:
    fields = MultiDict({**TUS, "Upload-Length": "5", "Content-Length": "0"})
    fields.extend(TUS)
    reply = await site.raw(head("POST", "/files", fields))
    assert_refused(reply, 412, "VERSION_UNSUPPORTED")


async def test_get_needs_no_version(site: Site) -> None:
    path = await site.upload(b"hello")
    for version in ({}, TUS, {"Tus-Resumable": "0.2.2"}):
        assert (await site.raw(head("GET", path, version))).body == b"hello"


def files_below(root: Path) -> set[tuple[Path, int]]:
    """Everything that lies there, but for folders, with its size."""
    return {(path, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


# The method


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "GET", "PUT", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/files", "/files/"])
async def test_the_collection_allows_creation_only(site: Site, method: str, path: str) -> None:
    reply = await site.request(method, path)
    assert_refused(reply, 405, method=method)
    assert listed(reply.headers["Allow"]) == {"OPTIONS", "POST"}


@pytest.mark.parametrize("method", ["POST", "PUT", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("exists", [True, False])
async def test_an_upload_allows_what_tus_knows(site: Site, method: str, exists: bool) -> None:
    path = await site.create(5) if exists else "/files/unknown"
    reply = await site.request(method, path, {"Upload-Length": "5"})
    assert_refused(reply, 405, "METHOD_NOT_ALLOWED")
    assert listed(reply.headers["Allow"]) == {"OPTIONS", "HEAD", "PATCH", "DELETE", "GET"}


async def test_the_body_of_a_method_that_is_not_allowed_is_no_request(site: Site) -> None:
    path = await site.create(5)
    smuggled = head("DELETE", path, TUS)
    fields = {**TUS, "Content-Length": str(len(smuggled))}
    connection = await site.connect()
    await connection.send(head("PUT", path, fields) + smuggled + head("HEAD", path, TUS))
    assert_refused(await connection.reply(), 405)
    assert (await connection.reply(method="HEAD")).status == 200


@pytest.mark.parametrize("path", ["/files", "/files/", "/files?x=1", "/files/?x=1"])
async def test_creation_answers_with_and_without_its_slash(site: Site, path: str) -> None:
    reply = await site.request("POST", path, {"Upload-Length": "5"})
    assert reply.status == 201
    assert reply.path.startswith("/files/")
    assert (await site.head(reply.path)).status == 200


async def test_what_is_beside_the_prefix_is_not_ours(site: Site) -> None:
    for path in ("/", "/file", "/filesx", "/filesx/a", "/FILES"):
        reply = await site.request("HEAD", path)
        assert reply.status == 404
        assert "Tus-Resumable" not in reply.headers


# X-HTTP-Method-Override


@pytest.mark.parametrize("real", ["POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
async def test_an_override_replaces_the_method_whatever_it_was(site: Site, real: str) -> None:
    path = await site.create(5)
    fields = {**OCTETS, "Upload-Offset": "0", "Content-Length": "5"}
    override = {"X-HTTP-Method-Override": "PATCH"}
    reply = await site.request(real, path, {**fields, **override}, b"hello")
    assert (reply.status, reply.offset) == (204, 5)
    reply = await site.request(real, path, {"X-HTTP-Method-Override": "HEAD"})
    assert (reply.status, reply.offset) == (200, 5)
    assert reply.headers["Cache-Control"] == "no-store"
    reply = await site.request(real, path, {"X-HTTP-Method-Override": " DELETE "})
    assert reply.status == 204
    assert (await site.head(path)).status in (404, 410)


async def test_an_override_to_post_and_options_and_from_head(site: Site) -> None:
    override = {"X-HTTP-Method-Override": "POST", "Upload-Length": "5"}
    reply = await site.request("PUT", "/files", override)
    assert reply.status == 201
    reply = await site.request("PATCH", reply.path, {"X-HTTP-Method-Override": "OPTIONS"})
    assert reply.status in (200, 204)
    assert "Tus-Version" in reply.headers
    path = await site.create(5)
    connection = await site.connect()
    await connection.send(head("HEAD", path, {**TUS, "X-HTTP-Method-Override": "DELETE"}))
    assert (await connection.reply(method="HEAD")).status == 204
    assert (await site.head(path)).status in (404, 410)


@pytest.mark.parametrize("override", ["", "PUT", "CONNECT", "patch", "PATCH,PATCH", "PATCH DELETE"])
@pytest.mark.parametrize("real", ["POST", "PATCH", "OPTIONS", "HEAD"])
async def test_an_override_that_is_no_method_of_tus_is_refused(
    serve: Serve, real: str, override: str
) -> None:
    hooks = Hooks()
    asked: list[AuthorizeEvent] = []
    hooks.authorize.append(asked.append)
    site = await serve(hooks=hooks)
    path = await site.create(5)
    asked.clear()
    fields = {**OCTETS, "Upload-Offset": "0", "X-HTTP-Method-Override": override}
    reply = await site.request(real, path, fields)
    assert reply.status == 400
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    if real != "HEAD":
        assert_refused(reply, 400, "METHOD_OVERRIDE_UNUSABLE")
    assert not asked
    assert (await site.head(path)).offset == 0


async def test_a_repeated_override_is_refused(site: Site) -> None:
    path = await site.create(5)
    override = "X-HTTP-Method-Override"
    fields = MultiDict([*TUS.items(), (override, "DELETE"), (override, "DELETE")])
    assert_refused(await site.raw(head("POST", path, fields)), 400, "METHOD_OVERRIDE_UNUSABLE")
    assert (await site.head(path)).status == 200


async def test_authorize_is_told_the_method_that_counts(serve: Serve) -> None:
    hooks = Hooks()
    verbs: list[str] = []
    hooks.authorize.append(lambda event: verbs.append(event.verb))
    site = await serve(hooks=hooks)
    path = await site.create(5)
    for method in ("HEAD", "GET", "PATCH", "DELETE"):
        fields = {**OCTETS, "Upload-Offset": "0", "X-HTTP-Method-Override": method}
        await site.request("POST", path, fields)
    assert verbs == ["create", "inspect", "read", "append", "terminate"]


# The order of the checks: each request below breaks the rule of its row and all that follow


async def test_the_version_is_judged_before_the_override(site: Site) -> None:
    fields = {"Tus-Resumable": "0.2.2", "X-HTTP-Method-Override": "nonsense"}
    assert_refused(await site.request("POST", headers=fields), 412)


async def test_the_override_is_read_before_the_version_is_judged(site: Site) -> None:
    path = await site.upload(b"hello")
    fields = {"Tus-Resumable": "0.2.2", "X-HTTP-Method-Override": "OPTIONS"}
    assert (await site.request("PATCH", path, fields)).status in (200, 204)
    fields["X-HTTP-Method-Override"] = "GET"
    assert (await site.request("POST", path, fields)).body == b"hello"
    fields["X-HTTP-Method-Override"] = "PATCH"
    assert_refused(await site.request("OPTIONS", path, fields), 412)
    assert_refused(await site.request("GET", path, fields), 412)


@pytest.mark.parametrize("exception", [Refuse(401, "no"), web.HTTPUnauthorized(text="no")])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/files"), ("PATCH", "/files/unknown"), ("DELETE", "/files/u")]
)
async def test_authorize_is_asked_before_the_header_section_is_parsed(
    serve: Serve, method: str, path: str, exception: Exception
) -> None:
    hooks = Hooks()

    @hooks.authorize
    def refuse(event: AuthorizeEvent) -> None:
        raise exception

    site = await serve(hooks=hooks)
    fields = {"Upload-Length": "x", "Upload-Offset": "x", "Content-Type": "x"}
    reply = await site.request(method, path, fields, b"hello")
    assert (reply.status, reply.body) == (401, b"no")
    assert reply.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Upload-Offset": "x"}, 400),
        ({"Upload-Length": "x"}, 400),
        ({"Upload-Checksum": "sha1 x"}, 400),
        ({"Upload-Checksum": "sha0 " + sha1(b"")[5:]}, 400),
    ],
)
async def test_the_header_section_is_judged_before_the_upload_is_looked_for(
    site: Site, wrong: dict[str, str], status: int
) -> None:
    fields = {**OCTETS, "Upload-Offset": "0", **wrong}
    assert_refused(await site.request("PATCH", "/files/unknown", fields, b"hello"), status)
    path = await site.upload(b"hello")
    fields["Upload-Offset"] = wrong.get("Upload-Offset", "77")  # its state would not allow it
    assert_refused(await site.request("PATCH", path, fields, b"hello"), status)


async def test_the_upload_is_looked_for_before_its_state_is_judged(site: Site) -> None:
    fields = {**OCTETS, "Upload-Offset": "5", "Upload-Length": "3"}
    reply = await site.request("PATCH", "/files/unknown", fields, b"hello")
    assert_refused(reply, 404)


async def test_the_offset_is_judged_before_lengths(site: Site) -> None:
    path = await site.create(5)
    assert_refused(await site.patch(path, 4, b"too long"), 409)
    assert_refused(await site.patch(path, 4, b"x", Upload_Length="7"), 409)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Tus-Resumable": "0.2.2"},
        {"X-HTTP-Method-Override": "PUT"},
        {"Content-Type": "text/plain"},
        {"Content-Encoding": "gzip"},
        {"Upload-Offset": "x"},
        {"Upload-Offset": "3"},
        {"Upload-Length": "99"},
        {"Upload-Checksum": "none"},
    ],
)
@pytest.mark.parametrize("chunks", [True, False])
async def test_a_refused_patch_stores_nothing_and_runs_no_hook(
    serve: Serve, tmp_path: Path, wrong: dict[str, str], chunks: bool
) -> None:
    hooks = Hooks()
    ran: list[object] = []
    hooks.pre_receive.append(ran.append)
    hooks.post_receive.append(ran.append)
    hooks.pre_finish.append(ran.append)
    hooks.on_interrupted.append(ran.append)
    site = await serve(DiskStore(tmp_path / "uploads", durability="none"), hooks=hooks)
    path = await site.create(5)
    before = files_below(tmp_path)
    coding = {"Transfer-Encoding": "chunked"} if chunks else {"Content-Length": "5"}
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", **coding, **wrong}
    body = chunked(b"hello") if chunks else b"hello"
    reply = await site.raw(head("PATCH", path, fields) + body)
    assert reply.status in (400, 409, 412, 415)
    assert_refused(reply, reply.status)
    assert not ran
    assert files_below(tmp_path) == before


# What every answer has


async def test_every_answer_has_the_version_once(site: Site) -> None:
    path = await site.upload(b"hello")
    replies = [
        await site.request(method, target, {"Upload-Length": "1", **version}, tus=False)
        for method in (*METHODS, "PUT")
        for target in ("/files", "/files/", path, "/files/unknown")
        for version in ({}, TUS)
    ]
    replies.append(await site.request("POST"))
    assert {reply.status for reply in replies} >= {200, 201, 204, 400, 404, 405, 412, 415}
    for reply in replies:
        assert reply.headers.getall("Tus-Resumable") == ["1.0.0"]
