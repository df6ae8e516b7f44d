"""A server in a process of its own, a proxy in front of it, and a file to be uploaded."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from ..http.client import TUS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from ..processes import ServerProcess
    from .proxy import Proxy

MIB = 1024 * 1024
SIZE = 100 * MIB + 4_321
# An upload that started again from nothing would send 1.66 times the file.
CUT_AT = 66 * MIB + 1_234
# A hung connection is not waited for: the server's read timeout is 60 s.
PROMPT = 15  # seconds

METADATA = {
    "filename": "Grüße, 你好 №1.bin",
    "note": "",
    "filetype": "application/x-resumed",
}


@dataclass(frozen=True)
class Payload:
    """The file that is uploaded."""

    path: Path
    sha256: str
    size: int = SIZE


def encoded(metadata: Mapping[str, str | None]) -> str:
    """The Upload-Metadata header that clients make of ``metadata``; None has no value."""
    return ",".join(
        key if value is None else f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in metadata.items()
    )


@dataclass
class Scene:
    """``url`` is where the clients create uploads: behind the proxy."""

    server: ServerProcess
    proxy: Proxy
    payload: Payload
    fault: asyncio.Future[None] | None = None
    struck_at: float = 0
    hung: bool = False

    @property
    def url(self) -> str:
        return self.proxy.url

    def interrupt(self, how: str) -> asyncio.Future[None]:
        """Have the transfer break two thirds through, as ``how`` says:

        ``cut``: the connections are reset on both sides.
        ``hang``: on the client's side only; to the server they stay open and silent.
        ``kill``: the server is killed, and comes back.
        ``stop``: the server is asked to stop, and comes back.

        The result is done when that has happened.
        """
        if how == "cut":
            return self._await_fault(self.proxy.cut_at(CUT_AT))
        if how == "hang":
            self.hung = True
            return self._await_fault(self.proxy.hang_at(CUT_AT))
        return self.interrupt_by({"kill": self._kill, "stop": self._stop}[how])

    def interrupt_by(self, action: Callable[[], Awaitable[None]]) -> asyncio.Future[None]:
        """The same, with an ``action`` of the test's."""
        return self._await_fault(self.proxy.call_at(CUT_AT, action))

    def corrupt(self) -> asyncio.Future[None]:
        """Turn a bit over on the way."""
        return self._await_fault(self.proxy.corrupt_at(CUT_AT))

    def _await_fault(self, fault: asyncio.Future[None]) -> asyncio.Future[None]:
        self.fault = fault
        fault.add_done_callback(self._struck)
        return fault

    def _struck(self, fault: asyncio.Future[None]) -> None:
        self.struck_at = time.monotonic()

    async def _kill(self) -> None:
        await self.server.kill()
        await self.server.start()

    async def _stop(self) -> None:
        assert await self.server.terminate() == 0
        await self.server.start()

    async def verify(self, url: str, metadata: str, *, uploads: int = 1) -> None:
        """The upload at ``url`` was interrupted, and resumed; it has the right bytes and
        ``metadata`` (a header's text). The server holds ``uploads`` in all, and has not
        stumbled."""
        self.verify_resumed()
        await self.verify_stored(url, metadata, uploads=uploads)

    def verify_resumed(self) -> None:
        assert self.fault is not None
        assert self.fault.done(), f"nothing went wrong in {self.proxy.sent} bytes"
        self.fault.result()
        assert self.payload.size <= self.proxy.sent < 1.5 * self.payload.size
        elapsed = time.monotonic() - self.struck_at
        assert elapsed < PROMPT, f"it took {elapsed:.1f} s to resume"
        if self.hung:
            # The request on the old connection had to give way, and is told.
            unheard = [link.unheard for link in self.proxy.links]
            assert any(b"HTTP/1.1 423 " in answer for answer in unheard), unheard

    async def verify_stored(self, url: str, metadata: str, *, uploads: int = 1) -> None:
        upload_id = url.rpartition("/")[2]
        own_url = self.server.url + upload_id
        async with aiohttp.ClientSession() as session:
            async with session.head(own_url, headers=TUS) as head:
                assert head.status == 200
                assert head.headers["Upload-Offset"] == str(self.payload.size)
                assert head.headers["Upload-Length"] == str(self.payload.size)
                assert head.headers.get("Upload-Metadata", "") == metadata
            async with session.get(own_url) as got:
                assert got.status == 200
                digest = hashlib.sha256()
                async for piece in got.content.iter_chunked(MIB):
                    digest.update(piece)
        assert digest.hexdigest() == self.payload.sha256
        assert await asyncio.to_thread(_sha256_of, self._file(upload_id)) == self.payload.sha256
        assert len(list(self.server.root.glob("??/*.info"))) == uploads
        assert "Traceback" not in self.server.log, self.server.log

    def _file(self, upload_id: str) -> Path:
        (path,) = self.server.root.glob(f"??/{upload_id}")
        return path


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
