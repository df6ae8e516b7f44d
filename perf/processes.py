"""Servers under measurement, each in a process of its own on a free loopback port."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Subject:
    """A running server. ``cpu`` is in seconds, ``peak_rss`` in bytes."""

    port: int
    process: subprocess.Popen[str]
    started: float  # seconds from exec to the first accepted connection

    @property
    def cpu(self) -> float:
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def peak_rss(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the process is gone")

    def stop(self) -> str:
        """End it by SIGTERM; what it printed."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=30)
        return output


def free_port() -> int:
    """A port that nobody listens on, from below those that the kernel gives to others' sockets:
    one of these could take it before the server does."""
    for port in random.sample(range(10_000, 20_000), 100):
        with socket.socket() as listening, suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextmanager
def running(*command: str) -> Iterator[Subject]:
    """Run ``python command`` with ``{port}`` filled in, until the block ends."""
    port = free_port()
    argv = [sys.executable, *(word.replace("{port}", str(port)) for word in command)]
    begun = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        _wait_for(port, process)
        yield Subject(port, process, time.perf_counter() - begun)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    raise RuntimeError("the server did not start")
