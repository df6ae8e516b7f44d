"""Runs inside the server: leaves a line for every finish event, which no kill can take back.

It is loaded as ``--hooks scripts.crashing.witness:hooks``. The bytes are read before the line is
written, so that there is some time in which the event can be lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aiotus_server import Hooks, Partial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiotus_server import HookEvent

VARIABLE = "CRASH_WITNESS"  # of the environment: the file
READ = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Told:
    """What the application was told of an upload, and what it found there."""

    upload_id: str
    key: str
    name: str
    length: int | None
    sha256: str
    partial: bool


def read(path: Path) -> Iterator[Told]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield Told(**json.loads(line))


hooks = Hooks()


@hooks.post_finish
async def tell(event: HookEvent) -> None:
    sha256 = hashlib.sha256()
    async with event.open() as file:
        while piece := await file.read(READ):
            sha256.update(piece)
    upload = event.upload
    told = Told(
        upload.upload_id,
        event.idempotency_key,
        (event.metadata.get("filename") or b"").decode(),
        upload.length,
        sha256.hexdigest(),
        isinstance(upload.concat, Partial),
    )
    _write(json.dumps(asdict(told)) + "\n")


def _write(line: str) -> None:
    """In one call, as long as the line is: it is there whole, or not at all."""
    fd = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
