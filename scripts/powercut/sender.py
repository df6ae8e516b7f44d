"""Requests for the uploads of a load, each noted in the ledger as soon as it is answered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from scripts.load.client import Body, Broken, Client
from scripts.load.http import Reply
from scripts.load.transfer import OCTETS

from .ledger import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from random import Random

    from scripts.load.http import Connection
    from scripts.load.tally import Tally

    from .kinds import Step
    from .ledger import Entry, Ledger

TIMEOUT = 30.0  # seconds
ATTEMPTS = 40  # of a HEAD
PAUSE = 0.05  # seconds between them
MISMATCH = 460
NO_HEADERS: Mapping[str, str] = {}


class Refused(Exception):
    """The server gave an answer that it must not give, or none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all clients have in common: the server at ``url``, which has the extensions in
    ``offer``, their books, and chance."""

    url: str
    tally: Tally
    ledger: Ledger
    dice: Random
    offer: frozenset[str] = frozenset()


class Sender:
    """One request at a time, each within ``turn()``. All methods raise Refused."""

    def __init__(
        self, setting: Setting, turn: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._url = setting.url
        self._ledger = setting.ledger
        self._turn = turn
        self._plain = Client(setting.tally, timeout=TIMEOUT)
        self._chunked = Client(setting.tally, timeout=TIMEOUT, chunked=True)
        self._silent: list[Connection] = []

    def close(self) -> None:
        self._plain.close()
        self._chunked.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connections that have gone silent."""
        while self._silent:
            self._silent.pop().close()

    # The verbs

    async def discover(self) -> frozenset[str]:
        """The extensions that the server offers."""
        outcome = await self._plain.request("OPTIONS", self._url)
        if not isinstance(outcome, Reply) or "tus-version" not in outcome.headers:
            raise Refused(f"{self._url} is no tus server")
        words = outcome.headers.get("tus-extension", "").split(",")
        return frozenset(word.strip() for word in words)

    async def create(
        self, entry: Entry, first: Step | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """With the bytes of ``first``, which is not broken off."""
        length = {"Upload-Length": str(entry.length)} if entry.declared else {}
        fields = {"Upload-Metadata": entry.metadata, **length, **headers}
        if not entry.declared:
            fields["Upload-Defer-Length"] = "1"
        outcome = await self._send(entry, "POST", self._url, fields, first)
        reply = self._expect(entry, outcome, 201, MISMATCH)
        wrong = first is not None and first.wrong
        if (reply.status == MISMATCH) is not wrong or "location" not in reply.headers:
            raise _refused(entry, "its creation", reply)
        size = first.size if first is not None and not wrong else 0
        self._ledger.created(entry, urljoin(self._url, reply.headers["location"]), size)

    async def join(self, entry: Entry, parts: Sequence[Entry], *, now: bool) -> None:
        """Create the final of ``parts``, which are complete if it is to be whole ``now``."""
        entry.final, entry.parts = True, tuple(parts)
        value = "final;" + " ".join(part.path for part in parts)
        fields = {"Upload-Metadata": entry.metadata, "Upload-Concat": value}
        outcome = await self._send(entry, "POST", self._url, fields)
        reply = self._expect(entry, outcome, 201)
        location = reply.headers.get("location", "")
        self._ledger.created(entry, urljoin(self._url, location), entry.length if now else 0)

    async def append(self, entry: Entry, step: Step, *, declare: bool = False) -> None:
        """If it is broken off, the server is asked what it has kept."""
        offset = entry.offset
        fields = {"Upload-Offset": str(offset)}
        if declare:
            fields["Upload-Length"] = str(entry.length)
        outcome = await self._send(entry, "PATCH", entry.path, fields, step)
        if isinstance(outcome, Broken) or outcome.status in (409, 423):
            if not isinstance(outcome, Broken):
                self._ledger.sending(entry, f"was answered {outcome.status}")
            await self.ask(entry)
            return
        reply = self._expect(entry, outcome, 204, MISMATCH)
        if (reply.status == MISMATCH) is not step.wrong:
            raise _refused(entry, "a PATCH", reply)
        if step.wrong:
            self._ledger.refused(entry, step.size)
            return
        if reply.offset != offset + step.size:
            raise _refused(entry, f"a PATCH of {step.size} at {offset}", reply)
        entry.declared = entry.declared or declare
        event = Event.VERIFIED if step.checksum else Event.APPENDED
        self._ledger.appended(entry, reply.offset, event)

    async def ask(self, entry: Entry) -> None:
        """HEAD, until it is answered. Of an unfinished final it tells nothing."""
        for _ in range(ATTEMPTS):
            outcome = await self._send(entry, "HEAD", entry.path)
            if isinstance(outcome, Reply) and outcome.status == 200:
                self._take(entry, outcome)
                return
            if isinstance(outcome, Reply) and outcome.status != 423:
                raise _refused(entry, "HEAD", outcome)
            await asyncio.sleep(PAUSE)
        raise Refused(f"upload {entry.number} ({entry.kind}): HEAD is not answered")

    def _take(self, entry: Entry, reply: Reply) -> None:
        if reply.offset is None:
            return
        if reply.offset < entry.offset:
            raise _refused(entry, f"HEAD after {entry.offset}", reply)
        if "upload-length" in reply.headers:
            entry.declared = True
        self._ledger.told(entry, reply.offset)

    async def delete(self, entry: Entry) -> None:
        self._ledger.deleting(entry)
        outcome = await self._send(entry, "DELETE", entry.path)
        self._expect(entry, outcome, 204)
        self._ledger.deleted(entry)

    # What they are made of

    async def _send(
        self,
        entry: Entry,
        method: str,
        path: str,
        fields: Mapping[str, str] = NO_HEADERS,
        step: Step | None = None,
    ) -> Reply | Broken:
        client = self._plain
        body = None
        if step is not None:
            client = self._chunked if step.chunked else self._plain
            client.rate = max(1, round(step.size / step.seconds)) if step.seconds else None
            fields = {**OCTETS, **fields, **_checksum(entry, step)}
            body = _body(entry, step)
        async with self._turn():
            self._ledger.sending(entry, _described(method, fields, step))
            outcome = await client.request(method, urljoin(self._url, path), fields, body)
        client.rate = None
        if isinstance(outcome, Broken) and outcome.silent is not None:
            self._silent.append(outcome.silent)
        return outcome

    def _expect(self, entry: Entry, outcome: Reply | Broken, *statuses: int) -> Reply:
        if isinstance(outcome, Broken):
            raise Refused(f"upload {entry.number} ({entry.kind}): {outcome.why}")
        if outcome.status not in statuses:
            raise _refused(entry, "a request", outcome)
        return outcome


def _refused(entry: Entry, what: str, reply: Reply) -> Refused:
    told = "" if reply.offset is None else f" with offset {reply.offset}"
    doing = entry.history[-1][1] if entry.history else ""
    name = f"upload {entry.number} ({entry.kind})"
    return Refused(f"{name}: {what} was answered {reply.says}{told}; {doing}")


def _body(entry: Entry, step: Step) -> Body:
    begin = entry.offset
    pieces = entry.content.pieces(begin, begin + step.size)
    if step.wrong:
        pieces = map(spoilt, pieces)
    return Body(step.size, pieces, step.cut, step.cut_at)


_inverted = bytes(range(255, -1, -1))


def spoilt(piece: memoryview) -> memoryview:
    """With every byte another one, so that none of them can pass for right."""
    return memoryview(bytes(piece).translate(_inverted))


def _checksum(entry: Entry, step: Step) -> dict[str, str]:
    if not step.checksum:
        return {}
    begin = entry.offset
    return {"Upload-Checksum": sha1_of(entry.content.pieces(begin, begin + step.size))}


def sha1_of(pieces: Iterator[memoryview]) -> str:
    """As a value of ``Upload-Checksum``."""
    hasher = hashlib.sha1(usedforsecurity=False)
    for piece in pieces:
        hasher.update(piece)
    return f"sha1 {base64.b64encode(hasher.digest()).decode()}"


def _described(method: str, fields: Mapping[str, str], step: Step | None) -> str:
    words = [method]
    if step is not None:
        words.append(f"{step.size} bytes at {fields.get('Upload-Offset', 0)}")
        words += [name for name in ("wrong", "chunked", "checksum") if getattr(step, name)]
        words += [f"in {step.seconds:.1f} s"] if step.seconds else []
        words += [f"cut at {step.cut_at} ({step.cut.value})"] if step.cut is not None else []
    if "Upload-Length" in fields and method == "PATCH":
        words.append("declares the length")
    return " ".join(words)
