"""A middleware of the application's has read the body before the handler sees the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from aiotus_server import DiskStore, tus_routes

from .client import OCTETS, Site, running, sha1

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = b"hello" * 30_000


async def upload_behind(middleware: Callable[..., Any], folder: Path) -> tuple[list[int], bytes]:
    """The statuses of a POST and a PATCH whose bodies ``middleware`` has read, and the bytes
    that GET gives."""
    app = web.Application(middlewares=[web.middleware(middleware)], client_max_size=2**20)
    routes = tus_routes(DiskStore(folder, durability="none"))
    app.add_routes(routes)
    async with running(app) as (runner, port):
        site = Site(port, None, "/files", runner, routes)
        fields = {**OCTETS, "Upload-Length": str(2 * len(DATA))}
        created = await site.request("POST", headers=fields, body=DATA)
        patched = await site.patch(created.path, len(DATA), DATA, Upload_Checksum=sha1(DATA))
        got = await site.get(created.path)
        return [created.status, patched.status], got.body


async def test_what_was_read_into_memory_is_stored(tmp_path: Path) -> None:
    async def read(request: web.Request, handler: Any) -> Any:
        await request.read()
        return await handler(request)

    assert await upload_behind(read, tmp_path) == ([201, 204], DATA + DATA)


async def test_what_was_taken_from_the_stream_is_missed(tmp_path: Path) -> None:
    async def swallow(request: web.Request, handler: Any) -> Any:
        if request.method == "PATCH":
            await request.content.readexactly(5)
        return await handler(request)

    statuses, _ = await upload_behind(swallow, tmp_path)
    assert statuses == [201, 400]
