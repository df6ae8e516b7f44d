"""Many clients lose their connections and come back through whatever worker there is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ..http.client import OCTETS, TUS, Connection, exchange
from .servers import Program, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Program]]

KiB, MiB = 1024, 1024 * 1024
CUTS = ("close", "reset", "silence")
# A client gets in within a second on a machine that does little else.
LONGEST_RESUMPTION = 3.0  # seconds


@dataclass
class Tally:
    """What all clients have seen."""

    resumptions: list[float] = field(default_factory=list)  # seconds
    statuses: list[int] = field(default_factory=list)  # of refused requests
    silent: list[Connection] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.resumptions)
        parts = (f"{share}%: {times[len(times) * share // 100]:.3f}" for share in (50, 90, 99))
        refused = {status: self.statuses.count(status) for status in set(self.statuses)}
        return (
            f"{len(times)} resumptions, seconds: {', '.join(parts)}, max: {times[-1]:.3f}; "
            f"refused on the way: {refused}"
        )


class Client:
    """Uploads known bytes, cuts its connections, and comes back."""

    def __init__(self, server: Program, seed: int, tally: Tally) -> None:
        self.random = random.Random(seed)
        self.data = self.random.randbytes(self.random.randint(1 * MiB, 3 * MiB))
        self.server = server
        self.tally = tally
        self.path = ""

    async def create(self) -> None:
        self.path = await self.server.create(len(self.data))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        complete, cut_at = False, None
        while not complete:
            try:
                connection, offset = await self.accepted()
            except (OSError, EOFError):
                continue  # a worker that was killed had the connection
            if cut_at is not None:
                self.tally.resumptions.append(loop.time() - cut_at)
            if offset == len(self.data):
                await connection.close()
                return  # the last answer was lost with its worker
            complete = await self.send(connection, offset)
            cut_at = loop.time()

    async def accepted(self) -> tuple[Connection, int]:
        """A connection whose PATCH is waiting for its body, and where that begins."""
        while True:
            connection = await self.server.connect()
            reply = await exchange(connection, "HEAD", self.path)
            if reply.status == 200:
                offset = reply.offset
                rest = len(self.data) - offset
                if not rest:
                    return connection, offset
                fields = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
                fields |= {"Content-Length": str(rest), "Expect": "100-continue"}
                await connection.send_head("PATCH", self.path, fields)
                line = await connection.reader.readuntil(b"\r\n")
                if line.startswith(b"HTTP/1.1 100 "):
                    await connection.reader.readuntil(b"\r\n")
                    return connection, offset
                self.tally.statuses.append(int(line.split()[1]))
            else:
                self.tally.statuses.append(reply.status)
            await connection.close()

    async def send(self, connection: Connection, offset: int) -> bool:
        """Some of the rest, or all of it: whether the upload is complete."""
        size = self.random.randint(0, 600 * KiB)
        piece = self.data[offset : offset + size]
        with suppress(OSError, EOFError):
            await connection.send(piece)
            if offset + len(piece) == len(self.data):
                reply = await connection.reply()
                await connection.close()
                assert reply.status == 204, reply
                return True
            await self.cut(connection)
        return False

    async def cut(self, connection: Connection) -> None:
        match self.random.choice(CUTS):
            case "close":
                connection.writer.close()
            case "reset":
                raw = connection.writer.get_extra_info("socket")
                linger = struct.pack("ii", 1, 0)  # what is not sent yet is dropped
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.reset()
            case "silence":
                self.tally.silent.append(connection)

    async def verify(self) -> None:
        expected = hashlib.sha256(self.data).hexdigest()
        got = b""
        while not got:
            with suppress(OSError, EOFError):  # a worker may be killed even now
                got = (await self.server.request("GET", self.path)).body
        assert hashlib.sha256(got).hexdigest() == expected
        on_disk = self.server.stored(self.path).read_bytes()
        assert hashlib.sha256(on_disk).hexdigest() == expected


async def create_all(clients: list[Client]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.create())


async def upload_all(clients: list[Client]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.run())
    for client in clients:
        await client.verify()


@pytest.mark.parametrize("workers", [2, 4])
async def test_clients_resume_through_other_workers_soon_and_without_loss(
    start: Start, workers: int
) -> None:
    server = await start(f"--workers={workers}")
    tally = Tally()
    seed = random.randrange(2**32)
    clients = [Client(server, seed + number, tally) for number in range(64)]
    await create_all(clients)
    await upload_all(clients)
    print(f"seed {seed}, {workers} workers: {tally}")  # noqa: T201
    assert len(tally.resumptions) > 64
    assert max(tally.resumptions) < LONGEST_RESUMPTION
    assert server.log == ""


async def test_workers_that_are_killed_lose_nothing(start: Start) -> None:
    server = await start("--workers=2")
    tally = Tally()
    seed = random.randrange(2**32)
    clients = [Client(server, seed + number, tally) for number in range(32)]
    await create_all(clients)
    uploading = asyncio.ensure_future(upload_all(clients))
    killed = 0
    while not uploading.done() and killed < 5:
        await asyncio.sleep(random.uniform(0.05, 0.2))
        await kill_one(server)
        killed += 1
    await uploading
    print(f"seed {seed}, {killed} killed: {tally}")  # noqa: T201
    assert killed
    assert server.log.count("killed by SIGKILL") == killed


async def kill_one(server: Program) -> None:
    """Afterwards there is another in its place."""
    before = server.workers
    os.kill(random.choice(sorted(before)), signal.SIGKILL)
    await until(lambda: len(server.workers - before) == 1)
