"""The clients: a crowd that uploads whatever comes to its mind, or one of them alone.

In a crowd somebody's flush is always near, and on a journaling file system it takes with it what
others have forgotten to flush. Alone, a client shows what the server has flushed for it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from .kinds import BULK, CHECKED, CHUNKED, DEFERRED, EMPTY, PLAIN, WHOLE, Kind
from .sender import Refused, Sender, Setting
from .uploader import PAUSES, Uploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .kernel import Kernel
    from .ledger import Entry

CLIENTS = 10
KEPT = 120  # uploads; beyond them others are deleted
CONCATENATION = "concatenation"
WEIGHTS: dict[Kind | str, int] = {
    PLAIN: 5,
    BULK: 1,
    CHUNKED: 2,
    CHECKED: 5,
    WHOLE: 3,
    DEFERRED: 3,
    EMPTY: 1,
    CONCATENATION: 3,
}


class Crowd:
    """Clients of one server. What it must not answer is in ``troubles``."""

    def __init__(self, setting: Setting, kernel: Kernel) -> None:
        self.troubles: list[str] = []
        self._setting = setting
        self._ledger = setting.ledger
        self._dice = setting.dice
        self._kernel = kernel
        self._open = asyncio.Event()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._large = asyncio.Lock()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While the block runs, except for pauses."""
        self._open.set()
        tasks = [asyncio.create_task(self._work()) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No request is under way while the block runs."""
        self._open.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._open.set()

    async def alone(self, kind: Kind | str, *, delete: bool = False, hasty: bool = True) -> None:
        """One upload of this kind, and its deletion, while all others are paused.

        For a hasty one the kernel rests: it has its time between two requests.
        """
        turn = self._stirred if hasty else self._at_once
        sender = Sender(self._setting, turn)
        uploader = Uploader(self._setting, sender, hasty=hasty)
        try:
            with self._noting_troubles():
                entry = await _one(uploader, kind)
                if delete:
                    await uploader.delete(entry)
        finally:
            sender.close()

    # One of the crowd

    async def _work(self) -> None:
        sender = Sender(self._setting, self._turn)
        uploader = Uploader(self._setting, sender, hasty=False)
        try:
            while True:
                with self._noting_troubles():
                    await self._upload(uploader)
                    await self._make_room(uploader)
                sender.hang_up()
                await asyncio.sleep(self._dice.choice(PAUSES))
        finally:
            sender.close()

    async def _upload(self, uploader: Uploader) -> None:
        kind = self._dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind is BULK:
            async with self._large:  # two at once would only fill the disk sooner
                await _one(uploader, kind)
        else:
            await _one(uploader, kind)

    async def _make_room(self, uploader: Uploader) -> None:
        """Delete uploads of any age, so that there are never too many to be checked."""
        idle = [entry for entry in self._ledger.live.values() if _can_go(entry)]
        for entry in self._dice.sample(idle, max(0, min(3, len(idle) - KEPT))):
            if _can_go(entry):
                await uploader.delete(entry)

    @contextmanager
    def _noting_troubles(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            self.troubles.append(str(error))

    # Turns

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        while not self._open.is_set():  # it may be cleared again before this task's turn
            await self._open.wait()
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    @asynccontextmanager
    async def _at_once(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def _stirred(self) -> AsyncIterator[None]:
        """As if some time had gone by since the last request."""
        if self._dice.random() < 0.5:
            await asyncio.to_thread(self._kernel.stir)
        yield


async def _one(uploader: Uploader, kind: Kind | str) -> Entry:
    return await (uploader.upload(kind) if isinstance(kind, Kind) else uploader.concatenate())


def _can_go(entry: Entry) -> bool:
    return bool(entry.path) and not entry.busy and not entry.deleting
