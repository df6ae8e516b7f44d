"""A tus server on loopback and a client that sends exactly the bytes it is told to."""

from __future__ import annotations

import asyncio
import base64
import enum
import hashlib
import inspect
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import CIMultiDict

from aiotus_server import Options, tus_routes
from aiotus_server.stores.writing import PAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiotus_server.stores import Store

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: CIMultiDict[str]
    body: bytes
    interim: tuple[int, ...] = ()  # statuses of 1xx answers that came before

    @property
    def code(self) -> str:
        """The stable word at the start of an error's text."""
        return self.body.decode().partition(":")[0]

    @property
    def offset(self) -> int:
        return int(self.headers["Upload-Offset"])

    @property
    def path(self) -> str:
        """The path of Location, absolute or not."""
        location = self.headers["Location"]
        return location if location.startswith("/") else "/" + location.split("/", 3)[3]


def assert_refused(
    reply: Reply, status: int, code: str | None = None, *, method: str = "PATCH"
) -> None:
    """An error as all of them must be: the version, one line of text with a stable code, and no
    Upload-Offset but on 409."""
    assert reply.status == status, reply
    assert reply.headers.getall("Tus-Resumable") == ["1.0.0"]
    assert status == 409 or "Upload-Offset" not in reply.headers
    if method == "HEAD":
        assert reply.headers["Cache-Control"] == "no-store"
        return
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert re.fullmatch(r"[A-Z_]+: [^\n]+\n", reply.body.decode()), reply.body
    assert code is None or reply.code == code


def sha1(data: bytes) -> str:
    """An Upload-Checksum value."""
    return "sha1 " + base64.b64encode(hashlib.sha1(data).digest()).decode()


