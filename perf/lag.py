"""The event loop's lag while 50 uploads, a concatenation of 1 GiB and a sweep go on.

Against a bare aiohttp application that reads the same bodies and forgets them, in turn.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiotus_server.protocol.uploads import Upload
from aiotus_server.stores import infofile
from aiotus_server.stores.journal import ExpiryJournal
from aiotus_server.stores.layout import Layout

from .load import MIB, connect, create, reply, upload
from .processes import Subject, running

UPLOADS = 50
SIZE = 20 * MIB
PARTS = 8
PART_SIZE = 128 * MIB
DUE = 2000


def abandon(folder: Path, count: int) -> None:
    """Uploads that have expired, as a server long ago left them."""
    layout = Layout(folder, shared=False)
    expires = datetime.now(UTC) - timedelta(hours=1)
    for number in range(count):
        upload_id = f"abandoned-{number}"
        layout.make_shard(upload_id)
        path = layout.path(upload_id)
        upload = Upload(upload_id, 0, 10, expires - timedelta(hours=1), expires=expires)
        path.write_bytes(b"12345")
        path.with_name(f"{upload_id}.info").write_bytes(infofile.encode(upload))
        ExpiryJournal(layout.fd).add(upload_id, expires.timestamp())
    layout.close()


def post(port: int, path: str) -> int:
    with connect(port) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return reply(connection)[0]


def concatenate(port: int, parts: list[str]) -> None:
    with connect(port) as connection:
        create(connection, -1, Upload_Concat=f"final;{' '.join(parts)}")


def uploads(subject: Subject, pool: ThreadPoolExecutor) -> None:
    list(pool.map(lambda _: upload(subject.port, SIZE), range(UPLOADS)))


def measure_bare() -> dict[str, float]:
    with running("-m", "perf.subjects", "bare", "{port}") as subject:
        with ThreadPoolExecutor(UPLOADS) as pool:
            uploads(subject, pool)
        result: dict[str, float] = json.loads(subject.stop())
        return result


def measure_ours(*what: str) -> dict[str, float]:
    """The lag while ``what`` goes on at once: uploads, concatenation, sweep."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        abandon(Path(folder), DUE)
        with running("-m", "perf.subjects", "tus", "{port}", folder) as subject:
            parts = []
            if "concatenation" in what:
                parts = [
                    upload(subject.port, PART_SIZE, Upload_Concat="partial") for _ in range(PARTS)
                ]
            with ThreadPoolExecutor(UPLOADS) as senders, ThreadPoolExecutor(2) as others:
                under_way: list[Future[Any]] = []
                if "concatenation" in what:
                    under_way.append(others.submit(concatenate, subject.port, parts))
                if "sweep" in what:
                    under_way.append(others.submit(post, subject.port, "/sweep"))
                if "uploads" in what:
                    uploads(subject, senders)
                for work in under_way:
                    work.result()
            result: dict[str, float] = json.loads(subject.stop())
            return result


def main() -> None:
    everything = ("uploads", "concatenation", "sweep")
    for _ in range(3):
        print("bare aiohttp, uploads", measure_bare())  # noqa: T201
        for what in (everything, *((one,) for one in everything)):
            print("aiotus_server,", " + ".join(what), measure_ours(*what))  # noqa: T201
