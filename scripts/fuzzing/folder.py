"""What lies in the folder of the server: nothing but what is documented."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .exchanges import TAG
from .judging import CANARY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ID = "[A-Za-z0-9_-]{1,64}"
_known = re.compile(
    rf"\.locks?|\.unflushed|expiry/[0-9]+(\.taken)?|waiting/{_ID}/(?P<final>{_ID})"
    rf"|(?P<shard>[0-9a-f]{{2}})/(?P<id>{_ID})(?P<info>\.info)?"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An upload, and the number of the attack that created it, if one did and its tag is there
    as it was."""

    upload_id: str
    attack: int | None


class Folder:
    """``root`` is the server's, in a folder of ours that has the canary and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.canary = root.parent / "canary"

    def lay(self) -> None:
        self.root.mkdir()
        self.canary.write_bytes(CANARY)

    def uploads(self) -> Iterator[Stored]:
        for path in self.root.glob("??/*.info"):
            yield Stored(path.name.removesuffix(".info"), _attack_of(path))

    def complaints(self) -> Iterator[str]:
        """In a quiet moment, when no request is under way."""
        if self.canary.read_bytes() != CANARY:
            yield "the canary was changed"
        names = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*")}
        uploads: set[str] = set()
        for name in sorted(names):
            if (self.root / name).is_dir():
                continue
            match = _known.fullmatch(name)
            if match is None:
                yield f"there is a stray file {name}"
            elif match["id"]:
                uploads.add(match["id"])
                yield from self._of_upload(match, names)
        for name in sorted(names):
            match = _known.fullmatch(name)
            if match is not None and match["final"] and match["final"] not in uploads:
                yield f"{name} waits for nobody"

    def _of_upload(self, match: re.Match[str], names: set[str]) -> Iterator[str]:
        name, upload_id = f"{match['shard']}/{match['id']}", match["id"]
        if f"{zlib.crc32(upload_id.encode()) & 0xFF:02x}" != match["shard"]:
            yield f"{name} is in the wrong folder"
        if not match["info"]:
            if f"{name}.info" not in names:
                yield f"{name} has no info file"
        elif name not in names:
            yield f"{name}.info has no bytes"
        else:
            yield from self._of_sizes(name)

    def _of_sizes(self, name: str) -> Iterator[str]:
        info = json.loads((self.root / f"{name}.info").read_bytes())
        size = (self.root / name).stat().st_size
        if info.get("length") is not None and size > info["length"]:
            yield f"{name} has {size} bytes, and a length of {info['length']}"


def _attack_of(path: Path) -> int | None:
    metadata = json.loads(path.read_bytes()).get("metadata") or ""
    for pair in metadata.split(","):
        key, _, value = pair.strip().partition(" ")
        if key == TAG.decode():
            try:
                return int(base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError):
                return None
    return None
