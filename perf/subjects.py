"""The applications under measurement: ``python -m perf.subjects NAME PORT [FOLDER]``.

Each watches its own event loop, and prints its lag when it is told to stop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

import uvloop
from aiohttp import web

from aiotus_server import DiskStore, sweep, tus_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PERIOD = 0.002  # seconds


async def watch(app: web.Application) -> AsyncIterator[None]:
    """Measures by how much a short sleep is late, all the time."""
    late: list[float] = []

    async def measure() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(PERIOD)
            late.append(time.perf_counter() - begun - PERIOD)

    task = asyncio.ensure_future(measure())
    yield
    task.cancel()
    late.sort()
    report = {
        "samples": len(late),
        "p50_ms": round(late[len(late) // 2] * 1000, 2),
        "p99_ms": round(late[int(len(late) * 0.99)] * 1000, 2),
        "max_ms": round(late[-1] * 1000, 2),
    }
    print(json.dumps(report), flush=True)  # noqa: T201


async def swallow(request: web.Request) -> web.Response:
    async for _ in request.content.iter_any():
        pass
    return web.Response(status=204)


async def make(request: web.Request) -> web.Response:
    return web.Response(status=201, headers={"Location": "/files/x"})


def bare() -> web.Application:
    """An aiohttp application that reads bodies and forgets them."""
    app = web.Application()
    app.router.add_post("/files/", make)
    app.router.add_patch("/files/x", swallow)
    return app


def tus(folder: str) -> web.Application:
    app = web.Application()
    routes = tus_routes(DiskStore(folder, durability="none"))
    app.add_routes(routes)

    async def sweep_now(request: web.Request) -> web.Response:
        return web.json_response(await sweep(routes.server))

    app.router.add_post("/sweep", sweep_now)
    return app


def main(name: str, port: str, folder: str = "") -> None:
    app = bare() if name == "bare" else tus(folder)
    app.cleanup_ctx.append(watch)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
