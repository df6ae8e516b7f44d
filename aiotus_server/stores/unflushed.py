"""Since when complete uploads may have been left without bytes of theirs by a power cut.

Without a flush the kernel writes what it has in any order: an upload may be as long as it should be,
and have holes. Under the durability ``none`` the store notes when it began to leave that to the
kernel, and takes the note away when it ends in an orderly way and has flushed all. Where there is a
note, complete uploads since then are looked at.
"""

from __future__ import annotations

import errno
import os

from .filesystem import can_sync, sync_file_system

NAME = ".unflushed"


def since(root: int) -> int | None:
    """Nanoseconds since 1970; None if nothing need be looked at, or something else has the name."""
    try:
        return int(os.readlink(NAME, dir_fd=root))
    except ValueError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        return None


def begin(root: int, now: int) -> bool:
    """Note it, for the disk at once; whether there was no note before."""
    try:
        os.symlink(str(now), NAME, dir_fd=root)
    except FileExistsError:
        return False
    os.fsync(root)
    return True


def end(root: int) -> None:
    """Flush all, and take the note away."""
    if can_sync(root):
        sync_file_system(root)
        os.unlink(NAME, dir_fd=root)
