"""One upload, or one part of it, from its creation to its last byte."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from aiotus_server.protocol.checksum import algorithm

from .client import Body, Broken
from .http import Reply
from .plan import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .client import Client
    from .content import Content
    from .http import Connection
    from .plan import Dice, Plan

OCTETS = {"Content-Type": "application/offset+octet-stream"}
MISMATCH = 460
PASSING = frozenset({408, 409, 423, 425, 429, 460, *range(500, 600)})  # worth another try
HASHED_IN_THREAD = 256 * 1024  # bytes


class Failed(Exception):
    """The upload could not be brought to its end."""


class Wrong(Exception):
    """The server broke a promise: bytes, an offset or a refusal are not what they must be."""


class Transfer:
    """Brings the bytes ``begin`` to ``end`` of ``content`` to the server, as one upload of it.

    Whatever breaks, it asks for the offset and goes on; after ``plan.retries`` attempts in a
    row that came to nothing unasked, it raises Failed. Raises Wrong.
    """

    def __init__(
        self, plan: Plan, client: Client, dice: Dice, content: Content, begin: int, end: int
    ) -> None:
        self.url = ""
        self.offset = 0  # as the server has told; from ``begin``
        self.length = end - begin
        self._plan = plan
        self._client = client
        self._tally = client.tally
        self._dice = dice
        self._content = content
        self._begin = begin
        self._reached = 0  # the most that may have arrived
        self._body_end = 0  # of the last body with right bytes
        self._declared = not plan.defer_length  # the server knows the length
        self._attempts = 0
        self._cut_since: float | None = None
        self._silent: list[Connection] = []

    def share(self, url: str) -> None:
        """Instead of creating an upload, send to this one, which others send to as well."""
        self.url = url
        self._reached = self.length

    async def run(self, headers: Mapping[str, str]) -> None:
        """Create it, with these headers, and send everything."""
        try:
            await self._create(headers)
            while self.offset < self.length or not self._declared:
                await self._append()
        finally:
            for connection in self._silent:
                connection.close()

    # Creation

    async def _create(self, headers: Mapping[str, str]) -> None:
        length = {"Upload-Length": str(self.length)}
        fields = {**headers, **(length if self._declared else {"Upload-Defer-Length": "1"})}
        while not self.url:
            begun = time.perf_counter()
            outcome, fate = await self._try_to_create(fields)
            if isinstance(outcome, Broken) or outcome.status in PASSING - {MISMATCH}:
                self._tally.counts["abandoned"] += isinstance(outcome, Broken)
                await self._again(outcome)
            elif outcome.status in (201, MISMATCH) and "location" in outcome.headers:
                self._tally.times["create"].add(time.perf_counter() - begun)
                self._created(outcome, fate)
            elif outcome.status == MISMATCH and fate.wrong:
                self._tally.counts["refused checksums"] += 1  # and nothing was created
            else:
                raise Failed(f"creation was answered {outcome.says}")

    async def _try_to_create(self, fields: Mapping[str, str]) -> tuple[Reply | Broken, Fate]:
        size = min(self.length, self._plan.chunk or self.length)
        if not self._plan.with_upload or not size:
            return await self._client.request("POST", self._plan.url, fields), Fate()
        fate = self._dice.fate_of(size)
        checksum = await self._checksum(0, size)
        body = self._body(0, size, fate, checksum)
        fields = {**fields, **OCTETS, **self._announced(checksum)}
        return await self._client.request("POST", self._plan.url, fields, body), fate

    def _created(self, reply: Reply, fate: Fate) -> None:
        self.url = urljoin(self._plan.url, reply.headers["location"])
        if fate.wrong:
            self._refused(reply.status == MISMATCH)
            return
        self._reached = self._body_end = reply.sent
        if reply.sent:
            # "The Server MUST include the Upload-Offset header"; those that do not are asked.
            self._advance(reply.offset if reply.offset is not None else 0)

    # Appending

    async def _append(self) -> None:
        end = min(self.length, self.offset + (self._plan.chunk or self.length))
        fate = self._dice.fate_of(end - self.offset)
        checksum = await self._checksum(self.offset, end)
        fields = {**OCTETS, "Upload-Offset": str(self.offset), **self._announced(checksum)}
        if end == self.length and not self._declared:
            fields["Upload-Length"] = str(self.length)
        begun = time.perf_counter()
        body = self._body(self.offset, end, fate, checksum)
        outcome = await self._client.request("PATCH", self.url, fields, body)
        if not fate.wrong:
            self._reached = max(self._reached, self.offset + outcome.sent)
            self._body_end = end
        if isinstance(outcome, Reply) and outcome.status in (200, 204):
            self._tally.times["patch"].add(time.perf_counter() - begun)
            self._acknowledged(outcome, end, fate)
        elif isinstance(outcome, Reply) and outcome.status == MISMATCH and fate.wrong:
            self._refused(True)
            await self._ask()
        elif isinstance(outcome, Broken) or outcome.status in PASSING:
            await self._recover(outcome)
        else:
            raise Failed(f"PATCH was answered {outcome.says}")

    def _acknowledged(self, reply: Reply, end: int, fate: Fate) -> None:
        if fate.wrong:
            self._refused(False)
        if reply.offset is None:
            raise Failed("PATCH was answered without Upload-Offset")
        if reply.offset != end:
            raise Wrong(f"PATCH up to {end} was answered with Upload-Offset {reply.offset}")
        self._declared = self._declared or end == self.length
        self._advance(reply.offset)

    def _refused(self, refused: bool) -> None:
        if not refused:
            raise Wrong("a wrong checksum was accepted")
        self._tally.counts["refused checksums"] += 1

    def _advance(self, offset: int) -> None:
        """The server has told its offset."""
        if offset < self.offset:
            raise Wrong(f"the offset went back from {self.offset} to {offset}")
        if offset > self._reached:
            raise Wrong(f"the offset is {offset}, but only {self._reached} bytes were sent")
        if (
            self._plan.atomic
            and self._plan.checksum
            and offset not in (self.offset, self._body_end)
        ):
            raise Wrong(f"the offset is {offset}, within a body that had a checksum")
        if offset > self.offset:
            self._attempts = 0
        self._tally.counts["bytes"] += offset - self.offset
        self.offset = offset

    # When something broke

    async def _recover(self, outcome: Reply | Broken) -> None:
        if isinstance(outcome, Broken) and outcome.cut is not None:
            if outcome.silent is not None:
                self._silent.append(outcome.silent)
            self._cut_since = time.perf_counter()
        else:
            await self._again(outcome)
        await self._ask()
        if self._cut_since is not None:
            self._tally.times["resume"].add(time.perf_counter() - self._cut_since)
            self._cut_since = None

    async def _ask(self) -> None:
        """Until the server has told the offset."""
        while True:
            outcome = await self._client.request("HEAD", self.url)
            if isinstance(outcome, Reply) and outcome.status in (200, 204):
                if outcome.offset is None:
                    raise Failed("HEAD was answered without Upload-Offset")
                self._declared = self._declared or "upload-length" in outcome.headers
                self._advance(outcome.offset)
                return
            if isinstance(outcome, Reply) and outcome.status not in PASSING:
                raise Failed(f"HEAD was answered {outcome.says}")
            await self._again(outcome)

    async def _again(self, outcome: Reply | Broken) -> None:
        """Wait before the next attempt; raises Failed if this was one too many."""
        if isinstance(outcome, Broken) and outcome.cut is not None:
            if outcome.silent is not None:
                self._silent.append(outcome.silent)
            return
        self._attempts += 1
        self._tally.counts["retries"] += 1
        if self._attempts > self._plan.retries:
            why = outcome.says if isinstance(outcome, Reply) else outcome.why
            raise Failed(f"gave up after {self._attempts} attempts; the last: {why}")
        await asyncio.sleep(self._dice.pause(self._attempts))

    # Bodies

    def _body(self, begin: int, end: int, fate: Fate, checksum: str) -> Body:
        pieces = self._content.pieces(self._begin + begin, self._begin + end)
        if fate.wrong:
            pieces = _spoilt(pieces)
        trailer = f"Upload-Checksum: {checksum}\r\n".encode() if self._plan.trailer else b""
        return Body(end - begin, pieces, fate.cut, fate.cut_at, trailer)

    def _announced(self, checksum: str) -> dict[str, str]:
        if self._plan.trailer:
            return {"Trailer": "Upload-Checksum"}
        return {"Upload-Checksum": checksum} if checksum else {}

    async def _checksum(self, begin: int, end: int) -> str:
        """Empty if the plan has none."""
        name = self._plan.checksum
        if name is None:
            return ""
        if end - begin <= HASHED_IN_THREAD:
            digest = self._digest(name, begin, end)
        else:
            digest = await asyncio.to_thread(self._digest, name, begin, end)
        return f"{name} {base64.b64encode(digest).decode()}"

    def _digest(self, name: str, begin: int, end: int) -> bytes:
        hasher = algorithm(name).new()
        for piece in self._content.pieces(self._begin + begin, self._begin + end):
            hasher.update(piece)
        return hasher.digest()


def _spoilt(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """With another first byte."""
    first = bytearray(next(pieces))
    first[0] ^= 0xFF
    yield memoryview(first)
    yield from pieces
