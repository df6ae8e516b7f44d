"""Many small requests on 32 connections.

On an ext4 where others removed many files a short while ago, a bare new file took the kernel 20 µs
of CPU time in some folders and 150 to 330 in others. Servers then differ by where their folders
are. What a file costs is therefore measured after each, and shown: where it differs, take a file
system of its own, a loop mount or tmpfs.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import generator, wrk
from ..client import Client
from .base import Bench, Scenario, Subject, Values, Wrong, costs, warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..running import Server

BODY = bytes(number * 31 % 251 for number in range(4096))
MANY = 1000  # uploads that HEAD asks for
PROBES = 200


def rate(server: Server, script: str, bench: Bench, given: bytes) -> Values:
    """Of the requests of that script, whose file holds ``given``."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(given)
        file.flush()
        cpu = server.cpu
        # wrk waits for the body of an answer to HEAD.
        count = wrk.count if wrk.is_there() and script != "head" else generator.count
        values = count(server.endpoint, script, bench.seconds, file.name)
        values["value"] = values.pop("rate")
        return {**values, **costs(server, cpu)}


def create(subject: Subject, folder: Path, bench: Bench) -> Values:
    """Creation-with-upload of 4 KiB."""
    with warm(subject, folder) as server:
        values = rate(server, "small", bench, BODY)
        check(server, int(values["requests"]))
        return {**values, **price_of_a_file(folder)}


def create_and_append(subject: Subject, folder: Path, bench: Bench) -> Values:
    """POST and a PATCH of 4 KiB; pairs a second."""
    with warm(subject, folder) as server:
        values = rate(server, "post_patch", bench, BODY)
        check(server, int(values["requests"]) // 2 - wrk.CONNECTIONS)
        values.update(value=values["value"] / 2, requests=values["requests"] / 2)
        return {**values, **price_of_a_file(folder)}


def inspect(subject: Subject, folder: Path, bench: Bench) -> Values:
    with warm(subject, folder) as server:
        with Client(server.endpoint) as client:
            paths = [client.create(4096) for _ in range(bench.count(MANY))]
        values = rate(server, "head", bench, "\n".join(paths).encode())
        return {**values, **price_of_a_file(folder)}


def price_of_a_file(folder: Path) -> Values:
    """CPU time that the kernel takes for an empty one in that folder. They stay there."""
    begun = time.process_time()
    for number in range(PROBES):
        os.close(os.open(folder / f"probe-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    return {"file_us": (time.process_time() - begun) / PROBES * 1e6}


def check(server: Server, least: int) -> None:
    """That at least so many uploads are stored, and 100 at random are what was sent."""
    if server.folder is None:
        return
    stored = list(_uploads_in(server.folder))
    if len(stored) < least:
        raise Wrong(f"{least} uploads were accepted, {len(stored)} are in the folder")
    for path in random.sample(stored, min(100, len(stored))):
        if path.read_bytes() != BODY:
            raise Wrong(f"{path.name} has other bytes than were sent")


def _uploads_in(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # the lock of a request that was cut off
                if path.stat().st_size == len(BODY):
                    yield path


_scenario = partial(
    Scenario,
    unit="requests/s",
    group="small",
    kept=True,
    everywhere=True,
    extra={"p50_ms": "p50, ms", "p99_ms": "p99, ms", "file_us": "a bare new file, µs"},
)

SCENARIOS = (
    _scenario(
        name="small",
        title="creation-with-upload of 4 KiB, 32 connections",
        measure=create,
    ),
    _scenario(
        name="post-patch",
        title="POST and PATCH of 4 KiB, 32 connections",
        measure=create_and_append,
    ),
    _scenario(
        name="head",
        title="HEAD, 32 connections",
        measure=inspect,
    ),
)
