"""Publishing: the bytes of a finished upload appear at a path of the application's."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ..protocol.errors import PathTaken
from .copying import closing
from .copying import copy as copy_range
from .layout import make_folders, sync_path

if TYPE_CHECKING:
    from pathlib import Path

    from ..protocol.uploads import Upload


def publish(source: Path, target: Path, copy: Path, *, sync: bool) -> None:
    """Have the bytes of ``source`` appear at ``target``, whole, without replacing anything.

    Blocking. ``sync`` flushes the folder. Raises FileExistsError when something else is there;
    after a crash it may be done again, and finds what it did before. ``source`` stays, and so
    may ``copy``, until it is certain that this need not be done again.
    """
    make_folders(target.parent, sync=sync)
    try:
        os.link(source, target)
    except FileExistsError:
        if not _same(source, target) and not _same(copy, target):
            raise
    except OSError:
        _copy_into_place(source, target, copy)
    if sync:
        sync_path(target.parent)


def check_path(upload: Upload) -> None:
    """Before the first byte rather than after the last: that it can be published there. Raises
    PathTaken."""
    if upload.path is not None:
        with suppress(FileNotFoundError):
            os.lstat(upload.path)
            raise PathTaken


def copy_of(target: Path, upload_id: str) -> Path:
    """Where the bytes are gathered when ``target`` is on another file system."""
    return target.with_name(f".{upload_id}.publishing")


def _same(path: Path, target: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samefile(path, target)
    return False


def _copy_into_place(source: Path, target: Path, copy: Path) -> None:
    """A copy under a name of its own, then its real name."""
    if _same(copy, target):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with closing(os.open(source, os.O_RDONLY)) as bytes_of:
            facts = os.fstat(bytes_of)
            with closing(os.open(copy, flags, 0o600)) as fd:
                copy_range(bytes_of, fd, facts.st_size, 0, lambda: False)
                os.fchmod(fd, facts.st_mode & 0o777)
                os.fsync(fd)
        os.link(copy, target)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
