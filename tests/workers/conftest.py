from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from .servers import Program

if TYPE_CHECKING:
    from pathlib import Path

Start = Callable[..., Awaitable[Program]]


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Callable[[], Program]]:
    """Makes servers in ``tmp_path``, which end with the test."""
    made: list[Program] = []

    def make() -> Program:
        made.append(Program(tmp_path))
        return made[-1]

    yield make
    for program in made:
        await program.aclose()


@pytest.fixture
def start(programs: Callable[[], Program]) -> Start:
    """Start a server and wait until it accepts connections."""

    async def start(*arguments: str, under: tuple[str, ...] = ()) -> Program:
        program = programs()
        await program.start(*arguments, under=under)
        return program

    return start


@pytest.fixture
def launch(programs: Callable[[], Program]) -> Start:
    """Run a server that is expected to end, and wait for nothing."""

    async def launch(*arguments: str) -> Program:
        program = programs()
        await program.launch(*arguments)
        return program

    return launch
