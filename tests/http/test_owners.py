"""An upload is only for the principal who created it: for others there is none, black box."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import AuthorizeEvent, DiskStore, Hooks, MemoryStore, Options
from aiotus_server.owners import named_by
from aiotus_server.protocol.errors import UploadDamaged

from .client import OCTETS, TUS, Reply, Site, assert_refused, exchange, head, serving

if TYPE_CHECKING:
    from pathlib import Path

    from aiotus_server.protocol.uploads import Upload

    from .conftest import Serve

MIB = 1024 * 1024
UNKNOWN = "/files/" + 32 * "0"
ALICE, MALLORY, NOBODY = {"X-Me": "alice"}, {"X-Me": "mallory"}, dict[str, str]()
STRANGERS = pytest.mark.parametrize("stranger", [MALLORY, NOBODY], ids=["other", "nobody"])
PATCH = {**OCTETS, "Upload-Offset": "0"}


def hooks_with_principals() -> Hooks:
    hooks = Hooks()

    @hooks.authorize
    def whose(event: AuthorizeEvent) -> str | None:
        name: str | None = event.request.headers.get("X-Me")
        return name

    return hooks


@pytest.fixture(params=["disk", "memory"])
async def site(serve: Serve, request: pytest.FixtureRequest) -> Site:
    store = MemoryStore() if request.param == "memory" else None
    return await serve(store, hooks=hooks_with_principals())


async def created(site: Site, length: int | None = 10, **fields: str) -> str:
    return await site.create(length, X_Me="alice", **fields)


def seen(reply: Reply) -> tuple[Any, ...]:
    """All that a client sees of an answer, but for the time of day."""
    fields = [(name, value) for name, value in reply.headers.items() if name != "Date"]
    return reply.status, fields, reply.body


REQUESTS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "append": ("PATCH", PATCH, b"x"),
    "append nothing": ("PATCH", PATCH, b""),
    "append at another offset": ("PATCH", {**PATCH, "Upload-Offset": "7"}, b"x"),
    "append too much": ("PATCH", PATCH, b"x" * 100),
    "append what is malformed": ("PATCH", {**PATCH, "Upload-Offset": "one"}, b"x"),
    "append with a checksum that is wrong": (
        "PATCH",
        {**PATCH, "Upload-Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        b"x",
    ),
    "inspect": ("HEAD", {}, b""),
    "read": ("GET", {}, b""),
    "terminate": ("DELETE", {}, b""),
    "append by override": ("POST", {**PATCH, "X-HTTP-Method-Override": "PATCH"}, b"x"),
}
STATES: dict[str, dict[str, str]] = {
    "unfinished": {},
    "complete": {},
    "partial": {"Upload_Concat": "partial"},
    "final": {},
}


async def in_state(site: Site, state: str) -> str:
    if state == "final":
        part = await created(site, 5, Upload_Concat="partial")
        return await created(site, None, Upload_Concat=f"final;{part}")
    path = await created(site, 10, **STATES[state])
    if state == "complete":
        assert (await site.patch(path, 0, b"x" * 10, X_Me="alice")).status == 204
    return path


@STRANGERS
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("request_", REQUESTS)
async def test_for_a_stranger_it_is_as_if_there_were_no_upload(
    site: Site, request_: str, state: str, stranger: dict[str, str]
) -> None:
    method, fields, body = REQUESTS[request_]
    path = await in_state(site, state)
    before = await site.request("HEAD", path, ALICE)
    at_this = await site.request(method, path, {**fields, **stranger}, body)
    at_none = await site.request(method, UNKNOWN, {**fields, **stranger}, body)
    assert seen(at_this) == seen(at_none)
    assert at_this.status == 404 or "malformed" in request_
    assert seen(await site.request("HEAD", path, ALICE)) == seen(before)


async def test_the_owner_may_do_all(site: Site) -> None:
    path = await created(site)
    assert (await site.patch(path, 0, b"x" * 4, X_Me="alice")).status == 204
    assert (await site.request("HEAD", path, ALICE)).offset == 4
    assert (await site.patch(path, 4, b"x" * 6, X_Me="alice")).status == 204
    assert (await site.request("GET", path, ALICE)).body == b"x" * 10
    assert (await site.request("DELETE", path, ALICE)).status == 204
    assert (await site.request("HEAD", path, ALICE)).status == 404


async def test_what_nobody_in_particular_created_is_everybodys(site: Site) -> None:
    path = await site.create(10)
    assert (await site.patch(path, 0, b"x" * 10, X_Me="mallory")).status == 204
    assert (await site.request("GET", path, NOBODY)).body == b"x" * 10
    assert (await site.request("DELETE", path, ALICE)).status == 204


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE"])
@STRANGERS
async def test_a_stranger_interrupts_nobody(
    serve: Serve, method: str, stranger: dict[str, str]
) -> None:
    site = await serve(hooks=hooks_with_principals())
    path = await created(site, MIB)
    running = await site.begin(path, 0, b"x" * 8192, length=MIB, X_Me="alice")
    await site.until_stored(path, 8192)
    fields = {**stranger, **(PATCH if method == "PATCH" else {})}
    body = b"y" if method == "PATCH" else b""
    assert (await site.request(method, path, fields, body)).status == 404
    await running.send(b"x" * (MIB - 8192))
    assert (await running.reply()).offset == MIB


class InTheMaking(MemoryStore):
    """An upload that its next reader finds damaged, as one that is being made or renamed."""

    once = False

    async def get(self, upload_id: str) -> Upload:
        if self.once:
            self.once = False
            raise UploadDamaged("data-missing", "it is being made")
        return await super().get(upload_id)


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE"])
async def test_what_could_not_be_read_at_first_is_judged_under_the_lock(
    serve: Serve, method: str
) -> None:
    store = InTheMaking()
    site = await serve(store, hooks=hooks_with_principals())
    path = await created(site, 5)
    store.once = True
    fields = {**MALLORY, **(PATCH if method == "PATCH" else {})}
    body = b"hello" if method == "PATCH" else b""
    assert (await site.request(method, path, fields, body)).status == 404
    assert not store.once
    assert (await site.request("HEAD", path, ALICE)).offset == 0


async def test_a_stranger_learns_nothing_when_all_slots_are_taken(serve: Serve) -> None:
    site = await serve(hooks=hooks_with_principals(), options=Options(max_bodies=1))
    path = await created(site, MIB)
    running = await site.begin(path, 0, b"x" * 8192, length=MIB, X_Me="alice")
    await site.until_stored(path, 8192)
    replies = [
        await site.request("PATCH", there, {**PATCH, **MALLORY}, b"x") for there in (path, UNKNOWN)
    ]
    assert [reply.status for reply in replies] == [404, 404]
    assert seen(replies[0]) == seen(replies[1])
    await running.close()


async def test_a_stranger_waits_no_longer_than_for_nothing(serve: Serve) -> None:
    """The median of many: within a factor of two on any machine, when it is the same work."""
    site = await serve(hooks=hooks_with_principals())
    path = await created(site)
    connection = await site.connect()
    times: dict[str, list[float]] = {path: [], UNKNOWN: []}
    loop = asyncio.get_running_loop()
    for _ in range(200):
        for there, taken in times.items():
            begun = loop.time()
            reply = await exchange(connection, "HEAD", there, MALLORY)
            taken.append(loop.time() - begun)
            assert reply.status == 404
    this, none = (statistics.median(taken) for taken in times.values())
    assert this < 2 * none


# Concatenation


@STRANGERS
@pytest.mark.parametrize("length", [5, 0])
async def test_nobody_concatenates_the_parts_of_others(
    site: Site, length: int, stranger: dict[str, str]
) -> None:
    part = await created(site, length, Upload_Concat="partial")
    own = await site.create(0, Upload_Concat="partial", **as_arguments(stranger))

    async def concatenated(*paths: str) -> Reply:
        fields = {**stranger, "Upload-Concat": f"final;{' '.join(paths)}"}
        return await site.request("POST", headers=fields)

    refused = await concatenated(own, part)
    assert_refused(refused, 400, "PARTIAL_UNKNOWN")
    assert seen(refused) == seen(await concatenated(own, UNKNOWN))
    assert (await concatenated(own)).status == 201


def as_arguments(fields: dict[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in fields.items()}


async def test_a_final_belongs_to_who_created_it(site: Site) -> None:
    parts = [await created(site, 5, Upload_Concat="partial") for _ in range(2)]
    final = await created(site, None, Upload_Concat=f"final;{' '.join(parts)}")
    for part, piece in zip(parts, (b"hello", b"world"), strict=True):
        assert (await site.patch(part, 0, piece, X_Me="alice")).status == 204
    assert (await site.request("GET", final, MALLORY)).status == 404
    assert (await site.request("HEAD", final, NOBODY)).status == 404
    assert (await site.request("GET", final, ALICE)).body == b"helloworld"


async def test_parts_of_nobody_may_become_somebodys(site: Site) -> None:
    part = await site.create(5, Upload_Concat="partial")
    final = await created(site, None, Upload_Concat=f"final;{part}")
    assert (await site.patch(part, 0, b"hello")).status == 204
    assert (await site.request("GET", final, ALICE)).body == b"hello"
    assert (await site.request("GET", final, NOBODY)).status == 404


# Where it is kept


async def test_the_owner_is_kept_over_a_restart(tmp_path: Path) -> None:
    async with serving(DiskStore(tmp_path), hooks=hooks_with_principals()) as site:
        path = await created(site)
        assert (await site.patch(path, 0, b"x" * 4, X_Me="alice")).status == 204
        await site.routes.server.stop()
    async with serving(DiskStore(tmp_path), hooks=hooks_with_principals()) as site:
        assert (await site.request("HEAD", path, MALLORY)).status == 404
        assert (await site.patch(path, 4, b"x" * 6, X_Me="alice")).status == 204
        assert (await site.request("GET", path, ALICE)).body == b"x" * 10
        await site.routes.server.stop()
    # Nor does a server that knows of no principals give it away.
    async with serving(DiskStore(tmp_path)) as site:
        assert (await site.get(path)).status == 404
        assert (await site.delete(path)).status == 404


async def test_uploads_from_before_there_were_owners_are_everybodys(tmp_path: Path) -> None:
    async with serving(DiskStore(tmp_path)) as site:
        path = await site.create(10)
        await site.routes.server.stop()
    (info,) = tmp_path.glob("??/*.info")
    assert "owner" not in json.loads(info.read_text())
    async with serving(DiskStore(tmp_path), hooks=hooks_with_principals()) as site:
        assert (await site.patch(path, 0, b"x" * 10, X_Me="mallory")).status == 204
        assert (await site.request("GET", path, ALICE)).body == b"x" * 10


async def test_hooks_are_told_the_owner(serve: Serve) -> None:
    hooks = hooks_with_principals()
    told: list[tuple[str, str | None]] = []
    for moment in ("pre_create", "post_create", "pre_receive", "pre_finish", "post_finish"):
        getattr(hooks, moment).append(
            lambda event, moment=moment: told.append((moment, event.upload.owner))
        )
    site = await serve(hooks=hooks)
    await site.patch(await created(site, 1), 0, b"x", X_Me="alice")
    assert dict(told) == dict.fromkeys(
        ("pre_create", "post_create", "pre_receive", "pre_finish", "post_finish"), "alice"
    )


# What authorize may return


@pytest.mark.parametrize("returned", [None, True, ""])
async def test_an_authorize_that_names_nobody_binds_nothing(serve: Serve, returned: object) -> None:
    hooks = Hooks()
    hooks.authorize.append(lambda event: returned)
    site = await serve(hooks=hooks)
    path = await site.upload(b"hello")
    assert (await site.get(path)).body == b"hello"


async def test_an_authorize_may_be_a_coroutine(serve: Serve) -> None:
    hooks = Hooks()

    @hooks.authorize
    async def whose(event: AuthorizeEvent) -> str | None:
        await asyncio.sleep(0)
        name: str | None = event.request.headers.get("X-Me")
        return name

    site = await serve(hooks=hooks)
    path = await created(site)
    assert (await site.request("HEAD", path, ALICE)).status == 200
    assert (await site.request("HEAD", path, MALLORY)).status == 404


@pytest.mark.parametrize(
    "returned", [7, 1, False, b"alice", "a\nb", "a\0", "\udcff", "x" * 1025, {}]
)
async def test_what_is_no_principal_is_the_applications_error(
    serve: Serve, returned: object, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    hooks.authorize.append(lambda event: returned)
    site = await serve(hooks=hooks)
    reply = await site.request("POST", headers={"Upload-Length": "1"})
    assert_refused(reply, 500, "HOOK_FAILED")
    assert not list(site.store.root.glob("??/*"))
    assert "authorize must return one owner" in caplog.text


async def test_two_hooks_that_disagree_are_the_applications_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = hooks_with_principals()
    hooks.authorize.append(lambda event: "bob")
    site = await serve(hooks=hooks)
    with caplog.at_level(logging.ERROR):
        assert (await site.request("POST", headers={"Upload-Length": "1", **ALICE})).status == 500
    assert (await site.request("POST", headers={"Upload-Length": "1", "X-Me": "bob"})).status == 201


# A header of the proxy's


def hooks_of_a_proxy() -> Hooks:
    hooks = Hooks()
    hooks.authorize.append(named_by("X-Me"))
    return hooks


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"X-Me:\r\n",
        b"X-Me: alice\r\nX-Me: mallory\r\n",
        b"X-Me: alice\r\nx-me: alice\r\n",
        b"X-Me: \xff\xfe\r\n",
        b"X-Me: " + b"a" * 1025 + b"\r\n",
        b"X-Me: a\tb\r\n",
    ],
)
async def test_a_name_that_is_not_clear_is_refused(serve: Serve, lines: bytes) -> None:
    site = await serve(hooks=hooks_of_a_proxy())
    data = head("POST", "/files", {**TUS, "Upload-Length": "1"})[:-2] + lines + b"\r\n"
    assert (await site.raw(data)).status == 401
    assert not list(site.store.root.glob("??/*"))


@pytest.mark.parametrize("name", ["al\u00efce", "alice@example.org", "Alice B.", "CN=alice, O=x"])
async def test_names_may_be_of_all_kinds(serve: Serve, name: str) -> None:
    site = await serve(hooks=hooks_of_a_proxy())
    path = await site.create(1, X_Me=name)
    assert (await site.request("HEAD", path, {"X-Me": name})).status == 200
    assert (await site.request("HEAD", path, {"X-Me": name[:-1]})).status == 404
