"""No file operation runs on the event loop's thread: one slow disk would stop every upload."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Expiry, Hooks, Options, sweep, tus_routes

from .client import OCTETS, Site, chunked, running, sha1

# What tells no audit hook, and what does: that is seen twice, which does no harm.
FUNCTIONS = """
    access chmod close copy_file_range dup fallocate fchmod fdatasync fstat fstatvfs fsync
    ftruncate link listdir lseek lstat mkdir open posix_fadvise posix_fallocate pread preadv
    pwrite pwritev read readlink readv remove rename replace rmdir scandir sendfile splice stat
    statvfs symlink sync sync_file_range truncate unlink utime write writev
"""
AUDITED = ("open", "os.", "shutil.", "tempfile.", "glob.", "pathlib.", "fcntl.", "sqlite3.")

Record = Callable[[str, tuple[Any, ...]], None]
_watching: list[Record] = []  # an audit hook stays for ever: it looks here who wants to know


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event.startswith(AUDITED):
        _watching[0](event, args)


sys.addaudithook(_audit)


class Watch:
    """Remembers the file operations in the store, by the thread in which they ran."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_loop: list[str] = []
        self.elsewhere: list[str] = []
        self._root = str(root)
        self._loop_thread = threading.get_ident()
        for name in FUNCTIONS.split():
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._watched(name))

    @contextmanager
    def watching(self) -> Iterator[None]:
        _watching.append(self.record)
        try:
            yield
        finally:
            _watching.clear()

    def _watched(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if _watching:
                self.record(f"os.{name}()", args)
            return function(*args, **kwargs)

        return watched

    def record(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_foreign(args):
            return
        seen = self.on_loop if threading.get_ident() == self._loop_thread else self.elsewhere
        seen.append(f"{event} {args}")

    def _is_foreign(self, args: tuple[Any, ...]) -> bool:
        """Python's own files, for an import or a traceback. What is in the store has a
        descriptor, a name relative to one, or an absolute path below the root."""
        name = os.fsdecode(args[0]) if args and isinstance(args[0], str | bytes | Path) else ""
        return name.startswith("/") and not name.startswith(self._root)

    @property
    def operations(self) -> set[str]:
        return {seen.partition(" ")[0] for seen in self.elsewhere}

    def check(self) -> None:
        """Something was seen, and none of it on the loop."""
        assert self.on_loop == []
        assert "os.open()" in self.operations
        self.elsewhere.clear()


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> None:
    """Stores that other tests dropped close their folders wherever the collector runs."""
    gc.collect()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def watch(root: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(root, monkeypatch)


Start = Callable[..., Any]


@pytest.fixture
def start(root: Path, watch: Watch) -> Start:
    """A server that is watched. It flushes all it can, so that there is much to see."""

    @asynccontextmanager
    async def started(*, cleanup_ctx: bool = False, **kwargs: Any) -> Any:
        store = DiskStore(root, durability="always")
        routes = tus_routes(store, **kwargs)
        app = web.Application()
        app.add_routes(routes)
        if cleanup_ctx:
            app.cleanup_ctx.append(routes.cleanup_ctx)
        with watch.watching():
            async with running(app) as (runner, port):
                yield Site(port, store, "/files", runner, routes)
            await routes.server.stop()

    return started


async def small(site: Site) -> None:
    await site.upload(b"x" * 100)


async def large(site: Site) -> None:
    await site.upload(b"x" * 3_000_000)


async def slow(site: Site) -> None:
    path = await site.create(600_000)
    connection = await site.connect()
    fields = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": "600000", **OCTETS}
    await connection.send_head("PATCH", path, fields)
    for _ in range(6):
        await connection.send(b"x" * 100_000)
        await asyncio.sleep(0.03)
    assert (await connection.reply()).status == 204
    await connection.close()


async def in_chunks(site: Site) -> None:
    path = await site.create(200_000)
    body = chunked(b"x" * 100_000, b"y" * 100_000)
    assert (await site.patch(path, 0, body, Transfer_Encoding="chunked")).status == 204


async def deferred(site: Site) -> None:
    path = await site.create(Upload_Defer_Length="1")
    assert (await site.patch(path, 0, b"abc")).status == 204
    assert (await site.patch(path, 3, b"", Upload_Length="3")).status == 204


async def with_upload(site: Site) -> None:
    for size in (10, 500_000):
        fields = {"Upload-Length": str(size), **OCTETS}
        reply = await site.request("POST", headers=fields, body=b"x" * size)
        assert (reply.status, reply.offset) == (201, size)


async def with_checksum(site: Site) -> None:
    for data in (b"x" * 10, b"x" * 500_000):
        path = await site.create(len(data))
        assert (await site.patch(path, 0, data, Upload_Checksum=sha1(b"other"))).status == 460
        assert (await site.patch(path, 0, data, Upload_Checksum=sha1(data))).status == 204


async def with_trailer(site: Site) -> None:
    data = b"x" * 500_000
    for announced in ({"Trailer": "Upload-Checksum"}, {}):
        path = await site.create(len(data))
        body = chunked(data, trailers={"Upload-Checksum": sha1(data)})
        reply = await site.patch(path, 0, body, Transfer_Encoding="chunked", **announced)
        assert reply.status == 204


async def cut_short(site: Site) -> None:
    for checksum in ({}, {"Upload-Checksum": sha1(b"x")}):
        path = await site.create(500_000)
        connection = await site.connect()
        fields = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": "500000"}
        await connection.send_head("PATCH", path, {**fields, **OCTETS, **checksum})
        await connection.send(b"x" * 300_000)
        connection.reset()
        assert (await site.head(path)).status == 200


async def inspected(site: Site) -> None:
    path = await site.create(10)
    assert (await site.head(path)).offset == 0
    assert (await site.head("/files/none")).status == 404


async def terminated(site: Site) -> None:
    path = await site.create(10)
    assert (await site.delete(path)).status == 204
    assert (await site.delete(await site.upload(b"whole"))).status == 204


async def read(site: Site) -> None:
    data = b"x" * 3_000_000
    path = await site.upload(data)
    assert (await site.get(path)).body == data
    assert (await site.get(path, Range="bytes=1-2")).body == b"xx"


async def concatenated(site: Site) -> None:
    first = await site.upload(b"hello ", Upload_Concat="partial")
    second = await site.upload(b"world", Upload_Concat="partial")
    final = await site.create(Upload_Concat=f"final;{first} {second} {first}")
    assert (await site.get(final)).body == b"hello worldhello "


async def concatenated_later(site: Site) -> None:
    first = await site.create(6, Upload_Concat="partial")
    second = await site.upload(b"world", Upload_Concat="partial")
    final = await site.create(Upload_Concat=f"final;{first} {second}")
    assert (await site.head(final)).headers["Upload-Length"] == "11"
    assert (await site.patch(first, 0, b"hello ")).status == 204
    assert (await site.get(final)).body == b"hello world"


async def concatenation_given_up(site: Site) -> None:
    first = await site.create(6, Upload_Concat="partial")
    final = await site.create(Upload_Concat=f"final;{first}")
    assert (await site.delete(first)).status == 204
    assert (await site.head(final)).status == 404


async def refused(site: Site) -> None:
    path = await site.create(10)
    assert (await site.patch(path, 5, b"x")).status == 409
    assert (await site.patch(path, 0, b"x" * 11)).status == 413
    assert (await site.patch(path, 0, b"x", Content_Type="text/plain")).status == 415


EVERYTHING = (
    small,
    large,
    slow,
    in_chunks,
    deferred,
    with_upload,
    with_checksum,
    with_trailer,
    cut_short,
    inspected,
    terminated,
    read,
    concatenated,
    concatenated_later,
    concatenation_given_up,
    refused,
)


@pytest.mark.parametrize("use", EVERYTHING, ids=lambda use: use.__name__)
async def test_every_use_keeps_off_the_loop(
    start: Start, watch: Watch, use: Callable[[Site], Awaitable[None]]
) -> None:
    expiry = Expiry(timedelta(hours=1), sliding=True)
    async with start(options=Options(expiry=expiry, reserve=1)) as site:
        await use(site)
    watch.check()


async def test_start_up_at_the_first_request_keeps_off_the_loop(
    start: Start, root: Path, watch: Watch
) -> None:
    async with start() as site:
        assert watch.elsewhere == [], "without cleanup_ctx nothing happens before a request"
        assert (await site.head("/files/none")).status == 404
        assert "os.mkdir()" in watch.operations
        watch.check()


@pytest.mark.parametrize("first", [True, False], ids=["new", "found"])
async def test_start_and_stop_with_the_application_keep_off_the_loop(
    start: Start, watch: Watch, first: bool
) -> None:
    if not first:
        async with start() as site:
            await site.create(5, Upload_Concat="partial")
            await cut_short(site)
    async with start(cleanup_ctx=True):
        watch.check()
    watch.on_loop.clear()
    assert "os.close()" in watch.operations


async def test_hooks_and_their_open_keep_off_the_loop(start: Start, watch: Watch) -> None:
    hooks, read_back = Hooks(), []

    async def look(event: Any) -> None:
        async with event.open() as file:
            read_back.append(await file.read())

    for moment in ("post_create", "pre_receive", "pre_finish", "post_finish", "pre_terminate"):
        getattr(hooks, moment).append(look)
    async with start(hooks=hooks) as site:
        path = await site.upload(b"hello")
        await site.delete(path)
    assert read_back == [b"", b"", b"hello", b"hello", b"hello"]
    watch.check()


@pytest.mark.parametrize("folder", ["published", "published/deeper"])
async def test_publishing_keeps_off_the_loop(
    start: Start, watch: Watch, root: Path, folder: str
) -> None:
    hooks = Hooks()

    @hooks.pre_create
    def choose(event: Any) -> None:
        event.path = root / folder / "file"

    async with start(hooks=hooks) as site:
        path = await site.upload(b"hello")
        assert (await site.get(path)).body == b"hello"
        assert (await site.head(path)).offset == 5
    watch.check()


@pytest.mark.parametrize("sliding", [False, True])
async def test_a_sweep_keeps_off_the_loop(start: Start, watch: Watch, sliding: bool) -> None:
    expiry = Expiry(timedelta(seconds=10), sliding=sliding)
    async with start(options=Options(expiry=expiry)) as site:
        paths = [await site.create(5) for _ in range(3)]
        await site.patch(paths[0], 0, b"whole")
        site.routes.server.clock = lambda: datetime.now(UTC) + timedelta(hours=1)
        watch.check()
        assert await sweep(site.routes.server) == 2
        watch.check()


async def test_a_hook_that_blocks_is_noticed(start: Start, watch: Watch, root: Path) -> None:
    """The watch itself: what it is here for is seen."""
    hooks = Hooks()

    @hooks.post_finish
    def block(event: Any) -> None:
        with (root / "blocking").open("wb") as file:
            os.fstat(file.fileno())

    async with start(hooks=hooks) as site:
        await site.upload(b"hello")
    assert [seen.partition(" ")[0] for seen in watch.on_loop] == ["open", "os.fstat()"]
