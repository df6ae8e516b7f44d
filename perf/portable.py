"""What one process does over the portable path, beside the kernel's own limit.

The limit: one thread that does nothing but ``recv_into`` and ``pwrite``. The two are measured
in turn, and the median is quoted.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .load import MIB, throughput
from .processes import running

ROUNDS = 5
WRK_SECONDS = 5


def bare_loop(folder: str, size: int) -> float:
    """GB/s of ``size`` bytes from a socket to a file, no HTTP, one thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    block = os.urandom(MIB)

    def client() -> None:
        with socket.create_connection(listening.getsockname()) as sending:
            for _ in range(size // MIB):
                sending.sendall(block)

    threading.Thread(target=client).start()
    connection, _ = listening.accept()
    buffer = memoryview(bytearray(MIB))
    fd = os.open(f"{folder}/bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    offset, begun = 0, time.perf_counter()
    while received := connection.recv_into(buffer):
        offset += os.pwrite(fd, buffer[:received], offset)
    seconds = time.perf_counter() - begun
    os.close(fd)
    connection.close()
    listening.close()
    return offset / seconds / 1e9


def small_uploads(port: int) -> str:
    """wrk's own words on 4 KiB creation-with-upload at 32 connections."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "wrk is not installed"
    script = Path(__file__).with_name("small.lua")
    command = [wrk, "-t1", "-c32", f"-d{WRK_SECONDS}s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/files/"], capture_output=True, text=True, check=True
    )
    return done.stdout


def main() -> None:
    shapes = {
        "1 x 1 GiB": (1, 1024 * MIB, False),
        "8 x 128 MiB": (8, 128 * MIB, False),
        "1 x 1 GiB, chunked": (1, 1024 * MIB, True),
    }
    results: dict[str, list[float]] = {name: [] for name in ["bare loop", *shapes]}
    cpu: dict[str, list[float]] = {name: [] for name in shapes}
    starts: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            results["bare loop"].append(bare_loop(folder, 1024 * MIB))
        for name, (count, size, chunked) in shapes.items():
            with (
                tempfile.TemporaryDirectory(dir=".") as folder,
                running("-m", "perf.subjects", "tus", "{port}", folder) as subject,
            ):
                starts.append(subject.started)
                before = subject.cpu
                results[name].append(throughput(subject.port, count, size, chunked=chunked))
                cpu[name].append(subject.cpu - before)
                peak = subject.peak_rss / MIB
                print(f"{name}: {results[name][-1]:.2f} GB/s, peak RSS {peak:.0f} MiB")  # noqa: T201
    for name, values in results.items():
        used = f", {statistics.median(cpu[name]):.2f} s of CPU" if name in cpu else ""
        print(f"median {name}: {statistics.median(values):.2f} GB/s{used}")  # noqa: T201
    print(f"median start-up: {statistics.median(starts):.2f} s")  # noqa: T201
    with (
        tempfile.TemporaryDirectory(dir=".") as folder,
        running("-m", "perf.subjects", "tus", "{port}", folder) as subject,
    ):
        print(small_uploads(subject.port))  # noqa: T201
