"""A process that sweeps a directory when it is told to: ``sweeping.py DIRECTORY``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aiotus_server import DiskStore, FileLocker, Hooks, sweep
from aiotus_server.server import Server

if TYPE_CHECKING:
    from aiotus_server.hooks import HookEvent

hooks = Hooks()


@hooks.on_expired
async def tell(event: HookEvent) -> None:
    print(event.upload.upload_id)  # noqa: T201
    await asyncio.sleep(0)


async def main(directory: str) -> None:
    server = Server(DiskStore(directory), hooks=hooks, locker=FileLocker(directory))
    await server.start()
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)
    await sweep(server)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
