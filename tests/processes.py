"""The bundled server as a process of its own, to be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 30  # seconds that a start or a stop may take on a busy machine


class ServerProcess:
    """A server on ``port`` of loopback that keeps its uploads in ``root``.

    ``arguments`` are more of its flags. However it ended, ``start`` brings it back on the same
    port and root. What it prints goes to ``log_path``, beside the root.
    """

    def __init__(self, root: Path, *arguments: str, port: int | None = None) -> None:
        self.root = root
        self.arguments = arguments
        self.port = port or free_port()
        self.log_path = root.with_name(root.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where uploads are created."""
        return f"http://127.0.0.1:{self.port}/files/"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def start(self) -> None:
        """Afterwards the server accepts connections. Raises AssertionError, with what the
        server printed, if it ends instead, or takes too long."""
        assert self._process is None, "the server is running"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=REPOSITORY,
                env={name: value for name, value in os.environ.items() if name[:6] != "AIOTUS"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            await self._accepting()
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """SIGKILL: no last word, nothing flushed. Afterwards the process is gone."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM, as a supervisor stops it: the exit code."""
        return await self._end(signal.SIGTERM)

    def _command(self) -> Sequence[str]:
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--dir", str(self.root)]
        return [sys.executable, "-m", "aiotus_server", *place, *self.arguments]

    async def _accepting(self) -> None:
        assert self._process is not None
        for _ in range(PATIENCE * 50):
            assert self._process.poll() is None, f"the server ended:\n{self.log}"
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the server accepts no connections:\n{self.log}")

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None, "the server is not running"
        process.send_signal(number)
        try:
            return await asyncio.to_thread(process.wait, PATIENCE)
        finally:
            process.kill()  # does nothing to a process that has ended
            process.wait()

    async def aclose(self) -> None:
        """End it if it is running."""
        if self._process is not None:
            await self.kill()


@asynccontextmanager
async def server_process(
    root: Path, *arguments: str, port: int | None = None
) -> AsyncIterator[ServerProcess]:
    """A server that has been started, and is ended on leaving if it still runs."""
    server = ServerProcess(root, *arguments, port=port)
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that no other caller is given."""
    for port in itertools.islice(_ports, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def _own_ports() -> Iterator[int]:
    """Those of them that are this process's, where several processes share the tests.

    From below those that the kernel gives to outgoing connections: one of these could take
    the port while the server is down between two starts.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = list(range(20_000 + worker, 32_000, count))
    random.shuffle(ports)
    return itertools.cycle(ports)


_ports = _own_ports()
