"""Publishing: the bytes of a finished upload appear at a path of the application's."""

from __future__ import annotations

import os
import secrets
import tempfile
from typing import TYPE_CHECKING

from .copying import closing, copy
from .layout import make_folders, sync_path

if TYPE_CHECKING:
    from pathlib import Path


def publish(source: Path, target: Path, *, sync: bool) -> None:
    """Have the bytes of ``source`` appear at ``target``, whole, without replacing anything.

    Blocking. ``sync`` flushes the folder. Raises FileExistsError when something else is there;
    after a crash it may be done again, and finds what it did before. ``source`` stays.
    """
    make_folders(target.parent, sync=sync)
    try:
        os.link(source, target)
    except FileExistsError:
        if not os.path.samefile(source, target):
            raise
    except OSError:
        _copy_into_place(source, target)
    if sync:
        sync_path(target.parent)


def _copy_into_place(source: Path, target: Path) -> None:
    """For another file system: a copy under a name of its own, then its real name."""
    fd, name = tempfile.mkstemp(prefix=f".{secrets.token_hex(4)}-", dir=target.parent)
    try:
        with closing(fd), closing(os.open(source, os.O_RDONLY)) as bytes_of:
            copy(bytes_of, fd, os.fstat(bytes_of).st_size, 0, lambda: False)
            os.fchmod(fd, os.fstat(bytes_of).st_mode & 0o777)
            os.fsync(fd)
        os.link(name, target)
    finally:
        os.unlink(name)
