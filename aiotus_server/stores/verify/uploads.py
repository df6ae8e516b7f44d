"""The uploads: each has an info file, and bytes that agree with it, in its folder."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from ...protocol.errors import UploadDamaged, UploadNotFound
from ...protocol.uploads import UPLOAD_ID, Upload
from ..copying import closing
from ..layout import SHARDS
from ..writing import first_hole
from .findings import Finding
from .survey import Look

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDS = ("", ".info", ".info.new")
_name = re.compile(rf"({UPLOAD_ID.pattern})(?:\.info(?:\.new)?)?")


class Uploads(Look):
    """Subjects are names of data files, whether or not there is one; or of what is none."""

    def subjects(self) -> Iterator[str]:
        for shard in SHARDS:
            names: set[str] = set()
            for name in self.survey.list(shard):
                match = _name.fullmatch(name)
                names.add(match[1] if match else name)
            yield from (f"{shard}/{name}" for name in sorted(names))

    def suspects(self) -> Iterator[str]:
        for subject in self.subjects():
            upload, findings = self._examine(subject)
            if upload is not None:
                self.survey.note(upload)
            if findings:
                yield subject

    def findings(self, subject: str) -> Iterator[Finding]:
        yield from self._examine(subject)[1]

    def _examine(self, subject: str) -> tuple[Upload | None, list[Finding]]:
        upload_id = self.upload_id(subject)
        if upload_id is None or self.survey.view.name(upload_id) != subject:
            return None, list(self._misplaced(subject, upload_id))
        try:
            upload = self.survey.snapshots.get(upload_id)
        except (UploadDamaged, OSError) as trouble:
            odd = list(self._odd_files(subject, upload_id))
            return None, odd or list(self._damaged(subject, upload_id, trouble))
        except UploadNotFound:
            return None, list(self._leftover(subject, upload_id))
        return upload, list(self._whole(subject, upload))

    def _odd_files(self, subject: str, upload_id: str) -> Iterator[Finding]:
        for end in ENDS:
            yield from self.survey.file(f"{subject}{end}", upload_id)

    def _misplaced(self, subject: str, upload_id: str | None) -> Iterator[Finding]:
        """A name that no upload can have, or not in this folder."""
        facts = self.survey.facts
        if upload_id is None:
            if facts(subject) is not None:
                yield Finding("stray", subject, "no upload has a file of such a name")
        elif any(facts(f"{subject}{end}") is not None for end in ENDS):
            place = self.survey.view.name(upload_id).partition("/")[0]
            yield Finding("wrong-folder", subject, f"it belongs into {place}/", upload_id)

    def _damaged(
        self, subject: str, upload_id: str, trouble: UploadDamaged | OSError
    ) -> Iterator[Finding]:
        if isinstance(trouble, OSError):
            text = f"it cannot be read: {os.strerror(trouble.errno or 0)}"
            yield Finding("disk-error", f"{subject}.info", text, upload_id)
            return
        code: str | None = trouble.finding
        text = trouble.why
        if code in ("info-missing", "info-unreadable"):
            code, text = self._explained(subject, trouble, upload_id)
        if code is not None:
            of_info = code in ("info-unreadable", "data-missing")
            yield Finding(code, f"{subject}.info" if of_info else subject, text, upload_id)

    def _explained(
        self, subject: str, damage: UploadDamaged, upload_id: str
    ) -> tuple[str | None, str]:
        """Code and text; what a crash alone may have left is no damage."""
        data, info, fresh = (self.survey.facts(f"{subject}{end}") for end in ENDS)
        building = self.survey.facts(f"joining/{upload_id}")
        if info is None and data is not None:
            if building is not None and os.path.samestat(building, data):
                return None, ""  # a final that has just appeared; "joining-left" tells of it
            if fresh is not None:
                return "termination-cut-off", "its removal was begun, and not ended"
            if data.st_size == 0:
                return "creation-cut-off", "it has no info file and no bytes: nobody knows it"
        if info is not None and info.st_size == 0:
            return "creation-cut-off", "its info file is empty: nobody was told of it"
        return damage.finding, damage.why

    def _leftover(self, subject: str, upload_id: str) -> Iterator[Finding]:
        fresh = f"{subject}.info.new"
        if self.survey.facts(fresh) is not None:
            yield Finding("info-new-left", fresh, "there is no such upload", upload_id)

    def _whole(self, subject: str, upload: Upload) -> Iterator[Finding]:
        upload_id, fresh = upload.upload_id, f"{subject}.info.new"
        yield from self._odd_files(subject, upload_id)
        facts = self.survey.facts(fresh)
        if facts is not None and stat.S_ISREG(facts.st_mode):
            yield Finding("info-new-left", fresh, "it was to replace the info file", upload_id)
        if upload.published:
            yield from self._published(subject, upload)
        else:
            yield from self._bytes(subject, upload)

    def _published(self, subject: str, upload: Upload) -> Iterator[Finding]:
        if self.survey.facts(subject) is not None:
            text = f"the upload has been published at {upload.path}"
            yield Finding("published-data-left", subject, text, upload.upload_id)
        assert upload.path is not None
        try:
            facts = os.stat(upload.path)
        except (FileNotFoundError, NotADirectoryError):
            text = f"it was published at {upload.path}, where nothing is"
            yield Finding("published-file-missing", f"{subject}.info", text, upload.upload_id)
            return
        except OSError:
            return  # not for these eyes
        if facts.st_size != upload.length:
            text = f"{upload.path} has {facts.st_size} bytes; it had {upload.length}"
            yield Finding("published-file-changed", f"{subject}.info", text, upload.upload_id)

    def _bytes(self, subject: str, upload: Upload) -> Iterator[Finding]:
        try:
            with closing(os.open(subject, os.O_RDONLY, dir_fd=self.survey.root)) as fd:
                facts = os.fstat(fd)
                size = facts.st_size
                hole = first_hole(fd, size)
        except OSError:
            return  # it is gone, or may not be read
        if hole >= upload.offset:
            return
        if not self.survey.snapshots.is_suspect(upload, facts):
            text = f"from byte {hole} on some bytes were never written, or are zeros, of {size}"
            yield Finding("data-hole", subject, text, upload.upload_id)
        else:
            text = f"from byte {hole} on some bytes were never written: they are to be sent again"
            yield Finding("unverified-bytes", subject, text, upload.upload_id)
