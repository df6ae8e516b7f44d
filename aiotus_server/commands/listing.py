"""``list``: a line for each upload, in the order of their creation."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..arguments import Parser
from ..flags import LIST_GROUPS
from ..listening import Failure, reason_of
from ..protocol.errors import UploadDamaged, UploadNotFound
from ..states import states_of
from ..stores.snapshots import Snapshots
from .describing import name_of, printable, say, time_of
from .directory import store_of, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..protocol.uploads import Upload

_ABOUT = """\
Lists the uploads in the directory of a server, which may be running: id, state, bytes of how many,
creation, expiry and file name, the eldest first."""


def list_uploads(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Print those that have all of the states that are asked for."""
    parser = Parser(LIST_GROUPS, prog="aiotus-server list", description=_ABOUT)
    values = parser.read(arguments, environment)
    directory = store_of(values)
    listing = _Listing(Snapshots(view_of(directory)), frozenset(values.state or ()))
    try:
        for row in _sorted(listing.rows()):
            say(json.dumps(row) if values.json else _line(row))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise Failure(f"{directory} cannot be read: {reason_of(error)}") from error
    if damaged := listing.damaged():
        sys.stderr.write(
            f"aiotus-server: left out {damaged} damaged; aiotus-server verify tells which\n"
        )


class _Listing:
    """Of uploads that may come and go meanwhile."""

    def __init__(self, snapshots: Snapshots, wanted: frozenset[str]) -> None:
        self._snapshots = snapshots
        self._wanted = wanted
        self._now = datetime.now(UTC)
        self._suspects: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        for upload_id in self._snapshots.ids():
            try:
                upload = self._snapshots.get(upload_id)
            except UploadDamaged:
                self._suspects.append(upload_id)
            except UploadNotFound:
                continue
            else:
                states = states_of(upload, self._now)
                if self._wanted.issubset(states):
                    yield _row(upload, states)

    def damaged(self) -> int:
        """Uploads that were not read, and cannot be now: so they were not just being made."""
        return sum(map(self._is_damaged, self._suspects))

    def _is_damaged(self, upload_id: str) -> bool:
        try:
            self._snapshots.get(upload_id)
        except UploadDamaged:
            return True
        except UploadNotFound:
            return False
        return False


def _row(upload: Upload, states: list[str]) -> dict[str, Any]:
    return {
        "id": upload.upload_id,
        "states": states,
        "offset": upload.offset,
        "length": upload.length,
        "created": time_of(upload.created),
        "expires": None if upload.complete else time_of(upload.expires),
        "name": name_of(upload),
        "_created": upload.created.timestamp(),
    }


def _sorted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """By creation. A million rows do not stay in memory: names may be long."""
    order: list[tuple[float, int]] = []
    with tempfile.TemporaryFile() as file:
        for row in rows:
            order.append((row.pop("_created"), file.tell()))
            file.write(json.dumps(row).encode() + b"\n")
        order.sort()
        for _, place in order:
            file.seek(place)
            yield json.loads(file.readline())


def _line(row: dict[str, Any]) -> str:
    size = f"{row['offset']}/{'?' if row['length'] is None else row['length']}"
    return (
        f"{row['id']:<32}  {','.join(row['states']):<18}  {size:>21}  {row['created']}  "
        f"{row['expires'] or '-':<20}  {printable(row['name'] or '-')}"
    )
