"""The bundled server with several workers, as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiotus_server.stores.writing import PAGE

from ..http.client import Connection, Reply, exchange

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 30  # seconds that anything may take on a busy machine
# What begins an upload of 2 pages: less than a page would not be in its file while the body runs.
HALF = b"x" * PAGE

# Who answers, and where its threads may run. Refused before the store is asked.
HOOKS = """
import asyncio, gc, json, os, threading
from aiotus_server import Hooks, Refuse

hooks = Hooks()

@hooks.authorize
async def who(event):
    if "X-Who" in event.request.headers:
        executor = await asyncio.to_thread(os.sched_getaffinity, 0)
        threads = {thread.native_id: thread.name for thread in threading.enumerate()}
        facts = {"pid": os.getpid(), "threads": threads, "executor": sorted(executor)}
        facts["frozen"] = gc.get_freeze_count()
        raise Refuse(418, json.dumps(facts))
"""


class Program:
    """A server in ``folder``, with its uploads in ``folder/uploads``. ``line`` is what it said
    when it was ready; the rest goes to ``log``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.line = ""
        self.connections: list[Connection] = []
        self._log = folder / f"log-{time.monotonic_ns()}"
        (folder / "telling.py").write_text(HOOKS)

    async def launch(self, *arguments: str, under: tuple[str, ...] = ()) -> None:
        """Do not wait for anything. ``under`` is a command that runs others."""
        base = (sys.executable, "-m", "aiotus_server", "--port=0", "--durability=none")
        with self._log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *under,
                *base,
                *arguments,
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    async def start(self, *arguments: str, under: tuple[str, ...] = ()) -> None:
        """Afterwards it accepts connections."""
        await self.launch("--hooks=telling:hooks", *arguments, under=under)
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            self.line = (await self.process.stdout.readline()).decode()
        assert self.line, (await self.ended(), self.log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        match = re.search(r"https?://127\.0\.0\.1:(\d+)/", self.line)
        assert match is not None, self.line
        return int(match[1])

    @property
    def workers(self) -> set[int]:
        return children_of(self.pid)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Its exit code; nothing more may have been printed."""
        async with asyncio.timeout(PATIENCE):
            rest, _ = await self.process.communicate()
        assert rest == b""
        assert self.process.returncode is not None
        return self.process.returncode

    async def aclose(self) -> None:
        for connection in self.connections:
            connection.reset()
        left = self.workers
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # Requests

    async def connect(self, tls: ssl.SSLContext | None = None) -> Connection:
        if "Unix socket" in self.line:
            streams = await asyncio.open_unix_connection(self.folder / "s")
        else:
            streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        self.connections.append(Connection(*streams))
        return self.connections[-1]

    async def connect_to(self, pid: int, tls: ssl.SSLContext | None = None) -> Connection:
        """The kernel chooses: so try again and again."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    connection = await self.connect(tls)
                    if (await facts_of(connection))["pid"] == pid:
                        return connection
                    await connection.close()

    async def answering(self, tls: ssl.SSLContext | None = None) -> set[int]:
        """Wait until each worker has answered a connection."""
        workers = self.workers
        for pid in workers:
            await (await self.connect_to(pid, tls)).close()
        return workers

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        connection = await self.connect()
        try:
            return await exchange(connection, method, path, headers, body)
        finally:
            await connection.close()

    async def create(self, length: int) -> str:
        reply = await self.request("POST", "/files/", {"Upload-Length": str(length)})
        assert reply.status == 201, reply
        return reply.path

    def stored(self, path: str) -> Path:
        """The file with the bytes of an upload."""
        (file,) = self.folder.glob(f"uploads/??/{path.rpartition('/')[2]}")
        return file


async def facts_of(connection: Connection) -> dict[str, Any]:
    """The process behind a connection: see HOOKS."""
    reply = await exchange(connection, "GET", "/files/any", {"X-Who": "?"})
    assert reply.status == 418, reply
    facts: dict[str, Any] = json.loads(reply.body)
    return facts


def children_of(pid: int) -> set[int]:
    """Living ones and zombies; none when the process is gone."""
    try:
        return {
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        }
    except OSError:
        return set()


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def _environment() -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("AIOTUS_")}
    return {**ours, "PYTHONPATH": str(REPOSITORY)}
