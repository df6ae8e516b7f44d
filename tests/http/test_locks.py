"""One writer per upload, black box: clients that come back while their old connection hangs, and
requests that meet."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import Hooks, MemoryStore, Options

from .client import Connection, DataPath, Reply, Site, assert_refused, chunked, sha1

if TYPE_CHECKING:
    from .conftest import Serve

MEBIBYTE = 1024 * 1024
DATA = random.Random(1).randbytes(3 * MEBIBYTE)
AGO = 0.5  # seconds since the old connection's last byte
AT_ONCE = 1.0  # seconds

pytestmark = pytest.mark.data_paths(*DataPath)  # many bodies here are large


@pytest.fixture(params=["disk", "memory"])
async def any_site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """A server over each of the stores."""
    return await serve(MemoryStore() if request.param == "memory" else None)


class Holder:
    """A hook that keeps an upload locked until it is told to go on."""

    def __init__(self) -> None:
        self.hooks = Hooks()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, event: Any) -> None:
        self.reached.set()
        await self.go_on.wait()


@pytest.fixture
def holder() -> Holder:
    return Holder()


async def hanging(site: Site, path: str, sent: int, coding: str, length: int) -> Connection:
    """A PATCH of which ``sent`` bytes came, and nothing since."""
    if coding == "counted":
        connection = await site.begin(path, 0, DATA[:sent], length=length)
    else:
        pieces = [DATA[start : min(start + 70_000, sent)] for start in range(0, sent, 70_000)]
        connection = await site.begin(path, 0, chunked(*pieces)[:-5], length=None)
    await asyncio.sleep(AGO)
    return connection


# A client that comes back


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_head_tells_all_that_came_while_the_old_connection_hangs(
    any_site: Site, coding: str
) -> None:
    site = any_site

    async def come_back(sent: int) -> None:
        path = await site.create(len(DATA))
        old = await hanging(site, path, sent, coding, len(DATA))
        async with asyncio.timeout(AT_ONCE):
            assert (await site.head(path)).offset == sent
            reply = await old.reply()
        assert_refused(reply, 423)
        assert int(reply.headers["Retry-After"]) >= 0
        async with asyncio.timeout(AT_ONCE):
            assert (await site.patch(path, sent, DATA[sent:])).status == 204
        assert (await site.get(path)).body == DATA

    await asyncio.gather(*map(come_back, (0, 1, 5000, 300_000, 2 * MEBIBYTE)))


@pytest.mark.parametrize("coding", ["counted", "chunked"])
async def test_patch_goes_on_while_the_old_connection_hangs(any_site: Site, coding: str) -> None:
    """The client knows what it has sent, and does not ask first."""
    site = any_site

    async def come_back(sent: int) -> None:
        path = await site.create(len(DATA))
        old = await hanging(site, path, sent, coding, len(DATA))
        async with asyncio.timeout(AT_ONCE):
            reply = await site.patch(path, sent, DATA[sent:])
            assert (reply.status, reply.offset) == (204, len(DATA))
            assert_refused(await old.reply(), 423)
        assert (await site.get(path)).body == DATA

    await asyncio.gather(*map(come_back, (1, 5000, 300_000, 2 * MEBIBYTE)))


async def test_late_bytes_of_a_displaced_patch_count_no_more(site: Site) -> None:
    path = await site.create(10)
    old = await hanging(site, path, 3, "counted", 10)
    assert (await site.head(path)).offset == 3
    await old.send(DATA[3:10])
    assert_refused(await old.reply(), 423)
    assert (await site.head(path)).offset == 3
    assert (await site.patch(path, 3, b"x" * 7)).status == 204
    assert (await site.get(path)).body == DATA[:3] + b"x" * 7


async def test_displaced_patch_is_never_followed_by_its_body_as_a_request(site: Site) -> None:
    victim = await site.upload(b"hello")
    path = await site.create(1000)
    smuggled = f"DELETE {victim} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    old = await hanging(site, path, 3, "counted", 1000)
    await site.head(path)
    assert_refused(await old.reply(), 423)
    try:
        await old.send(smuggled)
        rest = await asyncio.wait_for(old.reader.read(), 0.3)
    except (TimeoutError, ConnectionError):
        rest = b""
    assert rest == b""
    assert (await site.get(victim)).body == b"hello"


async def test_many_clients_that_come_back(site: Site) -> None:
    paths = [await site.create(10) for _ in range(20)]
    old = [await site.begin(path, 0, b"hello", length=10) for path in paths]
    await asyncio.sleep(AGO)
    async with asyncio.timeout(AT_ONCE):
        heads = await asyncio.gather(*map(site.head, paths))
        assert [reply.offset for reply in heads] == [5] * 20
        replies = await asyncio.gather(*(connection.reply() for connection in old))
    assert [reply.status for reply in replies] == [423] * 20


async def test_client_that_comes_back_again_and_again(any_site: Site) -> None:
    path, offset = await any_site.create(50), 0
    async with asyncio.timeout(5):
        while offset < 50:
            await any_site.begin(path, offset, DATA[offset : offset + 5], length=50 - offset)
            await asyncio.sleep(0.02)
            offset = (await any_site.head(path)).offset
    assert (await any_site.get(path)).body == DATA[:50]


# Requests that meet


@pytest.mark.parametrize("size", [50, 100_000, MEBIBYTE + 1], ids=["small", "middle", "large"])
async def test_two_patches_at_one_offset_never_corrupt(any_site: Site, size: int) -> None:
    """Each sends other bytes; what is stored comes from one of them at a time, and every
    answer was true."""
    site, chance = any_site, random.Random(size)
    for _ in range(25 if size < MEBIBYTE else 8):
        path = await site.create(size)
        first, second = chance.randrange(1, size), chance.randrange(1, size)
        replies = await asyncio.gather(
            site.patch(path, 0, b"a" * first), site.patch(path, 0, b"b" * second)
        )
        offset = (await site.head(path)).offset
        statuses = sorted(reply.status for reply in replies)
        assert set(statuses) <= {204, 409, 423}
        for reply, sent in zip(replies, (first, second), strict=True):
            if reply.status == 204:
                assert reply.offset == sent == offset
        if 204 in statuses:
            assert statuses in ([204, 409], [204, 423])
        await site.patch(path, offset, b"c" * (size - offset))
        body = (await site.get(path)).body
        assert len(body) == size
        assert body[:offset] in (b"a" * offset, b"b" * offset)
        assert body[offset:] == b"c" * (size - offset)


async def test_crowd_at_one_upload_never_corrupts(any_site: Site) -> None:
    """Clients without manners: each asks for the offset and sends from there, at random
    lengths, now and then hanging up in the middle."""
    site = any_site
    size = 400_000
    data = DATA[:size]
    path = await site.create(size)
    seen: list[int] = []

    async def client(number: int) -> None:
        chance = random.Random(number)
        while True:
            reply = await site.head(path)
            assert reply.status in (200, 423), reply
            if reply.status == 423:
                continue
            seen.append(reply.offset)
            if reply.offset == size:
                return
            end = min(size, reply.offset + chance.randrange(1, 60_000))
            piece = data[reply.offset : end]
            if chance.random() < 0.3:
                connection = await site.begin(path, reply.offset, piece[:-1], length=len(piece))
                connection.reset()
                continue
            answer = await site.patch(path, reply.offset, piece)
            assert answer.status in (204, 409, 423), answer
            if answer.status == 204:
                assert answer.offset == end

    async with asyncio.timeout(30):
        await asyncio.gather(*(client(number) for number in range(4)))
    assert (await site.get(path)).body == data


async def test_offset_that_head_told_never_goes_back(any_site: Site) -> None:
    site = any_site
    path = await site.create(MEBIBYTE)
    offsets = [0]
    while offsets[-1] < MEBIBYTE:
        offset = offsets[-1]
        patch = asyncio.create_task(site.patch(path, offset, DATA[offset:MEBIBYTE]))
        for _ in range(3):
            offsets.append((await site.head(path)).offset)
            await asyncio.sleep(0.002)
        assert (await patch).status in (204, 409, 423)
        offsets.append((await site.head(path)).offset)
    assert offsets == sorted(offsets)
    assert (await site.get(path)).body == DATA[:MEBIBYTE]


async def test_uploads_do_not_wait_for_each_other(site: Site) -> None:
    busy, free = await site.create(10), await site.create(5)
    await hanging(site, busy, 3, "counted", 10)
    async with asyncio.timeout(AT_ONCE):
        assert (await site.patch(free, 0, b"hello")).status == 204
        assert (await site.head(free)).offset == 5


# A holder that does not let go


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
async def test_locked_is_423_within_the_timeout(serve: Serve, holder: Holder, method: str) -> None:
    holder.hooks.pre_receive(holder)
    options = Options(lock_timeout=timedelta(seconds=0.3))
    site = await serve(hooks=holder.hooks, options=options)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holder.reached.wait()
    before = asyncio.get_running_loop().time()
    fields = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    reply = await site.request(method, path, fields if method == "PATCH" else {})
    waited = asyncio.get_running_loop().time() - before
    assert_refused(reply, 423, method=method)
    assert int(reply.headers["Retry-After"]) >= 0
    assert 0.2 < waited < 1.0
    holder.go_on.set()
    await first
    assert (await site.head(path)).status == 200


async def test_final_of_a_locked_partial_is_423(serve: Serve, holder: Holder) -> None:
    holder.hooks.pre_terminate(holder)
    options = Options(lock_timeout=timedelta(seconds=0.3))
    site = await serve(hooks=holder.hooks, options=options)
    path = await site.upload(b"hello", Upload_Concat="partial")
    delete = asyncio.create_task(site.delete(path))
    await holder.reached.wait()
    reply = await site.request("POST", headers={"Upload-Concat": f"final;{path}"})
    assert_refused(reply, 423)
    assert "Location" not in reply.headers
    holder.go_on.set()
    assert (await delete).status == 204


async def test_default_timeout_is_some_seconds(serve: Serve, holder: Holder) -> None:
    holder.hooks.pre_receive(holder)
    site = await serve(hooks=holder.hooks)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holder.reached.wait()
    before = asyncio.get_running_loop().time()
    assert (await site.head(path)).status == 423
    assert 2.5 < asyncio.get_running_loop().time() - before < 4
    holder.go_on.set()
    await first


async def test_those_who_gave_up_are_not_in_the_way(serve: Serve, holder: Holder) -> None:
    holder.hooks.pre_receive(holder)
    options = Options(lock_timeout=timedelta(seconds=0.1))
    site = await serve(hooks=holder.hooks, options=options)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holder.reached.wait()
    replies = await asyncio.gather(*(site.head(path) for _ in range(5)))
    assert [reply.status for reply in replies] == [423] * 5
    holder.go_on.set()
    await first
    async with asyncio.timeout(AT_ONCE):
        offset = (await site.head(path)).offset
        assert (await site.patch(path, offset, b"hello"[offset:])).status == 204
    assert (await site.get(path)).body == b"hello"


async def test_clients_that_wait_and_vanish_are_not_in_the_way(
    serve: Serve, holder: Holder
) -> None:
    holder.hooks.pre_receive(holder)
    site = await serve(hooks=holder.hooks)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holder.reached.wait()
    for _ in range(5):
        connection = await site.begin(path, 0, b"xx", length=5)
        connection.reset()
    holder.go_on.set()
    await first
    async with asyncio.timeout(3):
        while (reply := await site.head(path)).status != 200:
            await asyncio.sleep(0.01)
    body = b"hello"[reply.offset :]
    if reply.offset < 5:
        assert (await site.patch(path, reply.offset, body)).status == 204
    assert len((await site.get(path)).body) == 5


async def test_locked_patch_is_answered_before_its_body_is_asked_for(
    serve: Serve, holder: Holder
) -> None:
    holder.hooks.pre_receive(holder)
    options = Options(lock_timeout=timedelta(seconds=0.1))
    site = await serve(hooks=holder.hooks, options=options)
    path = await site.create(5)
    first = asyncio.create_task(site.patch(path, 0, b"hello"))
    await holder.reached.wait()
    second = await site.begin(path, 0, b"", length=5, Expect="100-continue")
    reply = await second.reply()
    assert_refused(reply, 423)
    assert reply.interim == ()
    holder.go_on.set()
    await first


# GET


async def test_get_takes_no_lock_while_a_patch_runs(site: Site) -> None:
    path = await site.create(10)
    old = await site.begin(path, 0, b"hello", length=10)
    await site.until_stored(path, 5)
    for _ in range(3):
        async with asyncio.timeout(AT_ONCE):
            assert (await site.get(path)).status == 404
    await old.send(b"world")  # nobody displaced it
    assert (await old.reply()).status == 204


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_get_of_a_complete_upload_in_use(serve: Serve, holder: Holder, kind: str) -> None:
    holder.hooks.pre_terminate(holder)
    site = await serve(MemoryStore() if kind == "memory" else None, hooks=holder.hooks)
    path = await site.upload(b"hello")
    delete = asyncio.create_task(site.delete(path))
    await holder.reached.wait()
    async with asyncio.timeout(AT_ONCE):
        reply = await site.get(path)
        assert (reply.status, reply.body) == (200, b"hello")
    holder.go_on.set()
    assert (await delete).status == 204


async def test_displaced_under_a_checksum_keeps_nothing(any_site: Site) -> None:
    site = any_site
    path = await site.create(10)
    old = await site.begin(path, 0, b"hello", length=10, Upload_Checksum=sha1(b"hello"))
    await asyncio.sleep(0.15)
    async with asyncio.timeout(AT_ONCE):
        assert_refused(await site.patch(path, 5, b"world"), 409)
        reply: Reply = await old.reply()
    assert_refused(reply, 423)
    assert (await site.head(path)).offset == 0
