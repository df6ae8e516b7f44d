"""What bad clients do: each of these comes back to the server as another one.

They look only for answers that no request may cause (a 500), and remember the uploads that they
leave behind, so that these can be asked for at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from scripts.load.client import Body, Broken
from scripts.load.content import Content
from scripts.load.http import Cut, Reply
from scripts.load.plan import Dice
from scripts.load.transfer import OCTETS, Failed, Transfer, Wrong
from scripts.load.verify import check_bytes, check_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from scripts.load.client import Client
    from scripts.load.plan import Plan

SIZE = 2 * 1024 * 1024  # bytes of the uploads here
PATIENCE = 5.0  # seconds

GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{tus}\r\nzz\r\n",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{tus}\r\n5\r\nhello5\r\n",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n{tus}Upload-Checksum: sha1 x\r\n\r\n",
    b"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\nUpload-Offset: 9\r\n{tus}\r\n",
    b"POST {path} HTTP/1.1\r\nHost: x\r\nUpload-Length: 1e3\r\n{tus}\r\n",
    b"POST {path} HTTP/1.1\r\nHost: x\r\nUpload-Concat: final;/files/../../etc\r\n{tus}\r\n",
    b"POST {path} HTTP/1.1\r\nHost: x\r\nUpload-Length: 5\r\nUpload-Metadata: \xff\r\n{tus}\r\n",
    b"HEAD {path}/../%2e%2e/%00 HTTP/1.1\r\nHost: x\r\n{tus}\r\n",
    b"DELETE {path}..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n{tus}\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"X-Y-Z {path} HTTP/1.1\r\nHost: x\r\n{tus}\r\n",
    b"GET {path} HTTP/1.1\r\nX: " + b"a" * 70_000,
)
TUS = b"Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"


class Faults:
    """``leave`` gets the URL of every upload that is left unfinished. When ``ending`` is set,
    those that are silent end it."""

    def __init__(
        self, plan: Plan, client: Client, leave: Callable[[str], None], ending: asyncio.Event
    ) -> None:
        self.plan = plan
        self.client = client
        self.tally = client.tally
        self.leave = leave
        self.ending = ending
        self._random = random.Random(plan.seed)
        self._parts = urlsplit(plan.url)
        self._number = 0

    def kinds(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.garbage,
            self.silence,
            self.half_a_head,
            self.aborted_creation,
            self.silent_append,
            self.deleted_in_mid_upload,
            self.refused_with_a_body,
            self.rivals,
        ]

    async def one(self) -> None:
        """Any of them. What the server does wrong is in the tally."""
        kind = self._random.choice(self.kinds())
        self.tally.counts[f"fault {kind.__name__}"] += 1
        try:
            await kind()
        except (Failed, Wrong) as error:
            self.tally.counts["wrong" if isinstance(error, Wrong) else "failed"] += 1
            self.tally.error(f"{kind.__name__}: {error}")
        except OSError:
            self.tally.counts["lost"] += 1  # the server is just being started again
            await self._pause(0.2)

    # Not even a request

    async def garbage(self) -> None:
        data = self._random.choice(GARBAGE)
        data = data.replace(b"{path}", self._parts.path.encode()).replace(b"{tus}", TUS)
        if self._random.random() < 0.3:
            data = self._random.randbytes(self._random.randint(1, 5000))
        answer = await self._raw(data, self._random.uniform(0.05, 0.5))
        if re.match(rb"HTTP/1\.[01] 500", answer):
            raise Wrong(f"{data[:60]!r} was answered with a 500")

    async def silence(self) -> None:
        await self._raw(b"", self._random.uniform(0.1, 2))

    async def half_a_head(self) -> None:
        await self._raw(b"PATCH /files/x HTTP/1.1\r\nHost: x\r\nTus-Re", 1)

    async def _raw(self, data: bytes, seconds: float) -> bytes:
        """What comes back within that time."""
        streams = asyncio.open_connection(self._parts.hostname, self._parts.port)
        reader, writer = await asyncio.wait_for(streams, PATIENCE)
        try:
            writer.write(data)
            async with asyncio.timeout(seconds):
                return await reader.read(65536)
        except (TimeoutError, ConnectionError):
            return b""
        finally:
            writer.transport.abort()

    # Uploads that do not end well

    async def aborted_creation(self) -> None:
        body = self._body(0, SIZE, self._random.choice(list(Cut)))
        fields = {**OCTETS, "Upload-Length": str(SIZE)}
        await self._drop(await self.client.request("POST", self.plan.url, fields, body), 0.2)

    async def silent_append(self) -> None:
        """It goes silent, maybe for longer than the server waits."""
        url = await self._create()
        self.leave(url)
        body = self._body(0, SIZE, Cut.SILENT)
        outcome = await self.client.request("PATCH", url, {**OCTETS, "Upload-Offset": "0"}, body)
        await self._drop(outcome, self._random.choice([0.1, 1, 8]))

    async def deleted_in_mid_upload(self) -> None:
        url = await self._create()
        body = self._body(0, SIZE, Cut.SILENT)
        outcome = await self.client.request("PATCH", url, {**OCTETS, "Upload-Offset": "0"}, body)
        try:
            status = await self._status("DELETE", url)
            if status not in (204, None, 503):
                raise Wrong(f"DELETE in mid-upload was answered {status}")
            if status == 204 and await self._status("HEAD", url) not in (404, 410, None):
                raise Wrong(f"{url} is still there after DELETE")
        finally:
            await self._drop(outcome, 0)
        if status != 204:
            self.leave(url)

    async def refused_with_a_body(self) -> None:
        """The server may answer before it has the body; the upload stays as it was."""
        url = await self._create()
        self.leave(url)
        fields = {**OCTETS, "Upload-Offset": str(self._random.choice([1, SIZE, 2**70]))}
        outcome = await self.client.request("PATCH", url, fields, self._body(0, SIZE))
        if isinstance(outcome, Reply) and outcome.status not in (409, 413, 503):
            raise Wrong(f"PATCH at a wrong offset was answered {outcome.says}")
        answer = await self.client.request("HEAD", url)
        if isinstance(answer, Reply) and answer.offset not in (0, None):
            raise Wrong(f"{url} has {answer.offset} bytes after a PATCH that was refused")

    async def rivals(self) -> None:
        """Two clients send the same upload at once, each from wherever the other has got to."""
        url, number = await self._create(), self._number
        content = Content(self.plan.seed, -number)
        transfers = []
        for part in range(2):
            dice = Dice(self.plan, -number, part)
            transfers.append(Transfer(self.plan, self.client, dice, content, 0, SIZE))
            transfers[-1].share(url)
        outcomes = await asyncio.gather(*(t.run({}) for t in transfers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self.leave(url)
                raise outcome
        await check_head(self.plan, self.client, url, SIZE)
        dice = Dice(self.plan, -number)
        await check_bytes(self.plan, self.client, dice, url, content, SIZE)
        await self._status("DELETE", url)

    # Helpers

    async def _create(self) -> str:
        """Raises ConnectionError if the server is not there."""
        self._number += 1
        outcome = await self.client.request("POST", self.plan.url, {"Upload-Length": str(SIZE)})
        if isinstance(outcome, Broken) or outcome.status == 503:
            raise ConnectionError("no upload could be created")
        if outcome.status != 201:
            raise Failed(f"creation was answered {outcome.says}")
        return urljoin(self.plan.url, outcome.headers["location"])

    def _body(self, begin: int, end: int, cut: Cut | None = None) -> Body:
        pieces: Iterator[memoryview] = Content(self.plan.seed, -self._number).pieces(begin, end)
        return Body(end - begin, pieces, cut, self._random.randint(0, end - begin))

    async def _status(self, method: str, url: str) -> int | None:
        outcome = await self.client.request(method, url)
        return outcome.status if isinstance(outcome, Reply) else None

    async def _drop(self, outcome: Reply | Broken, seconds: float) -> None:
        if isinstance(outcome, Broken) and outcome.silent is not None:
            try:
                await self._pause(seconds)
            finally:
                outcome.silent.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
