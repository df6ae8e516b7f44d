"""Whom the files of a store belong to. Root acts as that user: so it meets what a server would,
and what it makes is the server's."""

from __future__ import annotations

import codecs
import os
import pwd
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Python imports these at their first use, from where the owner may not be allowed to read.
CODECS = ("ascii", "unicode_escape", "utf-8")


class Owner:
    """Of the store in ``root``: whoever made its lock file, a server that is."""

    def __init__(self, root: Path) -> None:
        facts = root.stat()
        with suppress(OSError):
            facts = (root / ".lock").stat()
        self.uid, self.gid = facts.st_uid, facts.st_gid
        self._was_root = False

    def become(self) -> None:
        """For the rest of this process's life, if it is root's."""
        if os.geteuid() == 0 and self.uid != 0:
            for codec in CODECS:
                codecs.lookup(codec)
            self._was_root = True
            os.setgroups(self._groups())
            os.setegid(self.gid)
            os.seteuid(self.uid)

    def _groups(self) -> list[int]:
        try:
            name = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return [self.gid]
        return os.getgrouplist(name, self.gid)

    @contextmanager
    def as_root(self) -> Iterator[bool]:
        """Be root again for a moment, if this process was. Gives whether it is."""
        acting = os.geteuid()
        if self._was_root:
            os.seteuid(0)
        try:
            yield os.geteuid() == 0
        finally:
            os.seteuid(acting)
