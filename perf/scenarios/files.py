"""What needs no upload to be received: concatenation and download."""

from __future__ import annotations

import resource
import socket
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

from ..client import Client, Refused, connect
from ..running import started
from ..source import GIB, MIB
from .base import (
    Bench,
    Scenario,
    Subject,
    Unsupported,
    Values,
    Wrong,
    check,
    check_by_get,
    offers,
    settle,
    throughput,
    warm,
)
from .bulk import bare_launch

if TYPE_CHECKING:
    from pathlib import Path

PARTS = 8
PART = 128 * MIB
_nowhere = memoryview(bytearray(MIB))


def concatenate(subject: Subject, folder: Path, bench: Bench) -> Values:
    """The final of 8 partial uploads, from the request to its answer."""
    size = bench.size(PART)
    with warm(subject, folder) as server, Client(server.endpoint) as client:
        if "concatenation" not in offers(server, "tus-extension"):
            raise Unsupported("no concatenation")
        partials = []
        for number in range(PARTS):
            partials.append(client.create(size, Upload_Concat="partial"))
            client.append(partials[-1], 0, bench.source, number * size, size)
        settle()
        made: list[str] = []
        concat = f"final;{' '.join(partials)}"
        values = throughput(
            server, lambda: made.append(client.create(None, Upload_Concat=concat)), PARTS * size
        )
        if client.offset(made[0]) != PARTS * size:
            raise Wrong("the final upload is not complete")
        check(server, bench.source, made, PARTS * size)
        return values


def copy(folder: Path, bench: Bench) -> Values:
    """One ``cp --reflink=auto`` of 8 such files to another folder."""
    size = bench.size(PART)
    target = folder / "copy"
    target.mkdir(parents=True)
    parts = [folder / str(number) for number in range(PARTS)]
    for number, part in enumerate(parts):
        with part.open("wb") as file:
            for piece in bench.source.pieces(number * size, size):
                file.write(piece)
    settle()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(["cp", "--reflink=auto", *map(str, parts), str(target)], check=True)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "value": PARTS * size / seconds / 1e9,
        "seconds": seconds,
        "gib": PARTS * size / GIB,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def download(subject: Subject, folder: Path, bench: Bench) -> Values:
    """GET of 1 GiB, whose bytes the client's kernel throws away; then again, to compare them."""
    size = bench.size(GIB)
    with warm(subject, folder) as server:
        with Client(server.endpoint) as client:
            path = client.create(size)
            client.append(path, 0, bench.source, 0, size)
        with Client(server.endpoint) as client:
            try:
                values = throughput(server, partial(_get, client, path, size), size)
            except Refused as refused:
                raise Unsupported(str(refused)) from refused
        check_by_get(server, bench.source, path, 0, size)
        return values


def _get(client: Client, path: str, size: int) -> None:
    client.socket.sendall(client.head("GET", path))
    reply = client.reply(f"GET {path}")
    if reply.headers.get("content-length") != str(size):
        raise Refused(f"GET {path}: Content-Length is {reply.headers.get('content-length')}")
    _drain(client.socket, size - len(reply.rest))


def _drain(connection: socket.socket, size: int) -> None:
    while size:
        received = connection.recv_into(_nowhere, min(size, MIB), socket.MSG_TRUNC)
        if not received:
            raise Refused("the download ended early")
        size -= received


def bare_send(folder: Path, bench: Bench) -> Values:
    """``os.sendfile`` of such a file."""
    size = bench.size(GIB)
    folder.mkdir()
    with (folder / "0").open("wb") as file:
        for piece in bench.source.pieces(0, size):
            file.write(piece)
    with (
        started(bare_launch("send", size), folder) as server,
        connect(server.endpoint) as connection,
    ):

        def work() -> None:
            connection.sendall(b"k")
            _drain(connection, size)

        return throughput(server, work, size)


SCENARIOS = (
    Scenario(
        name="final",
        title="concatenation of 8 x 128 MiB",
        unit="GB/s",
        group="files",
        measure=concatenate,
        limit=copy,
        limit_title="cp --reflink=auto of the 8 files",
    ),
    Scenario(
        name="get",
        title="GET of 1 GiB",
        unit="GB/s",
        group="files",
        measure=download,
        limit=bare_send,
        limit_title="bare sendfile",
    ),
)
