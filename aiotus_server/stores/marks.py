"""The marks of appends under a checksum: where their bytes begin, which do not count yet."""

from __future__ import annotations

import errno
import os

from .copying import closing

FOLDER = "unverified"


def name_of(upload_id: str) -> str:
    """Where the mark is, below the root."""
    return f"{FOLDER}/{upload_id}"


def read(root: int, upload_id: str) -> int | None:
    """The offset in the upload's mark, None if there is none, or one that says nothing."""
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        with closing(os.open(name_of(upload_id), flags, dir_fd=root)) as fd:
            offset = int(os.read(fd, 32))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EISDIR, errno.ELOOP):
            return None
        raise
    return offset if offset >= 0 else None
