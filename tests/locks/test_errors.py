"""What the lock file's calls may fail with: nobody is left with a lock, or without one for good."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore
from aiotus_server.locks import FileLocker, Purpose, file
from aiotus_server.protocol.errors import StoreFailed, StoreUnavailable, UploadLocked

from ..http.client import DataPath, serving
from .requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

APPEND = Purpose.APPEND
PROMPT = 5.0  # seconds
FAILURES = {errno.ENOLCK: StoreFailed, errno.EIO: StoreFailed, errno.EMFILE: StoreUnavailable}


class Faults:
    """Of the calls for the lock file, the ``call``-th fails from ``arm`` on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._only: str | None = None
        self._call: int | None = None
        self._errno = 0
        for module, name in ((fcntl, "fcntl"), (os, "pread"), (os, "pwrite"), (os, "open")):
            patch.setattr(module, name, self._guarded(name, getattr(module, name)))

    def arm(self, call: int, number: int, *, only: str | None = None) -> None:
        self.calls, self._call, self._errno, self._only = [], call, number, only

    def disarm(self) -> int:
        self._call = None
        return len(self.calls)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._call is not None and self._only in (None, name):
                self.calls.append(name)
                if len(self.calls) == self._call + 1:
                    raise OSError(self._errno, os.strerror(self._errno))
            return function(*args, **kwargs)

        return guarded


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr(file, "RETRY", 0.02)
    return Faults(monkeypatch)


async def alone(lockers: list[FileLocker]) -> None:
    async with lockers[0].lock("a", APPEND, wait=0.1):
        pass


async def both(lockers: list[FileLocker]) -> None:
    """One asks while the other holds."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lockers[0].lock("a", APPEND, wait=0.1))
        waiting = Request(lockers[1], wait=0.1)
        waiting.over.set()
        await asyncio.wait([waiting.task], timeout=0.01)
        await stack.aclose()
        await waiting.task


@pytest.mark.parametrize("use", [alone, both])
@pytest.mark.parametrize("number", FAILURES, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_any_call_may_fail(
    tmp_path: Path, faults: Faults, use: Callable[..., Any], number: int, known: bool
) -> None:
    """``known``: the lockers have met before."""
    for call in range(60):
        lockers = [FileLocker(tmp_path / str(call)) for _ in range(2)]
        if known:
            await both(lockers)
        faults.arm(call, number)
        with suppress(UploadLocked, FAILURES[number]):
            await use(lockers)
        calls = faults.disarm()
        for locker in lockers:
            async with asyncio.timeout(PROMPT), locker.lock("a", APPEND, wait=PROMPT):
                pass
        if calls <= call:
            break
    assert call > 1
    assert calls <= call


async def test_what_clients_are_told(tmp_path: Path, faults: Faults) -> None:
    """As of other errors of the disk; HEAD is not answered. Whose lock could not be released is
    answered as if it had been."""
    store = DiskStore(tmp_path / "uploads")
    locker = FileLocker(tmp_path)
    async with serving(store, data_path=DataPath.AS_SET, locker=locker) as site:
        path = await site.create(5)
        for call in range(2):
            faults.arm(call, errno.ENOLCK, only="fcntl")
            with suppress(asyncio.IncompleteReadError):
                assert (await site.head(path)).status == 200
                assert call == 1
        faults.arm(0, errno.ENOLCK, only="fcntl")
        reply = await site.patch(path, 0, b"he")
        assert (reply.status, reply.code) == (500, "STORE_FAILED")
        faults.arm(1, errno.ENOLCK, only="fcntl")
        assert (await site.patch(path, 0, b"he")).status == 204
        faults.disarm()
        assert (await site.patch(path, 2, b"llo")).status == 204
        await site.routes.server.stop()
