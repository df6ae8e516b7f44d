"""A plain application on one directory with others.
``python -m tests.locks.serve DIRECTORY asyncio|uvloop``

Says on which port it listens.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

from aiotus_server import DiskStore, FileLocker, tus_routes


async def main(directory: str) -> None:
    app = web.Application()
    app.add_routes(tus_routes(DiskStore(directory), locker=FileLocker(directory)))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
    run(main(sys.argv[1]))
