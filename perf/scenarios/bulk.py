"""Large bodies: one, several at once, in pieces as browsers send them, chunked, over TLS."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from ..client import OCTETS, Client, Refused, connect
from ..running import Launch, started
from ..source import MIB, start_of
from .base import Bench, Scenario, Subject, Tls, Values, at_once, check, throughput, warm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..source import Source

BARE = "bare recv_into + pwrite"
CHUNK = MIB


def uploads(count: int, size: int, pieces: int = 1) -> Callable[[Subject, Path, Bench], Values]:
    """``count`` uploads at once, each on a connection of its own, in so many PATCHes."""

    def measure(subject: Subject, folder: Path, bench: Bench) -> Values:
        each, per_upload = _shape(bench, size, pieces)
        return _upload(subject, folder, bench, count, each, per_upload)

    return measure


def _shape(bench: Bench, size: int, pieces: int) -> tuple[int, int]:
    """Size of a PATCH and number of PATCHes: what is in pieces is shortened to fewer of them."""
    if pieces == 1:
        return bench.size(size), 1
    return size, bench.count(pieces)


def _upload(
    subject: Subject,
    folder: Path,
    bench: Bench,
    count: int,
    each: int,
    pieces: int,
    tls: Tls | None = None,
) -> Values:
    with warm(subject, folder, tls) as server:
        clients = [Client(server.endpoint) for _ in range(count)]
        paths = [client.create(each * pieces) for client in clients]
        works = [
            partial(_append, client, path, bench.source, start_of(number), each, pieces)
            for number, (client, path) in enumerate(zip(clients, paths, strict=True))
        ]
        values = throughput(server, partial(at_once, works), count * each * pieces)
        for client in clients:
            client.socket.close()
        check(server, bench.source, paths, each * pieces)
        return values


def _append(client: Client, path: str, source: Source, start: int, each: int, pieces: int) -> None:
    for number in range(pieces):
        client.append(path, number * each, source, start + number * each, each)


def bare(count: int, size: int, pieces: int = 1) -> Callable[[Path, Bench], Values]:
    """The same bytes to the bare loop, which has a thread for each connection."""

    def measure(folder: Path, bench: Bench) -> Values:
        each, per_upload = _shape(bench, size, pieces)
        return _bare(folder, "receive", bench, count, each, per_upload)

    return measure


def _bare(
    folder: Path,
    kind: str,
    bench: Bench,
    count: int,
    each: int,
    pieces: int,
    tls: Tls | None = None,
) -> Values:
    folder.mkdir(parents=True)
    with started(bare_launch(kind, each, tls), folder, tls) as server:
        connections = [connect(server.endpoint) for _ in range(count)]
        works = [
            partial(_pour, connection, bench.source, start_of(number), each, pieces)
            for number, connection in enumerate(connections)
        ]
        values = throughput(server, partial(at_once, works), count * each * pieces)
        for connection in connections:
            connection.close()
        check(server, bench.source, [""] * count, each * pieces)
        return values


def bare_launch(kind: str, size: int, tls: Tls | None = None) -> Launch:
    more = ("{cert}", "{key}") if tls else ()
    argv = (sys.executable, "-m", "perf.limit", kind, "{port}", "{folder}", str(size), *more)
    return Launch(argv=argv, version="", http=False)


def _pour(connection: socket.socket, source: Source, start: int, each: int, pieces: int) -> None:
    for number in range(pieces):
        source.send(connection, start + number * each, each)
        if connection.recv(1) != b"k":
            raise Refused("the bare loop ended")


def chunked(subject: Subject, folder: Path, bench: Bench) -> Values:
    """One upload of 1 GiB in HTTP chunks of 1 MiB."""
    size = bench.size(1024 * MIB)
    with warm(subject, folder) as server, Client(server.endpoint) as client:
        path = client.create(size)
        values = throughput(server, partial(_send_chunks, client, path, bench.source, size), size)
        check(server, bench.source, [path], size)
        return values


def _send_chunks(client: Client, path: str, source: Source, size: int) -> None:
    head = client.head(
        "PATCH", path, Upload_Offset="0", Content_Type=OCTETS, Transfer_Encoding="chunked"
    )
    client.socket.sendall(head, socket.MSG_MORE)
    for start in range(0, size, CHUNK):
        client.socket.sendall(b"%x\r\n" % CHUNK, socket.MSG_MORE)
        source.send(client.socket, start, CHUNK)
        client.socket.sendall(b"\r\n", socket.MSG_MORE)
    client.socket.sendall(b"0\r\n\r\n")
    client.reply(f"PATCH {path}")


def tls(subject: Subject, folder: Path, bench: Bench) -> Values:
    assert bench.tls is not None
    return _upload(subject, folder, bench, 1, bench.size(1024 * MIB), 1, bench.tls)


def bare_tls(folder: Path, bench: Bench) -> Values:
    assert bench.tls is not None
    return _bare(folder, "tls", bench, 1, bench.size(1024 * MIB), 1, bench.tls)


def _scenario(name: str, title: str, *shape: int, group: str = "bulk") -> Scenario:
    return Scenario(
        name=name,
        title=title,
        unit="GB/s",
        group=group,
        measure=uploads(*shape),
        limit=bare(*shape),
        limit_title=BARE,
    )


SCENARIOS = (
    _scenario("large", "one PATCH of 1 GiB", 1, 1024 * MIB),
    _scenario("eight", "8 PATCHes of 128 MiB at once", 8, 128 * MIB),
    _scenario("sixtyfour", "64 PATCHes of 16 MiB at once", 64, 16 * MIB),
    _scenario("five", "PATCHes of 5 MiB on 1 connection", 1, 5 * MIB, 100),
    _scenario("five4", "PATCHes of 5 MiB on 4 connections", 4, 5 * MIB, 50),
    Scenario(
        name="chunked",
        title="one PATCH of 1 GiB in chunks",
        unit="GB/s",
        group="bulk",
        measure=chunked,
        limit=bare(1, 1024 * MIB),
        limit_title=BARE,
    ),
    Scenario(
        name="tls",
        title="one PATCH of 1 GiB over TLS",
        unit="GB/s",
        group="bulk",
        measure=tls,
        limit=bare_tls,
        limit_title="the same over TLS",
        ours_only=True,
    ),
)
