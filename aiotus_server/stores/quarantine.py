"""Where damaged uploads go: out of the way of clients, and kept for whoever can make sense of
them. Blocking: for threads."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = "quarantine"


def put_aside(root: int, what: str, files: Mapping[str, str]) -> str | None:
    """Move files out of the store whose root ``root`` is a descriptor of.

    ``files`` are names below the root and how they are called in the folder that they get to,
    a new one, named for ``what`` and the time. Nothing is replaced, so nothing is lost. Returns
    the folder, None if there were no such files. Raises OSError; what has been moved by then
    stays moved.
    """
    folder = _make_folder(root, what)
    moved = False
    try:
        for name, kept_as in files.items():
            with suppress(FileNotFoundError):
                os.rename(name, f"{folder}/{kept_as}", src_dir_fd=root, dst_dir_fd=root)
                moved = True
    finally:
        if not moved:
            os.rmdir(folder, dir_fd=root)
    return folder if moved else None


def make_room(root: int) -> None:
    """Give the folder back its name, if something else has it. That stays beside it."""
    os.rename(FOLDER, _named_for_now(FOLDER), src_dir_fd=root, dst_dir_fd=root)


def _make_folder(root: int, what: str) -> str:
    with suppress(FileExistsError):
        os.mkdir(FOLDER, dir_fd=root)
    while True:
        name = _named_for_now(f"{FOLDER}/{what}")
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=root)
            return name


def _named_for_now(what: str) -> str:
    return f"{what}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
