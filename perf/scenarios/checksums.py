"""PATCHes of 4 MiB with a checksum, beside the same without, and beside SHA-1 alone."""

from __future__ import annotations

import base64
import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING

from aiotus_server.protocol import checksum

from ..client import Client
from ..source import GIB, MIB, start_of
from .base import (
    Bench,
    Scenario,
    Subject,
    Unsupported,
    Values,
    at_once,
    check,
    offers,
    throughput,
    warm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..source import Source

EACH = 4 * MIB
PIECES = 64
ALGORITHMS = ("sha1", "crc32c", "xxh3-128")


def measured(algorithm: str | None, connections: int) -> Callable[[Subject, Path, Bench], Values]:
    """Uploads of 256 MiB, each on a connection of its own; digests are made beforehand."""

    def measure(subject: Subject, folder: Path, bench: Bench) -> Values:
        pieces = bench.count(PIECES)
        with warm(subject, folder) as server:
            if algorithm and algorithm not in offers(server, "tus-checksum-algorithm"):
                raise Unsupported(f"no {algorithm}")
            clients = [Client(server.endpoint) for _ in range(connections)]
            paths = [client.create(EACH * pieces) for client in clients]
            works = []
            for number, (client, path) in enumerate(zip(clients, paths, strict=True)):
                headers = [
                    headers_of(bench.source, start_of(number) + piece * EACH, algorithm)
                    for piece in range(pieces)
                ]
                works.append(
                    partial(_append, client, path, bench.source, start_of(number), headers)
                )
            size = connections * EACH * pieces
            values = throughput(server, partial(at_once, works), size)
            for client in clients:
                client.socket.close()
            check(server, bench.source, paths, EACH * pieces)
            return values

    return measure


def headers_of(source: Source, start: int, algorithm: str | None) -> dict[str, str]:
    if algorithm is None:
        return {}
    hasher = checksum.algorithm(algorithm).new()
    for piece in source.pieces(start, EACH):
        hasher.update(piece)
    return {"Upload_Checksum": f"{algorithm} {base64.b64encode(hasher.digest()).decode()}"}


def _append(
    client: Client, path: str, source: Source, start: int, headers: Sequence[dict[str, str]]
) -> None:
    for number, fields in enumerate(headers):
        offset = number * EACH
        client.append(path, offset, source, start + offset, EACH, **fields)


def sha1_alone(folder: Path, bench: Bench) -> Values:
    """GB/s of one core that only hashes."""
    size = EACH * bench.count(PIECES)
    hasher = hashlib.sha1()
    pieces = list(bench.source.pieces(0, size))
    begun, cpu = time.perf_counter(), time.process_time()
    for piece in pieces:
        hasher.update(piece)
    seconds = time.perf_counter() - begun
    return {"value": size / seconds / 1e9, "cpu": time.process_time() - cpu, "gib": size / GIB}


def _scenario(algorithm: str | None, connections: int) -> Scenario:
    more = "" if connections == 1 else f"-{connections}"
    on = "1 connection" if connections == 1 else f"{connections} connections"
    alone = algorithm == "sha1"
    return Scenario(
        name=(algorithm or "plain") + more,
        title=f"PATCHes of 4 MiB {f'with {algorithm}' if algorithm else 'without checksum'}, {on}",
        unit="GB/s",
        group="checksums",
        measure=measured(algorithm, connections),
        limit=sha1_alone if alone else None,
        limit_title="SHA-1 alone on one core" if alone else "",
        charted=alone and connections == 1,
        beside=None if alone or algorithm is None else f"plain{more}",
    )


SCENARIOS = tuple(
    _scenario(algorithm, connections) for connections in (1, 4) for algorithm in (None, *ALGORITHMS)
)
