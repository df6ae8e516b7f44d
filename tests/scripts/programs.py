"""The scripts as programs, run to their end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 50  # seconds


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    summary: dict[str, Any] = field(default_factory=dict)


async def begun(
    script: str, *arguments: str, folder: Path, path: Path | None = None
) -> asyncio.subprocess.Process:
    """Started in ``folder``, with the modules in ``path``."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(REPOSITORY / "scripts" / script),
        *arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path or "")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, *, patience: float = PATIENCE) -> Result:
    try:
        async with asyncio.timeout(patience):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def load_test(url: str, *arguments: str, folder: Path) -> Result:
    """With its summary as JSON, if it wrote one."""
    json_file = folder / "summary.json"
    json_file.unlink(missing_ok=True)
    options = ["--json", str(json_file), *arguments]
    result = await ended(await begun("load_test.py", url, *options, folder=folder))
    if json_file.exists():
        result.summary.update(json.loads(json_file.read_text()))
    return result
