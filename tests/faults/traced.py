"""``python -m tests.faults.traced FOLDER``: all scenarios in a server under FOLDER, without any
error. Prints what calls of the disk the fake one has seen, as JSON; for a tracer to compare."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from .disk import Disk
from .scenarios import SCENARIOS, scene_in


async def run(folder: Path, disk: Disk) -> None:
    async with scene_in(folder) as scene:
        for prepare in SCENARIOS.values():
            act = await prepare(scene)
            await act(scene)
    print(json.dumps(Counter(disk.disarm())))  # noqa: T201


def main() -> None:
    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(run(Path(sys.argv[1]), Disk(patch)))


if __name__ == "__main__":
    main()
