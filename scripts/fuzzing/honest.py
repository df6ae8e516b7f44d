"""The model's own client: it asks by the rules, and says where the answer breaks one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.load.client import Body, Broken, Client
from scripts.load.tally import Tally
from scripts.load.transfer import OCTETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.load.http import Reply

# Seconds in which an answer must come. A lock may be waited for, 2 s in a fuzz.
TIMEOUT = 10.0


class Wrong(Exception):
    """The server broke a promise."""


class Honest:
    """``origin`` is scheme, host and port; ``prefix`` the path, without a slash at its end."""

    def __init__(self, origin: str, prefix: str) -> None:
        self.origin = origin
        self.prefix = prefix
        self._client = Client(Tally(), timeout=TIMEOUT)

    def close(self) -> None:
        self._client.close()

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        sink: bytearray | None = None,
    ) -> Reply:
        """Raises Wrong if there is no answer, after a second try on a fresh connection."""
        url = self.origin + path
        for _ in range(2):
            if sink is not None:
                sink.clear()
            taking = None if sink is None else sink.extend
            sent = None if body is None else Body(len(body), [body])
            outcome = await self._client.request(method, url, headers or {}, sent, sink=taking)
            if not isinstance(outcome, Broken):
                return outcome
            if method != "HEAD" or "no answer" in outcome.why:
                break
        assert isinstance(outcome, Broken)
        raise Wrong(f"{method} {path}: {outcome.why}")

    async def create(self, length: int | None, data: bytes = b"", *, partial: bool = False) -> str:
        """The path of a new upload that has ``data``."""
        fields = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        if partial:
            fields["Upload-Concat"] = "partial"
        if data:
            fields |= OCTETS
        reply = await self.ask("POST", f"{self.prefix}/", fields, data)
        if reply.status != 201:
            raise Wrong(f"a good POST was answered {reply.says}")
        return path_of(reply.headers["location"])

    async def append(self, path: str, offset: int, data: bytes, length: int | None = None) -> None:
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        if length is not None:
            fields["Upload-Length"] = str(length)
        reply = await self.ask("PATCH", path, fields, data)
        if reply.status != 204 or reply.offset != offset + len(data):
            raise Wrong(f"a good PATCH of {path} was answered {reply.says}, {reply.headers}")

    async def state(self, path: str) -> tuple[int, int | None] | None:
        """Offset and length by HEAD; None if it is gone. Raises Wrong for anything else: a lock
        that somebody still has, an error, silence."""
        reply = await self.ask("HEAD", path)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise Wrong(f"HEAD of {path} was answered {reply.status}")
        length = reply.headers.get("upload-length")
        if reply.offset is None and not reply.headers.get("upload-concat", "").startswith("final"):
            raise Wrong(f"HEAD of {path} has no offset")
        offset = reply.offset or 0
        if length is not None and offset > int(length):
            raise Wrong(f"the offset of {path} is {offset}, its length {length}")
        return offset, None if length is None else int(length)

    async def bytes_of(self, path: str) -> bytes:
        """Of a complete upload. Raises Wrong if it cannot be read."""
        data = bytearray()
        reply = await self.ask("GET", path, sink=data)
        if reply.status != 200:
            raise Wrong(f"GET of the complete {path} was answered {reply.says}")
        if any("injected" in name for name in reply.headers):
            raise Wrong(f"GET of {path} has a header that was injected")
        return bytes(data)

    async def remove(self, path: str) -> None:
        """Afterwards it is gone."""
        reply = await self.ask("DELETE", path)
        if reply.status not in (204, 404, 410):
            raise Wrong(f"DELETE of {path} was answered {reply.says}")
        if await self.state(path) is not None:
            raise Wrong(f"{path} is still there after DELETE")


def path_of(url: str) -> str:
    """Without scheme and host, if there are any."""
    return url if url.startswith("/") else "/" + url.split("/", 3)[3]
