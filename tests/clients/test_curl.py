"""curl against the server, as people use it from scripts: every way in which it sends a file,
broken off and taken up again at the offset that HEAD tells."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from .programs import Program, program
from .scene import METADATA, Scene, encoded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

PATCH = ["-X", "PATCH", "-H", "Content-Type: application/offset+octet-stream"]
# What curl ends with when a connection breaks.
BROKEN = (
    52,  # empty reply
    55,  # cannot send
    56,  # cannot receive
)


def curl(*arguments: str | Path) -> Program:
    return Program(program("curl"), "-sS", "-i", "-H", "Tus-Resumable: 1.0.0", *arguments)


def field(response: str, name: str) -> str:
    """The value of a header in what ``curl -i`` printed."""
    for line in response.splitlines():
        key, _, value = line.partition(": ")
        if key.lower() == name.lower():
            return value
    raise AssertionError(f"no {name} in {response}")


async def create(scene: Scene) -> str:
    length = f"Upload-Length: {scene.payload.size}"
    metadata = f"Upload-Metadata: {encoded(METADATA)}"
    async with curl("-X", "POST", "-H", length, "-H", metadata, scene.url) as creating:
        return field(await creating.output(), "Location")


async def offset_of(url: str) -> int:
    async with curl("--head", url) as asking:
        return int(field(await asking.output(), "Upload-Offset"))


def sending(url: str, offset: int, *how: str | Path) -> Program:
    return curl(*PATCH, "-H", f"Upload-Offset: {offset}", *how, url)


def plain(scene: Scene, rest: Path, offset: int) -> list[str | Path]:
    """-T, with curl's own way of beginning in mid-file."""
    return ["-T", scene.payload.path, "-C", str(offset)]


def data_binary(scene: Scene, rest: Path, offset: int) -> list[str | Path]:
    return ["--data-binary", f"@{rest}"]


def chunked(scene: Scene, rest: Path, offset: int) -> list[str | Path]:
    return ["-T", rest, "-H", "Transfer-Encoding: chunked"]


@pytest.mark.parametrize("way", [plain, data_binary, chunked])
@pytest.mark.parametrize("how", ["cut", "hang", "kill"])
async def test_upload_resumes(
    scene: Scene, tmp_path: Path, how: str, way: Callable[[Scene, Path, int], list[str | Path]]
) -> None:
    url = await create(scene)
    fault = scene.interrupt(how)
    async with sending(url, 0, *way(scene, scene.payload.path, 0)) as first:
        code, _, errors = await first.ended()
        assert code in BROKEN, errors
    await fault
    offset = await offset_of(url)
    rest = tmp_path / "rest"
    write_rest(scene.payload.path, offset, rest)
    async with sending(url, offset, *way(scene, rest, offset)) as second:
        response = await second.output()
    rest.unlink()
    assert "HTTP/1.1 204" in response
    assert field(response, "Upload-Offset") == str(scene.payload.size)
    await scene.verify(url, encoded(METADATA))


def write_rest(path: Path, offset: int, rest: Path) -> None:
    with path.open("rb") as source, rest.open("wb") as target:
        source.seek(offset)
        shutil.copyfileobj(source, target, 1024 * 1024)
