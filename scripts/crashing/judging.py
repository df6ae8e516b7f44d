"""What must hold of a store whose server was killed, with what the application was told."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING

from aiotus_server.protocol.errors import UploadDamaged, UploadNotFound
from aiotus_server.protocol.uploads import Partial, Upload, parse_metadata
from aiotus_server.stores.layout import View, path_of
from aiotus_server.stores.snapshots import Snapshots
from aiotus_server.stores.verify import Severity, Verification
from scripts.powercut.comparing import compare_file

from . import witness

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    from .crowd import Crowd
    from .witness import Told


class Judge:
    """Of the store in ``root``, which ``crowd`` has filled, with the witness's file in ``book``."""

    def __init__(self, root: Path, book: Path, crowd: Crowd) -> None:
        self._root = root
        self._book = book
        self._crowd = crowd

    # At any moment when no server runs

    def damage(self, notes: Counter[str]) -> Iterator[str]:
        """What a verification calls an error; its notes are counted in ``notes``."""
        view = View(self._root)
        try:
            for look in Verification(view).looks:
                for subject in look.suspects():  # at once: nothing goes on beside it
                    for finding in look.findings(subject):
                        if finding.kind.severity is Severity.ERROR:
                            yield f"verify: {finding.code}: {finding.path}: {finding.text}"
                        else:
                            notes[finding.code] += 1
        finally:
            view.close()

    # At the end

    def untold(self) -> list[str]:
        """The ids of complete uploads of which the application was never told."""
        told = {told.upload_id for told in witness.read(self._book)}
        complete = {u.upload_id for u in self._uploads() if u.complete and not _is_partial(u)}
        return sorted((complete | self._acknowledged()) - told)

    def wrong_uploads(self) -> Iterator[str]:
        """Whatever is there, whoever knows of it: its bytes are those that were sent."""
        for upload in self._uploads():
            if upload.upload_id in self._crowd.deleted:
                yield f"{upload.upload_id} is there, though it was deleted"
            name = (parse_metadata(upload.metadata).get("filename") or b"").decode()
            if not name:
                continue  # a part: the upload that is made of it has been compared
            content, length = self._crowd.expected(int(name))
            if upload.complete and upload.length != length:
                yield f"{upload.upload_id} ({name}) has {upload.length} bytes instead of {length}"
            if upload.offset:
                path = path_of(self._root, upload.upload_id)
                if wrong := compare_file(path, min(upload.offset, length), content):
                    yield f"{upload.upload_id} ({name}): {wrong}"

    def wrong_events(self) -> Iterator[str]:
        """The application is told of uploads that are whole and right, each under one key."""
        digests: dict[str, str] = {}
        keys: defaultdict[str, set[str]] = defaultdict(set)
        for told in witness.read(self._book):
            keys[told.upload_id].add(told.key)
            if told.partial:
                yield f"post_finish was told of the part {told.upload_id}"
                continue
            if told.name not in digests:
                digests[told.name] = self._digest_of(told)
            if told.sha256 != digests[told.name]:
                yield f"post_finish of {told.upload_id} ({told.name}) found other bytes"
        for upload_id, found in keys.items():
            if len(found) > 1:
                yield f"post_finish of {upload_id} was told under the keys {sorted(found)}"

    def told_again(self) -> int:
        """Events beyond the first of each upload: at most a few, where a kill came in between."""
        told = [told.upload_id for told in witness.read(self._book)]
        return len(told) - len(set(told))

    def complete(self) -> int:
        return sum(upload.complete for upload in self._uploads())

    def _digest_of(self, told: Told) -> str:
        content, length = self._crowd.expected(int(told.name))
        sha256 = hashlib.sha256()
        for piece in content.pieces(0, length):
            sha256.update(piece)
        return sha256.hexdigest()

    def _acknowledged(self) -> set[str]:
        return {job.url.rpartition("/")[2] for job in self._crowd.jobs.values()}

    def _uploads(self) -> Iterator[Upload]:
        """Without those that are damaged: a verification tells of them."""
        view = View(self._root)
        try:
            snapshots = Snapshots(view)
            for upload_id in snapshots.ids():
                try:
                    yield snapshots.get(upload_id)
                except (UploadNotFound, UploadDamaged):
                    continue
        finally:
            view.close()


def _is_partial(upload: Upload) -> bool:
    return isinstance(upload.concat, Partial)
