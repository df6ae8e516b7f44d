"""A server under measurement: started, awaited, asked what it used, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import usage
from .client import Client, Endpoint
from .processes import free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 60  # seconds for a start


class Missing(Exception):
    """A server that cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a server is started: ``{port}`` and ``{folder}`` stand in ``argv`` and ``env``.

    path: where it creates uploads. tls: further arguments, with ``{cert}`` and ``{key}``.
    http: whether it answers requests.
    """

    argv: Sequence[str]
    version: str
    path: str = "/files/"
    env: Mapping[str, str] = field(default_factory=dict)
    tls: Sequence[str] = ()
    http: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. ``pid`` and ``folder`` are None for one known by its URL only."""

    endpoint: Endpoint
    pid: int | None = None
    folder: Path | None = None

    @property
    def cpu(self) -> float | None:
        return None if self.pid is None else usage.cpu(self.pid)

    @property
    def peak_rss(self) -> float | None:
        return None if self.pid is None else usage.peak_rss(self.pid)


@contextmanager
def started(
    launch: Launch, folder: Path, tls: tuple[ssl.SSLContext, Mapping[str, str]] | None = None
) -> Iterator[Server]:
    """A server of its own on ``folder``, until the block ends.

    Its output is in ``<folder>.log``. Raises Missing with the end of that if it does not start.
    """
    port = free_port()
    names = {"port": str(port), "folder": str(folder), **(tls[1] if tls else {})}
    argv = [word.format(**names) for word in (*launch.argv, *(launch.tls if tls else ()))]
    env = {name: text.format(**names) for name, text in launch.env.items()}
    log = folder.with_name(f"{folder.name}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=REPOSITORY,
            env={**_environment(), **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    endpoint = Endpoint("127.0.0.1", port, launch.path, tls[0] if tls else None)
    try:
        _await(process, log, _is_answered if launch.http else _is_accepted, endpoint)
        yield Server(endpoint, process.pid, folder)
    finally:
        _end(process)


def _environment() -> dict[str, str]:
    """Ours without what would set the server's options."""
    return {name: text for name, text in os.environ.items() if not name.startswith("AIOTUS_")}


def _await(
    process: subprocess.Popen[bytes],
    log: Path,
    is_ready: Callable[[Endpoint], bool],
    endpoint: Endpoint,
) -> None:
    """Until ten tries in turn have come off: of several workers all are there then."""
    deadline = time.monotonic() + PATIENCE
    tries = 0
    while tries < 10:
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"it did not start: {log.read_text(errors='replace')[-500:]}")
        if is_ready(endpoint):
            tries += 1
        else:
            time.sleep(0.02)


def _is_accepted(endpoint: Endpoint) -> bool:
    with suppress(OSError):
        socket.create_connection((endpoint.host, endpoint.port), timeout=1).close()
        return True
    return False


def _is_answered(endpoint: Endpoint) -> bool:
    with suppress(OSError), Client(endpoint) as client:
        client.socket.sendall(client.head("OPTIONS", endpoint.path))
        return client.socket.recv(4096) != b""
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """First the parent, which ends its workers; then whatever is left of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
