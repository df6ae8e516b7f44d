"""tus-js-client 4.3.1 on Node against the server: transfers that break, and go on where they
were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .programs import uploading
from .scene import METADATA, MIB, Scene, encoded

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("node_modules")]

OPTIONS: dict[str, Any] = {"metadata": METADATA, "retryDelays": [100] * 200}
IN_CHUNKS = {"chunkSize": 8 * MIB}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": IN_CHUNKS,
    "parallel": {"parallelUploads": 4},
    "with-creation": {"uploadDataDuringCreation": True, **IN_CHUNKS},
    # Of a file, 4.3.1 never declares the length when it sends chunks.
    "deferred": {"stream": True, "uploadLengthDeferred": True, **IN_CHUNKS},
    "overridden": {"overridePatchMethod": True},
}
CASES = [
    *((way, how) for way in ("whole", "chunks", "parallel") for how in ("cut", "hang", "kill")),
    *((way, how) for way in ("with-creation", "deferred") for how in ("cut", "kill")),
    ("overridden", "cut"),
    ("whole", "stop"),
]


@pytest.mark.parametrize(("way", "how"), CASES)
async def test_upload_resumes(scene: Scene, way: str, how: str) -> None:
    scene.interrupt(how)
    async with uploading(scene.url, scene.payload.path, {**OPTIONS, **WAYS[way]}) as client:
        url = (await client.output()).strip()
    await scene.verify(url, encoded(METADATA), uploads=5 if way == "parallel" else 1)


@pytest.mark.parametrize("way", ["whole", "parallel"])
async def test_second_client_resumes_what_the_first_remembered(
    scene: Scene, tmp_path: Path, way: str
) -> None:
    options = {**OPTIONS, **WAYS[way], "urlStorage": str(tmp_path / "urls.json")}
    first = uploading(scene.url, scene.payload.path, options)

    async def kill() -> None:
        first.kill()

    async with first:
        scene.interrupt_by(kill)
        await first.ended()
    async with uploading(scene.url, scene.payload.path, options) as second:
        url = (await second.output()).strip()
    await scene.verify(url, encoded(METADATA), uploads=5 if way == "parallel" else 1)
