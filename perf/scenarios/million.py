"""A store that holds a million uploads, beside one that is empty. Ours only.

``python -m perf.scenarios.million FOLDER`` sweeps a store, and prints how long that took.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from aiotus_server import DiskStore
from aiotus_server.protocol.uploads import Upload
from aiotus_server.server import Server as TusServer
from aiotus_server.stores import infofile
from aiotus_server.stores.journal import ExpiryJournal
from aiotus_server.stores.layout import Layout
from aiotus_server.sweeper import sweep

from ..client import Client
from ..running import REPOSITORY
from .base import Bench, Scenario, Subject, Values, Wrong, settle, warm
from .small import BODY, MANY, check, rate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DUE = 100
DAYS = 7  # over which the others expire
ASKED = 100_000  # uploads of the full store that HEAD asks for, at random
SIZE = 100  # bytes


def measure(subject: Subject, folder: Path, bench: Bench) -> Values:
    """The same on both stores in each round; the full one is filled in the first."""
    full = folder.with_name("million")
    if not full.exists():
        fill(full, bench.uploads)
        settle()
    swept = _sweep(full)
    settle()
    empty = _rates(subject, folder, bench, [])
    filled = _rates(subject, full, bench, _some(bench.uploads))
    return {
        "create": filled["create"],
        "create_ratio": filled["create"] / empty["create"],
        "head": filled["head"],
        "head_ratio": filled["head"] / empty["head"],
        "sweep_s": swept,
        "errors": filled["errors"] + empty["errors"],
        "rss_mib": filled["rss_mib"],
    }


def _rates(subject: Subject, folder: Path, bench: Bench, upload_ids: Iterable[str]) -> Values:
    with warm(subject, folder) as server:
        with Client(server.endpoint) as client:
            paths = [f"{server.endpoint.path}{upload_id}" for upload_id in upload_ids]
            paths = paths or [client.create(4096) for _ in range(bench.count(MANY))]
        heads = rate(server, "head", bench, "\n".join(paths).encode())
        creations = rate(server, "small", bench, BODY)
    check(server, int(creations["requests"]))
    return {
        "create": creations["value"],
        "head": heads["value"],
        "errors": heads["errors"] + creations["errors"],
        "rss_mib": creations["rss_mib"],
    }


def _id_of(number: int) -> str:
    return f"{number:032x}"


def _some(uploads: int) -> list[str]:
    return [_id_of(number) for number in random.sample(range(uploads), min(ASKED, uploads))]


def fill(folder: Path, uploads: int) -> None:
    """Half of them complete, the others unfinished and to expire within a week."""
    processes = os.cpu_count() or 1
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        steps = [range(first, uploads, processes) for first in range(processes)]
        pool.map(partial(_fill, folder), steps)


def _fill(folder: Path, numbers: Iterable[int]) -> None:
    layout = Layout(folder, shared=True)
    now = datetime.now(UTC)
    for number in numbers:
        expires = now + timedelta(days=1 + random.random() * DAYS) if number % 2 else None
        _store(layout, _id_of(number), now, expires)
    layout.close()


def _store(layout: Layout, upload_id: str, now: datetime, expires: datetime | None) -> None:
    layout.make_shard(upload_id)
    name = layout.name(upload_id)
    length = SIZE if expires is None else SIZE * 2
    upload = Upload(upload_id, SIZE, length, now, expires=expires)
    _write(layout, name, bytes(SIZE))
    _write(layout, f"{name}.info", infofile.encode(upload))
    if expires is not None:
        ExpiryJournal(layout.fd).add(upload_id, expires.timestamp())


def _write(layout: Layout, name: str, text: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=layout.fd)
    os.write(fd, text)
    os.close(fd)


def _sweep(folder: Path) -> float:
    """Seconds to remove 100 that are due, in a process of its own."""
    layout = Layout(folder, shared=True)
    now = datetime.now(UTC)
    for _ in range(DUE):
        _store(layout, secrets.token_hex(16), now, now - timedelta(hours=1))
    layout.close()
    command = [sys.executable, "-m", "perf.scenarios.million", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    if told["removed"] != DUE:
        raise Wrong(f"{told['removed']} of {DUE} were removed")
    return float(told["seconds"])


async def _timed_sweep(folder: str) -> dict[str, float]:
    server = TusServer(DiskStore(folder, durability="none"))
    await server.start()
    begun = time.perf_counter()
    removed = await sweep(server)
    seconds = time.perf_counter() - begun
    await server.stop()
    return {"removed": removed, "seconds": seconds}


SCENARIOS = (
    Scenario(
        name="million",
        title="1,000,000 stored uploads beside an empty store",
        unit="",
        group="million",
        measure=measure,
        kept=True,
        ours_only=True,
        extra={
            "create": "creations/s",
            "create_ratio": "of an empty store",
            "head": "HEAD/s",
            "head_ratio": "of an empty store",
            "sweep_s": "sweep of 100 due, s",
        },
    ),
)

if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_timed_sweep(sys.argv[1]))))
