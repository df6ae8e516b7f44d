"""A store in memory: for tests, and as the model of what a store does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .. import threads
from ..protocol.errors import PathTaken, UploadExists, UploadNotFound
from ..protocol.uploads import Final, Outcome, Upload
from .base import (
    ChecksumStore,
    ConcatenationStore,
    DeferLengthStore,
    ExpirationStore,
    ReadableStore,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from ..body import Body

PIECE = 256 * 1024  # bytes


def _publish(data: bytearray, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise PathTaken from None


@dataclass
class _Entry:
    upload: Upload
    data: bytearray
    touched: datetime
    verified_to: int | None = None  # offset at which an atomic append began, while it lasts


class MemoryStore(
    DeferLengthStore, ChecksumStore, ExpirationStore, ConcatenationStore, ReadableStore
):
    """Every capability, nothing kept beyond the process. ``clock`` tells the time."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._entries: dict[str, _Entry] = {}
        self._clock = clock

    async def get(self, upload_id: str) -> Upload:
        return self._snapshot(self._entry(upload_id))

    async def create(self, upload: Upload, body: Body) -> Upload:
        if upload.upload_id in self._entries:
            raise UploadExists
        entry = _Entry(upload, bytearray(), self._clock())
        self._entries[upload.upload_id] = entry
        if body.buffered():
            entry.data += b"".join(body.take())
        return self._snapshot(entry)

    async def append(self, upload: Upload, body: Body) -> Upload:
        entry = self._entry(upload.upload_id)
        if body.atomic:
            entry.verified_to = upload.offset
        async for piece in body:
            entry.data += piece
            entry.touched = self._clock()
        if body.error is None:
            entry.verified_to = None
        return replace(self._snapshot(entry), length=upload.length)

    async def rewind(self, upload: Upload) -> Upload:
        entry = self._entry(upload.upload_id)
        del entry.data[upload.offset :]
        entry.verified_to = None
        return self._snapshot(entry)

    async def declare_length(self, upload: Upload, length: int) -> Upload:
        entry = self._entry(upload.upload_id)
        entry.upload = replace(entry.upload, length=length)
        return self._snapshot(entry)

    async def finish(self, upload: Upload, outcome: Outcome) -> Upload:
        entry = self._entry(upload.upload_id)
        if upload.path is not None:
            await threads.slow.run(_publish, entry.data, Path(upload.path))
        published = upload.path is not None
        entry.upload = replace(entry.upload, outcome=outcome, published=published)
        return self._snapshot(entry)

    async def is_undelivered(self, upload_id: str) -> bool:
        entry = self._entries.get(upload_id)
        return entry is not None and entry.upload.finish_due and entry.upload.outcome is None

    async def terminate(self, upload: Upload) -> None:
        self._entries.pop(upload.upload_id, None)

    async def expired(self, now: datetime) -> AsyncGenerator[str]:
        for upload_id in list(self._entries):
            entry = self._entries.get(upload_id)
            upload = self._snapshot(entry) if entry else None
            if upload and upload.expires and upload.expires <= now and not upload.complete:
                yield upload_id

    async def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        known = upload.upload_id in self._entries
        if known and upload.upload_id not in await self.waiting():
            raise UploadExists
        data = bytearray()
        for part in parts:
            if stopped():
                raise InterruptedError
            data += self._entry(part.upload_id).data
        assert isinstance(upload.concat, Final)
        joined = replace(upload, concat=replace(upload.concat, joined=True), length=len(data))
        entry = self._entries[upload.upload_id] = _Entry(joined, data, self._clock())
        return self._snapshot(entry)

    async def waiting_for(self, upload_id: str) -> Sequence[str]:
        return [
            waiting_id
            for waiting_id in await self.waiting()
            if upload_id in self._parts(self._entries[waiting_id])
        ]

    async def waiting(self) -> Sequence[str]:
        return [
            upload_id
            for upload_id, entry in self._entries.items()
            if self._parts(entry) and not entry.upload.complete
        ]

    def _parts(self, entry: _Entry) -> tuple[str, ...]:
        concat = entry.upload.concat
        return concat.parts if isinstance(concat, Final) else ()

    async def read(self, upload: Upload, start: int, stop: int) -> AsyncGenerator[bytes]:
        data = self._entry(upload.upload_id).data
        for first in range(start, stop, PIECE):
            yield bytes(data[first : min(first + PIECE, stop)])

    def _entry(self, upload_id: str) -> _Entry:
        try:
            return self._entries[upload_id]
        except KeyError:
            raise UploadNotFound from None

    def _snapshot(self, entry: _Entry) -> Upload:
        upload, offset = entry.upload, len(entry.data)
        unverified = entry.verified_to is not None
        if entry.verified_to is not None:
            offset = entry.verified_to
        expires = upload.expires
        if upload.lifetime is not None:
            expires = entry.touched + upload.lifetime
        return replace(upload, offset=offset, unverified=unverified, expires=expires)
