"""The marks of bytes that do not count yet: where an append began, under a checksum say.

A mark is a link that points to a number: it is made in one step, and on the disk before anything
that is done after it, without a flush.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

FOLDER = "unverified"


def name_of(upload_id: str) -> str:
    """Where the mark is, below the root."""
    return f"{FOLDER}/{upload_id}"


def read(root: int, upload_id: str) -> int | None:
    """The offset in the upload's mark, None if there is none, or one that says nothing."""
    try:
        offset = int(os.readlink(name_of(upload_id), dir_fd=root))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise
    return offset if offset >= 0 else None


def put(root: int, upload_id: str, offset: int) -> None:
    """Whatever else has the name."""
    try:
        os.symlink(str(offset), name_of(upload_id), dir_fd=root)
    except FileExistsError:
        remove(root, upload_id)
        os.symlink(str(offset), name_of(upload_id), dir_fd=root)


def remove(root: int, upload_id: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name_of(upload_id), dir_fd=root)
