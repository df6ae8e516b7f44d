from __future__ import annotations

import hashlib
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from ..processes import server_process
from .programs import install_modules
from .proxy import proxying
from .scene import MIB, SIZE, Payload, Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Payload]:
    """A file of which no part is like another."""
    path = tmp_path_factory.mktemp("payload") / "payload.bin"
    numbers, digest = random.Random(SIZE), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, SIZE, MIB):
            piece = numbers.randbytes(min(MIB, SIZE - start))
            digest.update(piece)
            file.write(piece)
    yield Payload(path, digest.hexdigest())
    path.unlink()


@pytest.fixture
async def scene(tmp_path: Path, payload: Payload) -> AsyncIterator[Scene]:
    root = tmp_path / "uploads"
    async with server_process(root) as server, proxying(server.port) as proxy:
        yield Scene(server, proxy, payload)
    shutil.rmtree(root)  # pytest keeps the folders of several runs


@pytest.fixture(scope="session")
def node_modules() -> None:
    """tus-js-client, as locked. The first run fetches it."""
    install_modules()
