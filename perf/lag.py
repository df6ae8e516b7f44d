"""The event loop's lag while 50 uploads, a concatenation of 1 GiB and a sweep go on.

Against a bare aiohttp application that reads the same bodies and forgets them, in turn.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

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


def measure_ours() -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        abandon(Path(folder), DUE)
        with running("-m", "perf.subjects", "tus", "{port}", folder) as subject:
            parts = [upload(subject.port, PART_SIZE, Upload_Concat="partial") for _ in range(PARTS)]
            with ThreadPoolExecutor(UPLOADS + 2) as pool:
                joined = pool.submit(concatenate, subject.port, parts)
                swept = pool.submit(post, subject.port, "/sweep")
                uploads(subject, pool)
                joined.result()
                swept.result()
            result: dict[str, float] = json.loads(subject.stop())
            return result


def main() -> None:
    for _ in range(3):
        print("bare aiohttp ", measure_bare())  # noqa: T201
        print("aiotus_server", measure_ours())  # noqa: T201
