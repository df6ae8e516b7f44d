"""aiotus 1.1.0 against the server: transfers that break, and go on where they were."""

from __future__ import annotations

import io

import aiotus
import pytest

from .scene import METADATA, MIB, Scene, encoded

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]

RETRY = aiotus.RetryConfiguration(retry_attempts=200, max_retry_period_seconds=0.1)
SENT = {"bare": None, **METADATA}
AS_BYTES = {key: None if value is None else value.encode() for key, value in SENT.items()}


DEFAULT, WHOLE = 4 * MIB, 1000 * MIB  # sizes of a PATCH


@pytest.mark.parametrize(
    ("chunksize", "how"),
    [
        *((DEFAULT, how) for how in ("cut", "hang", "kill", "stop")),
        *((WHOLE, how) for how in ("cut", "hang", "kill")),
    ],
)
async def test_upload_resumes(scene: Scene, chunksize: int, how: str) -> None:
    scene.interrupt(how)
    with scene.payload.path.open("rb") as file:
        url = await aiotus.upload(
            scene.url, file, metadata=AS_BYTES, config=RETRY, chunksize=chunksize
        )
    assert url is not None
    await scene.verify(str(url), encoded(SENT))
    # aiotus reads "note " as it reads "note".
    assert await aiotus.metadata(url) == {**AS_BYTES, "note": None}


@pytest.mark.parametrize("how", ["cut", "kill"])
async def test_parallel_upload_resumes(scene: Scene, how: str) -> None:
    scene.interrupt(how)
    data = scene.payload.path.read_bytes()
    parts = [io.BytesIO(data[start : start + 30 * MIB]) for start in range(0, len(data), 30 * MIB)]
    url = await aiotus.upload_multiple(
        scene.url, parts, metadata=AS_BYTES, config=RETRY, parallel_uploads=4
    )
    assert url is not None
    await scene.verify(str(url), encoded(SENT), uploads=len(parts) + 1)
