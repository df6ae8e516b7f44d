"""What can be wrong with a disk store, under codes that do not change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """An ``error`` is not as it should be, and no crash of a server alone explains it. A ``note``
    is what a crash leaves, or what the application may have meant."""

    ERROR = "error"
    NOTE = "note"


class Repair(Enum):
    """What a repair does about it. No byte that counts is removed by any."""

    QUARANTINE = "quarantine"
    REMOVE = "remove"
    MOVE = "move"
    ADD = "add"
    CUT = "cut"
    PERMIT = "permit"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Kind:
    severity: Severity
    repair: Repair


def _error(repair: Repair) -> Kind:
    return Kind(Severity.ERROR, repair)


def _note(repair: Repair) -> Kind:
    return Kind(Severity.NOTE, repair)


KINDS = {
    "info-unreadable": _error(Repair.QUARANTINE),
    "info-missing": _error(Repair.QUARANTINE),
    "data-missing": _error(Repair.QUARANTINE),
    "data-cut-short": _error(Repair.QUARANTINE),
    "data-too-long": _error(Repair.QUARANTINE),
    "not-a-file": _error(Repair.QUARANTINE),
    "not-a-folder": _error(Repair.QUARANTINE),
    "disk-error": _error(Repair.NONE),
    "not-permitted": _error(Repair.PERMIT),
    "wrong-folder": _error(Repair.MOVE),
    "mark-beyond-data": _error(Repair.REMOVE),
    "waiting-mark-missing": _error(Repair.ADD),
    "expiry-not-noted": _error(Repair.ADD),
    "creation-cut-off": _note(Repair.QUARANTINE),
    "termination-cut-off": _note(Repair.QUARANTINE),
    "final-cannot-be-made": _note(Repair.QUARANTINE),
    "published-data-left": _note(Repair.REMOVE),
    "published-file-missing": _note(Repair.NONE),
    "published-file-changed": _note(Repair.NONE),
    "data-hole": _note(Repair.NONE),
    "unverified-bytes": _note(Repair.CUT),
    "not-told": _note(Repair.NONE),
    "mark-left": _note(Repair.REMOVE),
    "waiting-mark-left": _note(Repair.REMOVE),
    "joining-left": _note(Repair.REMOVE),
    "info-new-left": _note(Repair.REMOVE),
    "stray": _note(Repair.NONE),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``path`` is below the root; ``upload_id`` whose it is, if it is an upload's."""

    code: str
    path: str
    text: str
    upload_id: str | None = None

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]
