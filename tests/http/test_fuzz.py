"""Any bytes on a connection: a 4xx or a close, never a 5xx, never a lock that is left.

``scripts/fuzz.py`` does the same in large, against the bundled server as a process. The seeds
that are drawn here stand in the message of what fails.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Expiry, Options
from scripts.fuzzing import log
from scripts.fuzzing.folder import Folder
from scripts.fuzzing.fuzz import Fuzz

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Serve

OPTIONS = Options(
    read_timeout=timedelta(seconds=1),
    lock_timeout=timedelta(seconds=2),
    expiry=Expiry(timedelta(hours=1)),
    direct_from=16 * 1024,
)
REQUESTS = 250  # for each of two seeds, two loops and two data paths
SEEDS = {"fixed": 20_000, "random": random.randrange(10**6)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "uploads")
    folder.lay()
    return folder


@contextmanager
def written() -> Iterator[io.StringIO]:
    """All that is logged meanwhile, as the bundled server writes it."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.timeout(120)
@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
@pytest.mark.parametrize("seed", list(SEEDS.values()), ids=list(SEEDS))
async def test_nothing_that_is_sent_does_harm(serve: Serve, folder: Folder, seed: int) -> None:
    with written() as lines:
        site = await serve(DiskStore(folder.root, durability="none"), options=OPTIONS)
        fuzz = Fuzz(("127.0.0.1", site.port), "/files", seed=seed, lanes=32, folder=folder)
        await fuzz.begin()
        before = descriptors()
        await fuzz.attack(range(REQUESTS))
        await fuzz.end()
        for _ in range(100):
            if descriptors() <= before:
                break
            await asyncio.sleep(0.05)
    found = [str(finding) for finding in fuzz.ledger.findings]
    found += log.complaints(lines.getvalue().splitlines())
    assert found == [], f"seed {seed}: {found}"
    assert descriptors() <= before
    assert sum(fuzz.ledger.kinds.values()) == REQUESTS
    assert fuzz.ledger.statuses[204] > REQUESTS // 20
    assert fuzz.ledger.statuses[400] > REQUESTS // 20
