"""Runs inside the server: tells of every file that is touched outside of its folder.

It is loaded as ``--hooks scripts.fuzzing.watch:hooks``; the hooks themselves do nothing.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from aiotus_server import Hooks

OUTSIDE = "touched outside of the folder:"
VARIABLE = "FUZZED_FOLDER"  # of the environment

_EVENTS = {
    *("open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink"),
    *("os.truncate", "os.listdir", "os.scandir", "os.chmod", "os.chown", "os.utime", "shutil.move"),
}
# Relative to a descriptor of the root: two parts at most but for those who wait, and no dots.
_inside = re.compile(
    r"\.locks?|\.unflushed|[0-9a-f]{2}(/[A-Za-z0-9_-]{1,64}(\.info(\.new)?)?)?"
    r"|(expiry|finishing|joining|quarantine|unverified|waiting)(/[A-Za-z0-9_.-]{1,70}){0,2}"
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def paths_outside(event: str, arguments: tuple[object, ...], root: Path) -> list[str]:
    """The paths of an audit event that are not below ``root``. Reading Python's own files, for
    an import or a traceback, is no offence."""
    if event not in _EVENTS:
        return []
    paths = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
    if event == "os.symlink":
        paths = arguments[1:2]  # what it points to is a number, and no file
    texts = [os.fsdecode(path) for path in paths if isinstance(path, (str, bytes, os.PathLike))]
    return [text for text in texts if not _is_allowed(text, root, event, arguments)]


def _is_allowed(text: str, root: Path, event: str, arguments: tuple[object, ...]) -> bool:
    if not text.startswith("/"):
        return _inside.fullmatch(text) is not None and ".." not in text
    if "/../" not in f"{text}/" and Path(text).is_relative_to(root):
        return True
    flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
    reads = event in ("os.listdir", "os.scandir") or (event == "open" and not _writes(flags))
    own = (sys.prefix, sys.base_prefix, *filter(None, sys.path), "/dev/urandom", "/proc/self")
    return reads and "/../" not in text and text.startswith(own)


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & _WRITING)


def _watch(root: Path) -> None:
    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS:
            for path in paths_outside(event, arguments, root):
                os.write(2, f"{OUTSIDE} {event} {path!r}\n".encode())

    sys.addaudithook(audit)


hooks = Hooks()
if VARIABLE in os.environ:
    _watch(Path(os.environ[VARIABLE]))