def chunked(*pieces: bytes, trailers: Mapping[str, str] | None = None) -> bytes:
    """A body in the chunked transfer coding."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    fields = "".join(f"{name}: {value}\r\n" for name, value in (trailers or {}).items())
    return coded + b"0\r\n" + fields.encode() + b"\r\n"


class Connection:
    """One TCP connection, raw."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError when the server has gone."""
        try:
            self.writer.write(data)
        except RuntimeError as error:  # uvloop's word for it
            raise ConnectionResetError(str(error)) from error
        await self.writer.drain()

    async def send_head(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> None:
        await self.send(head(method, path, headers))

    async def reply(self, *, method: str = "GET") -> Reply:
        """The next response; ``method`` says whether it may have a body."""
        interim: list[int] = []
        while True:
            status, headers = await self._head()
            if status >= 200:
                break
            interim.append(status)
        body = b""
        if method != "HEAD" and status not in (204, 304):
            if headers.get("Transfer-Encoding") == "chunked":
                body = await self._chunks()
            elif "Content-Length" in headers:
                body = await self.reader.readexactly(int(headers["Content-Length"]))
            else:
                body = await self.reader.read()
        return Reply(status, headers, body, tuple(interim))

    async def _head(self) -> tuple[int, CIMultiDict[str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = CIMultiDict((name, value.strip()) for name, _, value in fields)
        return int(lines[0].split(" ")[1]), headers

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body

    async def closed(self) -> bool:
        """Wait until the server closes; whether it did so without another byte."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Vanish without a word, as a client does whose process was killed."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def head(method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def exchange(
    connection: Connection,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Reply:
    """One request on a connection that stays open."""
    length = {"Content-Length": str(len(body))} if body or method in ("POST", "PATCH") else {}
    await connection.send(head(method, path, {**TUS, **length, **(headers or {})}) + body)
    return await connection.reply(method=method)


@dataclass
class Site:
    """A running server."""

    port: int
    store: Any
    prefix: str
    runner: web.AppRunner
    routes: Any = None
    connections: list[Connection] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)  # where the last PATCH began

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        return connection

    async def request(
        self,
        method: str,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        tus: bool = True,
    ) -> Reply:
        """One request on a connection of its own. Adds Tus-Resumable, and Content-Length when
        there is a body or the method may have one."""
        fields = dict(TUS) if tus else {}
        if body or method in ("POST", "PATCH"):
            fields["Content-Length"] = str(len(body))
        fields.update(headers or {})
        if "Transfer-Encoding" in fields:
            fields.pop("Content-Length", None)
        connection = await self.connect()
        try:
            await connection.send(head(method, path or self.prefix, fields) + body)
            return await connection.reply(method=method)
        finally:
            await connection.close()

    async def raw(self, data: bytes, *, method: str = "GET") -> Reply:
        """What comes back for these very bytes, on a connection of their own."""
        connection = await self.connect()
        try:
            await connection.send(data)
            return await connection.reply(method=method)
        finally:
            await connection.close()

    async def create(self, length: int | None = None, **headers: str) -> str:
        """The path of a new upload; ``_`` in header names stands for ``-``."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if length is not None:
            fields["Upload-Length"] = str(length)
        reply = await self.request("POST", headers=fields)
        assert reply.status == 201, reply
        return reply.path

    async def patch(self, path: str, offset: int, body: bytes, **headers: str) -> Reply:
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        fields.update({name.replace("_", "-"): value for name, value in headers.items()})
        return await self.request("PATCH", path, fields, body)

    async def begin(
        self, path: str, offset: int, body: bytes, *, length: int | None, **headers: str
    ) -> Connection:
        """Begin a PATCH of ``length`` bytes, None for a body in chunks, and send ``body`` of it:
        its connection."""
        fields = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
        if length is None:
            fields["Transfer-Encoding"] = "chunked"
        else:
            fields["Content-Length"] = str(length)
        fields.update({name.replace("_", "-"): value for name, value in headers.items()})
        connection = await self.connect()
        self.begun[path] = offset
        await connection.send(head("PATCH", path, fields) + body)
        return connection

    def stored(self, path: str) -> bytes:
        """What is in the disk store's file of this upload, verified or not; nothing if there is
        no such file."""
        for file in self.store.root.glob(f"??/{path.rpartition('/')[2]}"):
            data: bytes = file.read_bytes()
            return data
        return b""

    async def until_stored(self, path: str, size: int, *, seconds: float = 5) -> None:
        """Wait until the disk store's file of this upload has ``size`` bytes, or the server has
        them, and all of their whole pages are in the file."""
        begun = self.begun.get(path, 0)
        whole = max(begun, size // PAGE * PAGE)
        async with asyncio.timeout(seconds):
            while (stored := len(self.stored(path))) != size:
                if stored == whole and self._has_taken(size - begun):
                    break
                await asyncio.sleep(0.01)

    def _has_taken(self, size: int) -> bool:
        sources = self.routes.server.sources if self.routes is not None else ()
        return any(source.given == size for source in sources)

    async def head(self, path: str) -> Reply:
        return await self.request("HEAD", path)

    async def get(self, path: str, **headers: str) -> Reply:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.request("GET", path, fields, tus=False)

    async def delete(self, path: str) -> Reply:
        return await self.request("DELETE", path)

    async def upload(self, data: bytes, **headers: str) -> str:
        """A complete upload."""
        path = await self.create(len(data), **headers)
        assert (await self.patch(path, 0, data)).status == 204
        return path


class DataPath(enum.Enum):
    """How the bytes of bodies come from the socket."""

    AS_SET = "as set"  # as the test's options say, or the default
    FAST = "fast"  # in threads, from the first byte that has not come with the head
    PORTABLE = "portable"  # through the event loop, all of them


DIRECT_FROM = {DataPath.FAST: 0, DataPath.PORTABLE: None}


@asynccontextmanager
async def serving(
    store: Store, *, prefix: str = "/files", data_path: DataPath = DataPath.AS_SET, **kwargs: Any
) -> AsyncIterator[Site]:
    """A plain application with ``app.add_routes(tus_routes(store, …))`` on a free port."""
    if data_path in DIRECT_FROM:
        kwargs["options"] = _with_direct_from(DIRECT_FROM[data_path], kwargs.get("options"))
    routes = tus_routes(store, prefix=prefix, **kwargs)
    app = web.Application()
    app.add_routes(routes)
    async with running(app) as (runner, port):
        site = Site(port, store, prefix, runner, routes)
        yield site
        for connection in site.connections:
            await connection.close()


def _with_direct_from(direct_from: int | None, options: Any) -> Any:
    if not callable(options):
        return replace(options or Options(), direct_from=direct_from)

    async def options_of(request: web.Request) -> Options | None:
        found: Any = options(request)
        if inspect.isawaitable(found):
            found = await found
        return None if found is None else replace(found, direct_from=direct_from)

    return options_of


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[tuple[web.AppRunner, int]]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner, runner.addresses[0][1]
    finally:
        await runner.cleanup()
