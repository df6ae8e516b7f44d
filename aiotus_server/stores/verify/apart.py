"""What a store keeps apart from the uploads, so that it is found without reading them all."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ...protocol.uploads import UPLOAD_ID, Upload
from .. import marks
from ..copying import closing
from ..journal import ExpiryJournal
from .findings import Finding
from .survey import Look, Survey

if TYPE_CHECKING:
    from collections.abc import Iterator


class Finals(Look):
    """Those that wait for partials. Subjects are ids."""

    def subjects(self) -> Iterator[str]:
        yield from sorted(self.survey.waiting)

    def findings(self, subject: str) -> Iterator[Finding]:
        parts = sorted(_waited_for(self.survey, subject))
        if not parts:
            return
        path = f"{self.survey.view.name(subject)}.info"
        gone = [part for part in parts if self.survey.get(part) is None]
        if gone:
            text = f"there is no partial {', '.join(gone)}"
            yield Finding("final-cannot-be-made", path, text, subject)
            return
        for part in parts:
            mark = f"waiting/{part}/{subject}"
            if self.survey.facts(mark) is None:
                yield Finding("waiting-mark-missing", mark, "the final waits for it", subject)


class Waiting(Look):
    """The marks of finals that wait. Subjects are files and empty folders in ``waiting/``."""

    def subjects(self) -> Iterator[str]:
        for part in self.survey.list("waiting"):
            finals = self.survey.list(f"waiting/{part}")
            yield from (f"waiting/{part}/{final}" for final in finals)
            if not finals:
                yield f"waiting/{part}"

    def findings(self, subject: str) -> Iterator[Finding]:
        _, part, final = (*subject.split("/"), "")[:3]
        if not final:
            yield from self.survey.folder(f"waiting/{part}")
        facts = self.survey.facts(subject)
        if facts is None or (not final and self.survey.list(subject)):
            return
        if final and not stat.S_ISREG(facts.st_mode):
            yield from self.survey.file(subject)
            return
        parts = _waited_for(self.survey, final) if UPLOAD_ID.fullmatch(final) else ()
        if stat.S_ISDIR(facts.st_mode) or (final and part not in parts):
            yield Finding("waiting-mark-left", subject, "nothing waits for it", final or None)


class Unverified(Look):
    """The marks of appends under a checksum. Subjects are names in ``unverified/``."""

    def subjects(self) -> Iterator[str]:
        yield from (f"{marks.FOLDER}/{name}" for name in self.survey.list(marks.FOLDER))

    def findings(self, subject: str) -> Iterator[Finding]:
        upload_id = self.upload_id(subject)
        if self.survey.facts(subject) is None:
            return
        if upload_id is None:
            yield Finding("stray", subject, "no upload has such an id")
            return
        upload, mark = self.survey.get(upload_id), marks.read(self.survey.root, upload_id)
        data = self.survey.facts(self.survey.view.name(upload_id))
        if upload is None or upload.published or data is None:
            yield Finding("mark-left", subject, "there is no such upload to append to", upload_id)
        elif mark is None:
            yield Finding("mark-left", subject, "it does not say where", upload_id)
        elif mark > data.st_size:
            text = f"bytes from {mark} on were to be verified, but there are {data.st_size}"
            yield Finding("mark-beyond-data", subject, text, upload_id)
        else:
            text = f"{data.st_size - mark} bytes behind {mark} have not been verified"
            yield Finding("unverified-bytes", subject, text, upload_id)


class Finishing(Look):
    """The notes of uploads whose end the application is to be told. Subjects are names in
    ``finishing/``."""

    def subjects(self) -> Iterator[str]:
        yield from (f"finishing/{name}" for name in self.survey.list("finishing"))

    def findings(self, subject: str) -> Iterator[Finding]:
        upload_id = self.upload_id(subject)
        if self.survey.facts(subject) is None:
            return
        if upload_id is None:
            yield Finding("stray", subject, "no upload has such an id")
            return
        upload = self.survey.get(upload_id)
        if upload is None:
            yield Finding("mark-left", subject, "there is no such upload", upload_id)
        elif upload.complete:
            text = (
                "it is complete, and its hooks have not run to their end; the next start runs them"
            )
            yield Finding("not-told", subject, text, upload_id)


class Joining(Look):
    """Finals that are being made. Subjects are names in ``joining/``."""

    def subjects(self) -> Iterator[str]:
        yield from (f"joining/{name}" for name in self.survey.list("joining"))

    def findings(self, subject: str) -> Iterator[Finding]:
        upload_id = self.upload_id(subject)
        facts = self.survey.facts(subject)
        if facts is None:
            return
        if upload_id is None:
            yield Finding("stray", subject, "no upload has such an id")
        elif not stat.S_ISREG(facts.st_mode):
            yield from self.survey.file(subject, upload_id)
        elif not self._is_building(subject):
            yield Finding("joining-left", subject, "nobody is making this final", upload_id)

    def _is_building(self, subject: str) -> bool:
        """Whoever builds has a lock on the file."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW
            with closing(os.open(subject, flags, dir_fd=self.survey.root)) as fd:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return True  # it was, until now
        return False


class Expiry(Look):
    """The journal, which must mention every upload that is to expire. Subjects are ids, and names
    in ``expiry/``."""

    def __init__(self, survey: Survey) -> None:
        super().__init__(survey)
        self._journal = ExpiryJournal(survey.root)
        self._missed: set[str] = set()
        self._found: set[str] | None = None

    def subjects(self) -> Iterator[str]:
        yield from (f"expiry/{name}" for name in self.survey.list("expiry"))
        counts, missed = self.survey.counts, set(self.survey.expiring)
        for noted in self._journal.lines():
            counts.expiry_lines += 1
            if noted is None:
                counts.expiry_lines_torn += 1
            elif noted[1] in missed:
                missed.discard(noted[1])
            elif noted[1] not in self.survey.expiring:
                counts.expiry_lines_gone += not self._is_known(noted[1])
        self._missed, self._found = missed, None
        yield from sorted(missed)

    def _is_known(self, upload_id: str) -> bool:
        if not UPLOAD_ID.fullmatch(upload_id):
            return False
        return self.survey.facts(f"{self.survey.view.name(upload_id)}.info") is not None

    def findings(self, subject: str) -> Iterator[Finding]:
        if "/" in subject:
            yield from self._of_file(subject)
            return
        if self._found is None:
            # A sweep may have moved a line from a file not yet read to one already read.
            noted = (line[1] for line in self._journal.lines() if line is not None)
            self._found = self._missed.intersection(noted)
        upload = self.survey.get(subject)
        if upload is None or upload.complete or upload.expires is None:
            return
        if subject not in self._found:
            path = f"{self.survey.view.name(subject)}.info"
            text = (
                f"it expires at {upload.expires:%Y-%m-%dT%H:%M:%SZ}, but no sweep will find it "
                "(unless it was complete and has lost bytes: look before you repair)"
            )
            yield Finding("expiry-not-noted", path, text, subject)

    def _of_file(self, subject: str) -> Iterator[Finding]:
        name = subject.rpartition("/")[2]
        if name.removesuffix(".taken").isdecimal():
            yield from self.survey.file(subject)
        elif self.survey.facts(subject) is not None:
            yield Finding("stray", subject, "it is no minute")


def _waited_for(survey: Survey, upload_id: str) -> frozenset[str]:
    """The partials that this upload waits for, if it is one that waits."""
    upload: Upload | None = None
    with suppress(OSError):
        upload = survey.get(upload_id)
    return frozenset() if upload is None else upload.waits_for
