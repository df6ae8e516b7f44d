"""The server under test: a process, maybe with workers, and what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).parents[2]
STARTING = 30.0  # seconds
STOPPING = 30.0
COMMAND = (
    *(sys.executable, "-m", "aiotus_server"),
    *("--host", "127.0.0.1", "--port", "{port}", "--dir", "{dir}"),
)
LOCK_FILES = (".lock", ".locks")
ANNOUNCEMENT = b" are stored in "
PORTS_END = 32_000
_ports = itertools.count(20_000 + os.getpid() % 10_000)


class Trouble(Exception):
    """The server does not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What all processes of the server hold together, ``at`` seconds after the beginning. Of
    locks only those that the kernel knows of: on the store, and with several workers on uploads."""

    at: float
    processes: int
    rss: int  # bytes
    descriptors: int
    threads: int
    locks: int = 0


class Server:
    """``python -m aiotus_server`` with ``arguments``, on a free port of loopback.

    Or another server: ``command``, in which ``{port}`` and ``{dir}`` stand for these. It can be
    stopped or killed, and started again on the same port and folder. ``environment`` is added
    to ours. What it prints is in ``log``.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        arguments: Sequence[str],
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/files/"
        self.log = log
        self.folder = folder
        words = [word.replace("{port}", str(self.port)) for word in command]
        self._command = [*(word.replace("{dir}", str(folder)) for word in words), *arguments]
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._printed = 0  # bytes, before it was launched
        self._begun = time.monotonic()

    async def start(self) -> None:
        """Afterwards it accepts connections. Raises Trouble."""
        self.launch()
        deadline = time.monotonic() + STARTING
        while not await self._accepts():
            self.check()
            if time.monotonic() > deadline:
                raise Trouble(f"the server does not accept connections: {self._last_words()}")
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """Raises Trouble if it has ended by itself."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            raise Trouble(f"the server ended by itself with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        """The log may be gone when somebody reads of it."""
        return self.log.read_text(errors="replace").strip().rpartition("\n")[2]

    @property
    def running(self) -> bool:
        """Whether it has been launched, and not been ended by us."""
        return self._process is not None

    @property
    def announced(self) -> bool:
        """Whether it has said that all its workers are there."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(self._printed)
            return ANNOUNCEMENT in log.read()
        return False

    def workers(self) -> list[int]:
        """The ids of the processes that it has started."""
        return [] if self._process is None else list(_tree(self._process.pid))[1:]

    async def kill(self) -> None:
        """SIGKILL for all its processes at once."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end_group, process)

    async def kill_first(self) -> None:
        """SIGKILL for the process that was launched, and not for its workers: ``kill`` has still
        to be called."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def end(self, number: signal.Signals) -> None:
        """Afterwards the process is gone. Raises Trouble if it had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOPPING)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{number.name} did not end the server in {STOPPING} s") from None
        finally:
            _end_group(process)

    def sample(self) -> Sample:
        """Raises Trouble if it has ended."""
        self.check()
        if self._process is None:
            raise Trouble("the server does not run")
        held = [_held(pid) for pid in _tree(self._process.pid)]
        rss, descriptors, threads = (sum(column) for column in zip(*held, strict=True))
        at = time.monotonic() - self._begun
        processes = sum(1 for row in held if row[2])
        return Sample(at, processes, rss, descriptors, threads, _locks(self.folder))

    def launch(self) -> None:
        """It is up to others to find out when it accepts connections."""
        self._printed = self.log.stat().st_size if self.log.exists() else 0
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        kept = {name: text for name, text in os.environ.items() if not name.startswith("AIOTUS_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**kept, **self._environment, "PYTHONPATH": path.rstrip(os.pathsep)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for us, not for it
            )

    async def _accepts(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            await writer.wait_closed()
            return True
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What is left of it: workers too that have outlived their parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _tree(int(child))


def _held(pid: int) -> tuple[int, int, int]:
    """Bytes of RSS, descriptors, threads; zeros if the process has just gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        rss = int(fields["VmRSS"].split()[0]) * 1024
        return rss, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])
    except (OSError, KeyError):
        return 0, 0, 0


def _locks(folder: Path) -> int:
    """How many there are on files in ``folder``, waited for or held."""
    inodes = set()
    for name in LOCK_FILES:
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str((folder / name).stat().st_ino))
    with contextlib.suppress(FileNotFoundError):
        places = re.findall(r"[0-9a-f]+:[0-9a-f]+:([0-9]+) ", Path("/proc/locks").read_text())
        return sum(inode in inodes for inode in places)
    return 0


def damage_in(folder: Path) -> list[str]:
    """What ``aiotus-server verify`` says if it finds errors."""
    words = [sys.executable, "-m", "aiotus_server", "verify", "--dir", str(folder.absolute())]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"verify: {done.stdout}{done.stderr}"]


def _free_port() -> int:
    """Below those that the kernel gives to outgoing connections: one of these could take the
    port while the server is down. Never the same twice, since another server of ours may be
    about to listen there."""
    for port in itertools.takewhile(lambda port: port < PORTS_END, _ports):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise Trouble("no free port")
