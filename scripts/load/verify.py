"""What the server stored, compared with what was sent: by GET, or in a folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from .http import Reply
from .transfer import PASSING, Failed, Wrong

if TYPE_CHECKING:
    from .client import Client
    from .content import Content
    from .plan import Dice, Plan

READ = 1024 * 1024  # bytes


class Comparison:
    """Takes the stored bytes in pieces, in their order; never raises on the way."""

    def __init__(self, content: Content, length: int) -> None:
        self.length = length
        self.at = 0
        self.wrong_at: int | None = None
        self._content = content

    def take(self, data: bytes) -> None:
        if self.wrong_at is None:
            self.wrong_at = self._content.difference(self.at, data)
        self.at += len(data)

    def check(self) -> None:
        """Raises Wrong unless it was all of the upload, and nothing else."""
        if self.wrong_at is not None and self.wrong_at < self.length:
            raise Wrong(f"byte {self.wrong_at} is not what was sent")
        if self.at != self.length:
            raise Wrong(f"{self.at} bytes are stored instead of {self.length}")


async def check_head(plan: Plan, client: Client, url: str, length: int) -> None:
    """HEAD tells the offset, the length and the metadata. Raises Wrong, Failed."""
    reply = await _answer(plan, client, "HEAD", url)
    expected = {"upload-offset": str(length), "upload-length": str(length)}
    if plan.metadata_header:
        expected["upload-metadata"] = plan.metadata_header
    for name, value in expected.items():
        found = reply.headers.get(name)
        if name == "upload-metadata" and found is not None:
            found, value = (",".join(sorted(text.split(","))) for text in (found, value))  # noqa: PLW2901
        if found != value:
            raise Wrong(f"HEAD of the complete upload says {name}: {found} instead of {value}")


async def check_bytes(
    plan: Plan, client: Client, dice: Dice, url: str, content: Content, length: int
) -> None:
    """Raises Wrong, Failed."""
    if plan.folder is not None:
        await asyncio.to_thread(_compare_file, plan.folder, url, Comparison(content, length))
        return
    for attempt in range(plan.retries + 1):
        comparison = Comparison(content, length)
        outcome = await client.request("GET", url, sink=comparison.take)
        if isinstance(outcome, Reply) and outcome.status not in PASSING:
            if outcome.status != 200:
                raise Failed(
                    f"GET was answered {outcome.says}; "
                    "if this server has no GET, use --folder or --no-verify"
                )
            comparison.check()
            return
        await asyncio.sleep(dice.pause(attempt))
    raise Failed("GET did not succeed")


async def _answer(plan: Plan, client: Client, method: str, url: str) -> Reply:
    outcome = await client.request(method, url)
    for attempt in range(plan.retries):
        if isinstance(outcome, Reply) and outcome.status not in PASSING:
            break
        await asyncio.sleep(min(2.0, 0.05 * 2**attempt))
        outcome = await client.request(method, url)
    if not isinstance(outcome, Reply) or outcome.status not in (200, 204):
        why = outcome.says if isinstance(outcome, Reply) else outcome.why
        raise Failed(f"{method} of the complete upload was answered {why}")
    return outcome


def _compare_file(folder: Path, url: str, comparison: Comparison) -> None:
    path = find_file(folder, unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]))
    if path is None:
        raise Wrong(f"no file of this upload is in {folder}")
    with path.open("rb", buffering=0) as file:
        for data in iter(lambda: _read(file), b""):
            comparison.take(data)
    comparison.check()


def _read(file: BinaryIO | object) -> bytes:
    data: bytes = file.read(READ)  # type: ignore[union-attr]
    return data


def find_file(folder: Path, upload_id: str) -> Path | None:
    """The file called ``upload_id``, in the folder or anywhere below."""
    if upload_id in ("", ".", "..") or "/" in upload_id:
        return None
    for path in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        if (path / upload_id).is_file():
            return path / upload_id
    for root, _, names in os.walk(folder):
        if upload_id in names:
            return Path(root, upload_id)
    return None
