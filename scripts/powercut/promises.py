"""What each level of durability promises for the time after a power cut.

A rule says what is wrong with one upload, in a few words that are the same for all uploads of
which it is wrong; or None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiotus_server import Durability

if TYPE_CHECKING:
    from .ledger import Entry

GONE = (404, 410)


@dataclass(frozen=True, slots=True)
class Found:
    """What HEAD answered after the cut; no ``status`` means no answer. ``offset`` and ``length``
    are in bytes, None where the server does not tell."""

    status: int | None
    says: str = ""
    offset: int | None = None
    length: int | None = None
    metadata: str | None = None

    @property
    def there(self) -> bool:
        return self.status == 200

    @property
    def complete(self) -> bool:
        return self.there and self.offset is not None and self.offset == self.length


def answered(promise: Durability, entry: Entry, found: Found) -> str | None:
    """With any level: never a 5xx, nor silence."""
    return None if found.there or found.status in GONE else "HEAD is not answered as it must be"


def kept_whole(promise: Durability, entry: Entry, found: Found) -> str | None:
    if promise is Durability.NONE or entry.deleting or not entry.complete or found.complete:
        return None
    if found.status in GONE:
        return "an upload is gone though its end was acknowledged"
    return "an upload is not whole though its end was acknowledged" if found.there else None


def kept_created(promise: Durability, entry: Entry, found: Found) -> str | None:
    if promise is not Durability.ALWAYS or entry.deleting or entry.complete:
        return None
    return "an upload is gone though it was acknowledged" if found.status in GONE else None


def not_behind(promise: Durability, entry: Entry, found: Found) -> str | None:
    if promise is not Durability.ALWAYS or entry.deleting or entry.complete or not found.there:
        return None
    offset = found.offset or 0
    if offset < entry.acknowledged:
        return "the offset is behind what was acknowledged"
    return "the offset is behind what HEAD had told" if offset < entry.told else None


def deleted(promise: Durability, entry: Entry, found: Found) -> str | None:
    if promise is not Durability.ALWAYS or not entry.deleted or not found.there:
        return None
    return "an upload is there though its deletion was acknowledged"


def same_facts(promise: Durability, entry: Entry, found: Found) -> str | None:
    """With any level: what is there is the upload that the client knows."""
    if not found.there:
        return None
    if _pairs(found.metadata or "") != _pairs(entry.metadata):
        return "the metadata is wrong"
    if found.length is None:
        # Until its parts are known, a final has none. A length that was deferred may be lost
        # with the request that told it, unless that was promised.
        known = entry.declared and not entry.final and promise is Durability.ALWAYS
        return "the length is gone" if known and not entry.deleting else None
    return "the length is wrong" if found.length != entry.length else None


def _pairs(metadata: str) -> set[str]:
    return {pair.strip() for pair in metadata.split(",")}


def offset_told(promise: Durability, entry: Entry, found: Found) -> str | None:
    """With any level: one from which a client can go on. An unfinished final has none, and
    nobody can append to a final."""
    if not found.there or found.complete:
        return None
    if entry.final:
        return None if found.offset is None else "a final is neither whole nor waiting"
    if found.offset is None:
        return "HEAD tells no offset"
    return "the offset is beyond the length" if found.offset > entry.length else None


RULES = (
    answered,
    kept_whole,
    kept_created,
    not_behind,
    deleted,
    same_facts,
    offset_told,
)


def complaints(promise: Durability, entry: Entry, found: Found) -> list[str]:
    """What ``promise`` was broken for this upload; nothing if all is well."""
    return [text for rule in RULES if (text := rule(promise, entry, found)) is not None]
