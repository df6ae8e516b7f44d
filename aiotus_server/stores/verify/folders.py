"""The root: the folders of a store, and what else lies there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import quarantine, unflushed
from ..layout import FOLDERS, SHARDS
from .findings import Finding
from .survey import Look

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKS = (".lock", ".locks")


class Folders(Look):
    """Subjects are names in the root, and ``.`` for itself."""

    def subjects(self) -> Iterator[str]:
        survey = self.survey
        survey.counts.quarantined = len(survey.list(quarantine.FOLDER))
        yield "."
        yield from survey.list(".")

    def findings(self, subject: str) -> Iterator[Finding]:
        if subject in (".", quarantine.FOLDER, *FOLDERS) or subject in SHARDS:
            yield from self.survey.folder(subject)
        elif subject in LOCKS:
            yield from self.survey.file(subject)
        elif subject == unflushed.NAME:
            yield from self._note()
        elif self.survey.facts(subject) is not None:
            yield Finding("stray", subject, "it is not the store's")

    def _note(self) -> Iterator[Finding]:
        there = self.survey.facts(unflushed.NAME) is not None
        if there and unflushed.since(self.survey.root) is None:
            text = "it is not the note that says what was left unflushed, but has its name"
            yield Finding("not-a-file", unflushed.NAME, text)

    def upload_id(self, subject: str) -> str | None:
        return None
