"""A process whose tasks count together with others', in a way that two at once would spoil.

``python -m tests.locks.counter DIRECTORY asyncio|uvloop TASKS`` goes on until its standard input
ends. Every count is a read and a later write of ``number-…``, then a byte more in ``log-…``, so
a lost update leaves less in the first than in the second. Whoever gets no turn ends the process.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import uvloop

from aiotus_server.locks import FileLocker, Purpose

UPLOADS = ("a", "b", "c")
PATIENCE = 30  # seconds
ZERO = "0" * 12
PURPOSES = [Purpose.APPEND, Purpose.INSPECT, Purpose.TERMINATE]


async def count(locker: FileLocker, directory: Path, upload_id: str) -> None:
    number = directory / f"number-{upload_id}"
    async with locker.lock(upload_id, random.choice(PURPOSES), wait=PATIENCE):
        value = int(number.read_text())
        if random.random() < 0.5:
            await asyncio.sleep(random.random() / 500)
        fd = os.open(number, os.O_WRONLY)
        os.pwrite(fd, b"%012d" % (value + 1), 0)
        os.close(fd)
        with (directory / f"log-{upload_id}").open("ab", buffering=0) as log:
            log.write(b".")


async def work(locker: FileLocker, directory: Path, over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            async with asyncio.timeout(random.choice([None, random.random() / 100])):
                await count(locker, directory, random.choice(UPLOADS))
        except TimeoutError:
            pass  # cancelled while it waited, or while it held the lock
        else:
            os.write(1, b".")
        if random.random() < 0.2:
            await asyncio.sleep(0)


async def run(directory: Path, tasks: int) -> None:
    locker, over = FileLocker(directory), asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(work(locker, directory, over))


def main() -> None:
    runner = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
    runner(run(Path(sys.argv[1]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
