"""The store as one verification sees it, and what all its looks have in common."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...protocol.errors import UploadNotFound
from ...protocol.uploads import UPLOAD_ID, Final, Partial, Upload
from ..copying import closing
from ..snapshots import Snapshots
from .findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layout import View


@dataclass
class Counts:
    """Of what is whole; bytes are those in the store."""

    uploads: int = 0
    complete: int = 0
    partials: int = 0
    finals: int = 0
    bytes: int = 0
    quarantined: int = 0
    expiry_lines: int = 0
    expiry_lines_gone: int = 0
    expiry_lines_torn: int = 0

    def add(self, upload: Upload) -> None:
        self.uploads += 1
        self.complete += upload.complete
        self.partials += isinstance(upload.concat, Partial)
        self.finals += isinstance(upload.concat, Final)
        self.bytes += 0 if upload.published else upload.offset


class Survey:
    """``expiring`` are the unfinished uploads that have an expiry, ``waiting`` the finals that
    wait for their partials; both are known once the uploads have been looked at."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.root = view.fd
        self.snapshots = Snapshots(view)
        self.counts = Counts()
        self.expiring: set[str] = set()
        self.waiting: set[str] = set()
        self._all_powerful = os.geteuid() == 0

    def note(self, upload: Upload) -> None:
        self.counts.add(upload)
        if upload.waits_for:
            self.waiting.add(upload.upload_id)
        if upload.expires is not None and not upload.complete:
            self.expiring.add(upload.upload_id)

    def get(self, upload_id: str) -> Upload | None:
        """The upload if it is whole, and one that may be read."""
        try:
            return self.snapshots.get(upload_id)
        except (UploadNotFound, OSError):
            return None

    def facts(self, name: str) -> os.stat_result | None:
        """Of the thing itself if it is a link. None if it is not there, or hidden."""
        with suppress(OSError):
            return os.stat(name, dir_fd=self.root, follow_symlinks=False)
        return None

    def list(self, folder: str) -> list[str]:
        """In order. Nothing if it is no folder: that is told elsewhere."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            with closing(os.open(folder, flags, dir_fd=self.root)) as fd:
                return sorted(os.listdir(fd))
        except OSError:
            return []

    def file(self, name: str, upload_id: str | None = None) -> Iterator[Finding]:
        """What keeps a server from using the file, if it is there."""
        facts = self.facts(name)
        if facts is None:
            return
        if not stat.S_ISREG(facts.st_mode):
            yield Finding("not-a-file", name, f"it is {_kind_of(facts)}, not a file", upload_id)
        elif not self._may(name, os.R_OK | os.W_OK):
            yield self.not_permitted(name, upload_id)

    def folder(self, name: str) -> Iterator[Finding]:
        facts = self.facts(name)
        if facts is None:
            return
        if not stat.S_ISDIR(facts.st_mode):
            yield Finding("not-a-folder", name, f"it is {_kind_of(facts)}, not a folder")
        elif not self._may(name, os.R_OK | os.W_OK | os.X_OK):
            yield self.not_permitted(name, None)

    def not_permitted(self, name: str, upload_id: str | None) -> Finding:
        text = f"the user {os.geteuid()} may not read and write it"
        return Finding("not-permitted", name, text, upload_id)

    def _may(self, name: str, mode: int) -> bool:
        if self._all_powerful:
            return True
        return os.access(name, mode, dir_fd=self.root, effective_ids=True)


class Look(ABC):
    """At all things of one kind. What it calls a subject is a name below the root, or an id."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    @abstractmethod
    def subjects(self) -> Iterator[str]:
        """All of them."""

    @abstractmethod
    def findings(self, subject: str) -> Iterator[Finding]:
        """What is wrong with it now; nothing if it is gone."""

    def suspects(self) -> Iterator[str]:
        """Those that have findings at a first look."""
        for subject in self.subjects():
            if any(self.findings(subject)):
                yield subject

    def upload_id(self, subject: str) -> str | None:
        """Whose lock keeps it from changing; None if it is no upload's."""
        name = subject.rpartition("/")[2]
        return name if UPLOAD_ID.fullmatch(name) else None


def _kind_of(facts: os.stat_result) -> str:
    if stat.S_ISLNK(facts.st_mode):
        return "a symbolic link"
    if stat.S_ISDIR(facts.st_mode):
        return "a folder"
    return "a file" if stat.S_ISREG(facts.st_mode) else "a special file"
