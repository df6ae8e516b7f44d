"""After a power cut: a server on what is left, asked for all that its clients know of."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from aiotus_server import Durability
from aiotus_server.stores.layout import path_of
from scripts.load.client import Body, Client
from scripts.load.content import Content
from scripts.load.http import Reply
from scripts.load.runner import at_once
from scripts.load.tally import Tally
from scripts.load.transfer import OCTETS

from .comparing import Comparison, compare_file
from .ledger import Entry
from .promises import GONE, Found, complaints
from .sender import NO_HEADERS, sha1_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

AT_ONCE = 6  # requests
TIMEOUT = 30.0  # seconds
JOINING = 5.0  # seconds in which an unfinished final becomes whole
PAUSE = 0.05  # seconds
NEW = "new"  # the kind of an upload that is created after the cut
NEW_LENGTH = 5000  # bytes


@dataclass(slots=True)
class Case:
    """One upload after the cut; ``wrong`` has what is not as it must be, in ``details`` more of
    the same. ``read`` when its file is known to be right, as far as the server goes."""

    entry: Entry
    found: Found
    read: bool = False
    wrong: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def complain(self, what: str, detail: str = "") -> None:
        if what not in self.wrong:
            self.wrong.append(what)
            self.details.append(detail)


class Aftermath:
    """The server at ``url`` on ``folder``, which has what a cut has left of ``entries``.

    Afterwards ``cases`` has all of them, and ``counts`` pairs of a kind and what was done.
    """

    def __init__(self, url: str, folder: Path, entries: list[Entry], promise: Durability) -> None:
        self.cases: list[Case] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self._url = url
        self._folder = folder
        self._entries = entries
        self._promise = promise
        self._client = Client(Tally(), timeout=TIMEOUT)

    async def check(self) -> None:
        try:
            await at_once(AT_ONCE, self._ask, self._entries)
            await asyncio.to_thread(self._read_directly)
            await at_once(AT_ONCE, self._resume, [c for c in self.cases if not c.entry.final])
            await at_once(AT_ONCE, self._join, [c for c in self.cases if c.entry.final])
            await at_once(AT_ONCE, self._download, filter(_worth_a_download, self.cases))
            await self._upload_another()
        finally:
            self._client.close()

    # What is there

    async def _ask(self, entry: Entry) -> None:
        case = Case(entry, await self._head(entry))
        self.cases.append(case)
        for what in complaints(self._promise, entry, case.found):
            case.complain(what, _told(case))
        self._count(case, "checked")
        self._count(case, "gone" if case.found.status in GONE else "there")

    def _read_directly(self) -> None:
        """The bytes that the server says it has, in the file that it has them in."""
        others = {
            name: Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names
        }
        for case in self.cases:
            path = path_of(self._folder, case.entry.upload_id)
            if not path.exists():  # then it is another server's
                path = others.get(case.entry.upload_id, path)
            if case.found.there and case.found.offset and path.exists():
                self._count(case, "read")
                size = min(case.found.offset, case.entry.length)
                wrong = compare_file(path, size, case.entry.content)
                if wrong:
                    case.complain("wrong bytes below the offset", wrong)
                case.read = not wrong and case.found.complete

    # What becomes of it

    async def _resume(self, case: Case) -> None:
        """As a client would, with the bytes that the server says it lacks."""
        entry, offset = case.entry, case.found.offset
        if case.found.complete or not case.found.there or offset is None:
            return
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        if case.found.length is None:
            fields["Upload-Length"] = str(entry.length)
        if entry.number % 2 and offset < entry.length:
            fields["Upload-Checksum"] = sha1_of(entry.content.pieces(offset, entry.length))
        body = Body(entry.length - offset, entry.content.pieces(offset, entry.length))
        reply = await self._request("PATCH", entry.path, fields, body)
        case.read = False
        case.found = await self._head(entry)
        right = reply is not None and reply.status == 204 and reply.offset == entry.length
        if right and case.found.complete:
            self._count(case, "resumed")
        else:
            case.complain("it cannot be resumed", f"{_answer('PATCH', reply)}; {_told(case)}")

    async def _join(self, case: Case) -> None:
        """A final that waits for its parts, of which all are there and have been resumed."""
        whole = {c.entry.number for c in self.cases if c.found.complete and not c.wrong}
        waits = case.found.there and case.found.offset is None
        if not waits or not all(part.number in whole for part in case.entry.parts):
            return
        if self._promise is Durability.ALWAYS and not await self._soon(self._made, case):
            case.complain("a final does not become whole by itself", _told(case))
        if await self._soon(self._told_whole, case):
            self._count(case, "resumed")
        else:
            case.complain("a final stays unfinished though its parts are whole", _told(case))

    async def _soon(self, true: Callable[[Case], Awaitable[bool]], case: Case) -> bool:
        for _ in range(round(JOINING / PAUSE)):
            if await true(case):
                return True
            await asyncio.sleep(PAUSE)
        return False

    async def _made(self, case: Case) -> bool:
        """Seen in the folder if it is there: a request makes the server look."""
        with suppress(FileNotFoundError):
            size = path_of(self._folder, case.entry.upload_id).stat().st_size
            return size == case.entry.length
        reply = await self._request("GET", case.entry.path)
        return reply is not None and reply.status == 200

    async def _told_whole(self, case: Case) -> bool:
        case.found = await self._head(case.entry)
        return case.found.complete

    async def _download(self, case: Case) -> None:
        taken = Comparison(case.entry.content)
        reply = await self._request("GET", case.entry.path, sink=taken.take)
        if reply is None or reply.status != 200:
            case.complain("a complete upload cannot be downloaded", _answer("GET", reply))
        elif taken.wrong:
            case.complain("a complete upload has wrong bytes", taken.wrong)
        elif taken.size != case.entry.length:
            detail = f"{taken.size} bytes instead of {case.entry.length}"
            case.complain("a complete upload has wrong bytes", detail)
        else:
            self._count(case, "downloaded")

    async def _upload_another(self) -> None:
        """The server goes on working."""
        number = max((entry.number for entry in self._entries), default=0) + 1
        entry = Entry(number, NEW, Content(number, number), NEW_LENGTH, "")
        case = Case(entry, Found(None))
        self.cases.append(case)
        fields = {**OCTETS, "Upload-Length": str(entry.length)}
        body = Body(entry.length, entry.content.pieces(0, entry.length))
        reply = await self._request("POST", self._url, fields, body)
        if reply is None or reply.status != 201:
            case.complain("nothing can be uploaded any more", _answer("POST", reply))
            return
        entry.path = reply.headers["location"]
        await self._download(case)

    # What it is made of

    async def _head(self, entry: Entry) -> Found:
        reply = await self._request("HEAD", entry.path)
        if reply is None:
            return Found(None)
        length = reply.headers.get("upload-length", "")
        return Found(
            reply.status,
            reply.says,
            reply.offset,
            int(length) if length.isdecimal() else None,
            reply.headers.get("upload-metadata"),
        )

    async def _request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] = NO_HEADERS,
        body: Body | None = None,
        sink: Callable[[bytes], None] | None = None,
    ) -> Reply | None:
        """None when no answer comes."""
        url = urljoin(self._url, path)
        outcome = await self._client.request(method, url, fields, body, sink=sink)
        return outcome if isinstance(outcome, Reply) else None

    def _count(self, case: Case, what: str) -> None:
        self.counts[case.entry.kind, what] += 1


def _worth_a_download(case: Case) -> bool:
    """Not those that are known to be wrong, and of those known to be right a few."""
    return case.found.complete and not case.wrong and (not case.read or case.entry.number % 4 == 0)


def _told(case: Case) -> str:
    entry, found = case.entry, case.found
    if found.status is None:
        return "HEAD: no answer"
    told = f"HEAD: {found.says}, offset {found.offset}, length {found.length}"
    return f"{told}; {entry.offset} of {entry.length} were acknowledged"


def _answer(method: str, reply: Reply | None) -> str:
    if reply is None:
        return f"{method}: no answer"
    return f"{method}: {reply.says}, offset {reply.offset}"
