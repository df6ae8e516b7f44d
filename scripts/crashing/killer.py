"""Kills a server at random instants, in all the ways in which its processes can die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.soaking.process import Trouble

if TYPE_CHECKING:
    from random import Random

    from scripts.soaking.process import Server

LONGEST_LIFE = 0.6  # seconds in which it accepts connections
LONGEST_START = 1.2  # seconds after which it is killed in a start
ORPHANED = 15.0  # seconds in which workers end whose supervisor has gone
PAUSE = 0.02  # seconds


class Way(Enum):
    ALL = "all processes"
    START = "all processes, in a start"
    WORKER = "one worker"
    SUPERVISOR = "the supervisor alone"


class Killer:
    """``server`` may run or not; chance says when it is killed, and how."""

    def __init__(self, server: Server, dice: Random) -> None:
        self._server = server
        self._dice = dice

    async def kill(self) -> Way:
        """Once; afterwards the server runs only if a worker was killed. Raises Trouble if it does
        not start, or if it does not end."""
        if not self._server.running:
            if self._dice.random() < 0.15:
                return await self._in_a_start()
            await self._server.start()
        way = self._dice.choice([Way.ALL, Way.WORKER, Way.WORKER, Way.SUPERVISOR])
        if way is Way.ALL or not self._server.workers():
            await self._live()
            await self._server.kill()
            return Way.ALL
        await self._until_announced()  # before that, the end of one worker ends all
        await self._live()
        workers = self._server.workers()
        if way is Way.SUPERVISOR:
            await self._supervisor(workers)
        elif workers:
            with suppress(ProcessLookupError):
                os.kill(self._dice.choice(workers), signal.SIGKILL)
        return way

    async def _live(self) -> None:
        await asyncio.sleep(self._dice.uniform(0, LONGEST_LIFE))
        self._server.check()

    async def _until_announced(self) -> None:
        while not self._server.announced:
            self._server.check()
            await asyncio.sleep(PAUSE)

    async def _in_a_start(self) -> Way:
        self._server.launch()
        await asyncio.sleep(self._dice.uniform(0, LONGEST_START))
        await self._server.kill()
        return Way.START

    async def _supervisor(self, workers: list[int]) -> None:
        """Its workers end by themselves, as in a stop."""
        await self._server.kill_first()
        deadline = time.monotonic() + ORPHANED
        while any(map(_lives, workers)):
            if time.monotonic() > deadline:
                raise Trouble(f"workers live on {ORPHANED} s after their supervisor")
            await asyncio.sleep(PAUSE)
        await self._server.kill()


def _lives(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False
