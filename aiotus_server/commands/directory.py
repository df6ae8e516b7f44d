"""The directory that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..listening import Failure, reason_of
from ..locks import FileLocker, Locker, MemoryLocker
from ..serving import why_unavailable
from ..stores.layout import StoreInUse, View
from ..stores.owner import Owner

if TYPE_CHECKING:
    import argparse

    from ..protocol.errors import TusError


def directory_of(values: argparse.Namespace) -> Path:
    """Raises Failure if there is none."""
    directory = Path(values.dir).absolute()
    if not directory.exists():
        raise Failure(f"there is no directory {directory}")
    return directory


def store_of(values: argparse.Namespace) -> Path:
    """A directory that a server has used. Raises Failure."""
    directory = directory_of(values)
    if directory.is_dir() and not (directory / ".lock").exists():
        raise Failure(f"no server has ever stored uploads in {directory}: it has no file .lock")
    return directory


def view_of(directory: Path) -> View:
    """As its owner sees it. Raises Failure."""
    try:
        become_owner(directory)
        return View(directory)
    except OSError as error:
        raise Failure(f"{directory} cannot be read: {reason_of(error)}") from error


def become_owner(directory: Path) -> Owner:
    """Root goes on as whoever runs the server: what it makes is of use to the server then."""
    owner = Owner(directory)
    owner.become()
    return owner


def locker_of(directory: Path, *, shared: bool) -> Locker:
    """Raises Failure."""
    try:
        return FileLocker(directory) if shared else MemoryLocker()
    except NotImplementedError as error:
        raise Failure(str(error)) from error


def why_not(error: TusError, directory: Path, *, shared: bool) -> str:
    """Why a command cannot have the store, and what might help."""
    why = why_unavailable(error, directory)
    if not isinstance(error, StoreInUse):
        return why
    if shared:
        return f"{why}; it was not started with --shared or several --workers: stop it first"
    return (
        f"{why}; stop it first, or if it was started with --shared or several --workers, "
        "say --shared here too"
    )
