"""What the clients know of their uploads: all that the server has acknowledged, at any moment."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scripts.load.content import Content

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED = 12  # events of one upload
FORGOTTEN = 5.0  # seconds after which a deletion is old


class Event(Enum):
    """What a client has just been told."""

    CREATED = "a creation"
    APPENDED = "an append"
    VERIFIED = "an append with a checksum"
    REFUSED = "a wrong checksum, refused"
    TOLD = "an offset, by HEAD"
    COMPLETED = "the end of an upload"
    DELETED = "a deletion"


@dataclass(slots=True)
class Entry:
    """One upload. Its bytes are those of ``content``, which has no end; ``parts`` are the
    entries that a final was made of."""

    number: int
    kind: str
    content: Content
    length: int
    metadata: str
    declared: bool = True  # the server has acknowledged the length
    final: bool = False
    parts: tuple[Entry, ...] = ()
    path: str = ""  # of its URL, once it is known
    acknowledged: int = 0  # bytes, by an answer to POST or PATCH
    told: int = 0  # bytes, by HEAD
    complete: bool = False  # the last byte is acknowledged
    deleting: bool = False  # it may be gone
    deleted: bool = False
    busy: bool = True  # somebody has plans with it
    at: float = 0.0  # time.monotonic() of the last event
    history: tuple[tuple[float, str], ...] = ()

    @property
    def offset(self) -> int:
        """The most that the server has acknowledged."""
        return max(self.acknowledged, self.told)

    @property
    def upload_id(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]


class Ledger:
    """``watch`` is called after each event, at once."""

    def __init__(self, seed: int) -> None:
        self.live: dict[int, Entry] = {}
        self.watch: Callable[[Entry, Event], None] | None = None
        self._seed = seed
        self._count = 0

    def begin(self, kind: str, length: int, *, like: Entry | None = None, start: int = 0) -> Entry:
        """An upload that is about to be created, with bytes of its own, or those of ``like``
        from ``start`` on."""
        self._count += 1
        source = self._count if like is None else like.number
        content = Content(self._seed, source, start)
        name = base64.b64encode(f"upload {self._count}".encode()).decode()
        entry = Entry(self._count, kind, content, length, f"filename {name},empty")
        self.live[entry.number] = entry
        return entry

    def created(self, entry: Entry, url: str, offset: int) -> None:
        entry.path = urlsplit(url).path
        self.appended(entry, offset, Event.CREATED)

    def appended(self, entry: Entry, offset: int, event: Event = Event.APPENDED) -> None:
        entry.acknowledged = offset
        self._end(entry, event, f"{event.value} to {offset}")

    def told(self, entry: Entry, offset: int) -> None:
        entry.told = offset
        self._end(entry, Event.TOLD, f"HEAD told {offset}")

    def refused(self, entry: Entry, size: int) -> None:
        self._note(entry, Event.REFUSED, f"{size} wrong bytes were refused")

    def deleting(self, entry: Entry) -> None:
        entry.deleting = True

    def deleted(self, entry: Entry) -> None:
        entry.deleted = True
        self._note(entry, Event.DELETED, "was deleted")

    def sending(self, entry: Entry, text: str) -> None:
        """What a client does, for those who read the history."""
        entry.at = time.monotonic()
        entry.history = (*entry.history[1 - REMEMBERED :], (entry.at, text))

    def snapshot(self) -> list[Entry]:
        """Copies of all entries that have a URL; what went long ago is forgotten."""
        now = time.monotonic()
        for entry in list(self.live.values()):
            if entry.deleted and entry.at < now - FORGOTTEN:
                del self.live[entry.number]
        copies = {n: replace(entry) for n, entry in self.live.items() if entry.path}
        for entry in copies.values():
            entry.parts = tuple(copies.get(part.number, part) for part in entry.parts)
        return list(copies.values())

    def _end(self, entry: Entry, event: Event, text: str) -> None:
        if entry.declared and entry.offset == entry.length and not entry.complete:
            entry.complete = True
            event = Event.COMPLETED
        self._note(entry, event, text)

    def _note(self, entry: Entry, event: Event, text: str) -> None:
        self.sending(entry, text)
        if self.watch is not None:
            self.watch(entry, event)
