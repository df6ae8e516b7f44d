"""tuspy 1.1.0 (the module tusclient) against the server: transfers that break, and go on where
they were. Its requests block: it runs in a thread, the proxy in the test's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusUploadFailed

from .scene import METADATA, MIB, Scene, encoded

if TYPE_CHECKING:
    from typing import BinaryIO

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]

WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": {"chunk_size": 8 * MIB},
    "checksums": {"chunk_size": 8 * MIB, "upload_checksum": True},
}
CASES = [
    *(("whole", how) for how in ("cut", "hang", "kill", "stop")),
    *(("chunks", how) for how in ("cut", "kill")),
    *(("checksums", how) for how in ("cut", "hang", "kill", "stop")),
]


def settings(file: BinaryIO, **more: Any) -> dict[str, Any]:
    retry = {"retries": 200, "retry_delay": 0.1}
    return {"file_stream": file, "metadata": METADATA, **retry, **more}


@pytest.mark.parametrize(("way", "how"), CASES)
async def test_upload_resumes(scene: Scene, way: str, how: str) -> None:
    scene.interrupt(how)
    with scene.payload.path.open("rb") as file:
        uploader = TusClient(scene.url).uploader(**settings(file, **WAYS[way]))
        await asyncio.to_thread(uploader.upload)
    await scene.verify(str(uploader.url), encoded(METADATA))


@pytest.mark.parametrize("how", ["cut", "kill"])
async def test_asynchronous_upload_resumes(scene: Scene, how: str) -> None:
    scene.interrupt(how)
    with scene.payload.path.open("rb") as file:
        uploader = TusClient(scene.url).async_uploader(**settings(file, **WAYS["chunks"]))
        # Its HEAD blocks the loop that it runs in.
        await asyncio.to_thread(asyncio.run, uploader.upload())
    await scene.verify(str(uploader.url), encoded(METADATA))


async def test_second_client_resumes_at_the_url_of_the_first(scene: Scene) -> None:
    scene.interrupt("cut")
    with scene.payload.path.open("rb") as file:
        uploader = TusClient(scene.url).uploader(**settings(file, retries=0))
        with pytest.raises(TusUploadFailed):
            await asyncio.to_thread(uploader.upload)
    with scene.payload.path.open("rb") as file:
        options = settings(file, url=uploader.url)
        uploader = await asyncio.to_thread(TusClient(scene.url).uploader, **options)
        assert uploader.offset > scene.payload.size // 2
        await asyncio.to_thread(uploader.upload)
    await scene.verify(str(uploader.url), encoded(METADATA))


async def test_bytes_damaged_on_the_way_are_sent_again(scene: Scene) -> None:
    scene.corrupt()
    with scene.payload.path.open("rb") as file:
        uploader = TusClient(scene.url).uploader(**settings(file, **WAYS["checksums"]))
        await asyncio.to_thread(uploader.upload)
    await scene.verify(str(uploader.url), encoded(METADATA))
    # One chunk went twice.
    assert scene.proxy.sent > scene.payload.size + 8 * MIB
