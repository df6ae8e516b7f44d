"""Processes that a test starts, speaks with, stops and kills."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .requests import LONG

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import Self

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 30  # seconds for a start on a busy machine


class Neighbour:
    """``holder`` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: list[str] = []
        self._more = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())
        self._names = itertools.count(1)
        self.pid = process.pid

    @classmethod
    async def start(
        cls, directory: Path, loop: str = "asyncio", *, prefix: Sequence[str] = ()
    ) -> Self:
        """Afterwards it listens to commands. ``prefix`` is a command that runs others."""
        command = [*prefix, sys.executable, "-m", "tests.locks.holder", str(directory), loop]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        neighbour = cls(process)
        await neighbour.until("ready", seconds=PATIENCE)
        return neighbour

    def ask(
        self,
        *,
        upload_id: str = "a",
        purpose: str = "append",
        wait: float = LONG,
        declines: Sequence[str] = (),
    ) -> str:
        """Let it want a lock: the name under which it speaks of that."""
        name = f"request-{next(self._names)}"
        self._tell("lock", name, upload_id, purpose, str(wait), *declines)
        return name

    async def hold(self, upload_id: str = "a", *, declines: Sequence[str] = ()) -> str:
        """Let it take a lock; afterwards it has it."""
        name = self.ask(upload_id=upload_id, declines=declines)
        await self.until(f"{name} held")
        return name

    def let_go(self, name: str) -> None:
        self._tell("unlock", name)

    async def fork(self) -> int:
        self._tell("fork")
        return int((await self.until("child ")).split()[1])

    async def until(self, start: str, *, seconds: float = LONG) -> str:
        """The first line that it says, or has said, that starts so."""
        async with asyncio.timeout(seconds):
            while not (lines := [line for line in self._said if line.startswith(start)]):
                assert not self._listening.done(), f"it ended, having said {self._said}"
                self._more.clear()
                await self._more.wait()
        return lines[0]

    def said(self, start: str) -> list[str]:
        return [line for line in self._said if line.startswith(start)]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wakings(self) -> int:
        """How often it has gone to sleep so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening

    def _tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(words) + "\n").encode())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._said.append(line.decode().strip())
            self._more.set()
        self._more.set()


class Neighbourhood:
    """Starts processes on one directory, and ends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = AsyncExitStack()

    async def start(self, *loops: str, prefix: Sequence[str] = ()) -> list[Neighbour]:
        started = await asyncio.gather(
            *(Neighbour.start(self.directory, loop, prefix=prefix) for loop in loops)
        )
        for neighbour in started:
            self._stack.push_async_callback(neighbour.kill)
        return started

    async def close(self) -> None:
        await self._stack.aclose()
