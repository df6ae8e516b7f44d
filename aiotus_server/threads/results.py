"""What a thread has done, on its way back to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Result(asyncio.Future[Any]):
    """Cannot be cancelled: a thread's file operation goes on, and whoever waits for it holds
    the descriptor and the lock until it is over. A cancelled task learns of it afterwards."""

    def cancel(self, msg: object = None) -> bool:
        return False


Job = tuple["Mailbox", Result, Callable[..., Any], tuple[Any, ...]]


class Mailbox:
    """Results on their way to one event loop, one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[Result, Any, BaseException | None]] = deque()
        self._awaited = False

    def put(self, future: Result, result: Any, error: BaseException | None) -> None:
        self._results.append((future, result, error))

    def announce(self) -> None:
        """Have the loop deliver what was put in."""
        if not self._awaited:
            self._awaited = True
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                self.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        self._awaited = False
        while self._results:
            future, result, error = self._results.popleft()
            if isinstance(error, StopIteration):
                # A future refuses it, since a coroutine could not raise it either.
                error = RuntimeError("a function in a thread raised StopIteration")
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def do(job: Job) -> None:
    """One job. Nothing of it is kept alive afterwards but its result, until it is delivered."""
    mailbox, future, function, args = job
    result: Any = None
    error: BaseException | None = None
    try:
        result = function(*args)
    except BaseException as caught:
        error = caught
    mailbox.put(future, result, error)
    del error  # it refers to this frame
