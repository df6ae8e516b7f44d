"""One finding at a time, under the lock of the upload that it is about."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .. import quarantine
from ..copying import closing
from ..writing import first_hole
from .findings import Finding, Repair
from .uploads import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..files import Files
    from ..layout import Layout
    from ..owner import Owner


class Mender:
    """Raises OSError, or a TusError, when a finding cannot be mended. Blocking."""

    def __init__(self, files: Files, layout: Layout, owner: Owner) -> None:
        self._files = files
        self._layout = layout
        self._root = layout.fd
        self._owner = owner
        self._by_repair: dict[Repair, Callable[[Finding], None]] = {
            Repair.QUARANTINE: self._put_aside,
            Repair.REMOVE: self._remove,
            Repair.MOVE: self._move,
            Repair.CUT: self._cut,
            Repair.PERMIT: self._permit,
        }
        self._by_code: dict[str, Callable[[Finding], None]] = {
            "published-data-left": self._remove_published,
            "mark-beyond-data": self._cut,
            "waiting-mark-left": self._remove_waiting_mark,
            "joining-left": self._remove_half_built,
            "waiting-mark-missing": self._add_waiting_mark,
            "expiry-not-noted": self._note_expiry,
        }

    def mend(self, finding: Finding) -> None:
        mend = self._by_code.get(finding.code) or self._by_repair[finding.kind.repair]
        mend(finding)

    def _put_aside(self, finding: Finding) -> None:
        """The whole upload if it is about that."""
        upload_id, path = finding.upload_id, finding.path
        if upload_id and path.removesuffix(".info") == self._layout.name(upload_id):
            self._files.put_aside(upload_id)
        else:
            self._put_path_aside(path)

    def _put_path_aside(self, path: str) -> None:
        if path == quarantine.FOLDER:
            quarantine.make_room(self._root)
            return
        what = path.replace("/", "-")[:100]
        quarantine.put_aside(self._root, what, {path: path.rpartition("/")[2]})

    def _remove(self, finding: Finding) -> None:
        try:
            os.unlink(finding.path, dir_fd=self._root)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):  # Linux says this of a folder, or others that
            self._put_path_aside(finding.path)

    def _remove_published(self, finding: Finding) -> None:
        """A second name of what is at its path goes. Anything else is put aside."""
        assert finding.upload_id is not None
        path = self._files.get(finding.upload_id).path
        assert path is not None
        with suppress(FileNotFoundError):
            data = os.stat(finding.path, dir_fd=self._root, follow_symlinks=False)
            if os.path.samestat(data, os.stat(path)):
                os.unlink(finding.path, dir_fd=self._root)
                return
        self._put_path_aside(finding.path)

    def _remove_waiting_mark(self, finding: Finding) -> None:
        _, part, final = (*finding.path.split("/"), "")[:3]
        if final:
            self._files.remove_mark(part, final)
        else:
            os.rmdir(finding.path, dir_fd=self._root)

    def _remove_half_built(self, finding: Finding) -> None:
        assert finding.upload_id is not None
        flags = os.O_RDONLY | os.O_NOFOLLOW
        with closing(os.open(finding.path, flags, dir_fd=self._root)) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._files.remove_half_built(finding.upload_id, os.fstat(fd))

    def _add_waiting_mark(self, finding: Finding) -> None:
        _, part, final = finding.path.split("/")
        self._files.add_mark(part, final)

    def _note_expiry(self, finding: Finding) -> None:
        assert finding.upload_id is not None
        upload = self._files.get(finding.upload_id)
        if upload.expires is not None:
            self._files.journal.add(upload.upload_id, upload.expires.timestamp())

    def _cut(self, finding: Finding) -> None:
        assert finding.upload_id is not None
        upload = self._files.get(finding.upload_id)
        with closing(self._files.open_for_reading(upload)) as fd:
            suspect = self._files.is_suspect(upload, os.fstat(fd))
            offset = first_hole(fd, upload.offset) if suspect else upload.offset
        self._files.rewind(replace(upload, offset=offset))

    def _move(self, finding: Finding) -> None:
        """Into the folder where it belongs, or aside if there is something of this id."""
        assert finding.upload_id is not None
        place = self._layout.name(finding.upload_id)
        self._layout.make_shard(finding.upload_id)
        moves = {f"{finding.path}{end}": f"{place}{end}" for end in ENDS}
        if any(self._is_there(target) for target in moves.values()):
            names = {name: name.rpartition("/")[2] for name in moves}
            quarantine.put_aside(self._root, finding.upload_id, names)
            return
        # The info file last, so that nobody meets one without bytes.
        for source, target in sorted(moves.items()):
            with suppress(FileNotFoundError):
                os.rename(source, target, src_dir_fd=self._root, dst_dir_fd=self._root)

    def _is_there(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
            return True
        return False

    def _permit(self, finding: Finding) -> None:
        """To the owner of the store. Takes root, or its owner and a file of his."""
        with self._owner.as_root() as is_root:
            facts = os.stat(finding.path, dir_fd=self._root, follow_symlinks=False)
            if is_root:
                uid, gid = self._owner.uid, self._owner.gid
                os.chown(finding.path, uid, gid, dir_fd=self._root, follow_symlinks=False)
            mode = stat.S_IMODE(facts.st_mode)
            mode |= 0o700 if stat.S_ISDIR(facts.st_mode) else 0o600
            os.chmod(finding.path, mode, dir_fd=self._root)
