"""A process of its own that takes locks as it is told, one command a line.

``python -m tests.locks.holder DIRECTORY asyncio|uvloop``

    lock NAME ID PURPOSE WAIT [PURPOSE…]   the purposes at the end are declined
    unlock NAME
    fork                                   a child that does nothing for a minute

Says ``NAME held``, ``NAME asked PURPOSE``, ``NAME free``, ``NAME locked`` and ``NAME declined``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from aiotus_server.locks import Declined, FileLocker, Purpose, file
from aiotus_server.protocol.errors import UploadLocked


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


class Holder:
    def __init__(self, directory: str) -> None:
        file.GRACE = float(os.environ.get("TEST_GRACE", file.GRACE))
        self._locker = FileLocker(directory)
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(0, self._read)
        say("ready")
        await self._over.wait()

    def _read(self) -> None:
        data = os.read(0, 65536).decode()
        if not data:
            self._over.set()
        for line in data.splitlines():
            self._obey(line.split())

    def _obey(self, words: list[str]) -> None:
        match words:
            case ["lock", name, *rest]:
                self._ends[name] = asyncio.Event()
                task = asyncio.create_task(self._hold(name, *rest))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case ["unlock", name]:
                self._ends[name].set()
            case ["fork"]:
                fork()

    async def _hold(
        self, name: str, upload_id: str, purpose: str, wait: str, *refused: str
    ) -> None:
        def hear(wish: Purpose) -> bool:
            say(name, "asked", wish.value)
            return wish.value not in refused

        try:
            async with self._locker.lock(upload_id, Purpose(purpose), wait=float(wait)) as lock:
                say(name, "held")
                lock.on_release_requested(hear)
                await self._ends[name].wait()
            say(name, "free")
        except Declined:
            say(name, "declined")
        except UploadLocked:
            say(name, "locked")


def fork() -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.pause()
    say("child", child)


def main() -> None:
    run = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
    run(Holder(sys.argv[1]).run())


if __name__ == "__main__":
    main()
