"""``list``: a line for each upload, in the order of their creation."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..arguments import Parser
from ..flags import LIST_GROUPS
from ..listening import Failure, reason_of
from ..protocol.errors import UploadDamaged, UploadNotFound
from ..states import states_of
from ..stores.snapshots import Snapshots
from .describing import name_of, printable, say, time_of
from .directory import store_of, view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ..protocol.uploads import Upload

_ABOUT = """\
Lists the uploads in the directory of a server, which may be running: id, state, bytes of how many,
creation, expiry and file name, the eldest first."""


def list_uploads(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Print those that have all of the states that are asked for."""
    parser = Parser(LIST_GROUPS, prog="aiotus-server list", description=_ABOUT)
    values = parser.read(arguments, environment)
    directory = store_of(values)
    describe = _as_json if values.json else _as_line
    listing = _Listing(Snapshots(view_of(directory)), frozenset(values.state or ()), describe)
    try:
        for line in _sorted(listing.lines()):
            say(line)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise Failure(f"{directory} cannot be read: {reason_of(error)}") from error
    if unread := listing.unread():
        sys.stderr.write(
            f"aiotus-server: left out {unread} that cannot be read; see aiotus-server verify\n"
        )


class _Listing:
    """Of uploads that may come and go meanwhile."""

    def __init__(
        self,
        snapshots: Snapshots,
        wanted: frozenset[str],
        describe: Callable[[Upload, list[str]], str],
    ) -> None:
        self._snapshots = snapshots
        self._wanted = wanted
        self._describe = describe
        self._now = datetime.now(UTC)
        self._suspects: list[str] = []

    def lines(self) -> Iterator[tuple[float, str]]:
        """With the times of creation, by which they are to be sorted."""
        for upload_id in self._snapshots.ids():
            try:
                upload = self._snapshots.get(upload_id)
            except (UploadDamaged, OSError):
                self._suspects.append(upload_id)
            except UploadNotFound:
                continue
            else:
                states = states_of(upload, self._now)
                if self._wanted.issubset(states):
                    yield upload.created.timestamp(), self._describe(upload, states)

    def unread(self) -> int:
        """Uploads that were not read, and cannot be now: so they were not just being made."""
        return sum(map(self._is_unreadable, self._suspects))

    def _is_unreadable(self, upload_id: str) -> bool:
        try:
            self._snapshots.get(upload_id)
        except (UploadDamaged, OSError):
            return True
        except UploadNotFound:
            return False
        return False


def _sorted(lines: Iterator[tuple[float, str]]) -> Iterator[str]:
    """The lines of a million uploads do not stay in memory: names may be long."""
    order: list[tuple[float, int]] = []
    with tempfile.TemporaryFile() as file:
        for created, line in lines:
            order.append((created, file.tell()))
            file.write(line.encode() + b"\n")
        order.sort()
        for _, place in order:
            file.seek(place)
            yield file.readline()[:-1].decode()


def _as_json(upload: Upload, states: list[str]) -> str:
    return json.dumps(
        {
            "id": upload.upload_id,
            "states": states,
            "offset": upload.offset,
            "length": upload.length,
            "created": time_of(upload.created),
            "expires": None if upload.complete else time_of(upload.expires),
            "name": name_of(upload),
            "owner": upload.owner,
        }
    )


def _as_line(upload: Upload, states: list[str]) -> str:
    size = f"{upload.offset}/{'?' if upload.length is None else upload.length}"
    expires = None if upload.complete else time_of(upload.expires)
    return (
        f"{upload.upload_id:<32}  {','.join(states):<18}  {size:>21}  {time_of(upload.created)}  "
        f"{expires or '-':<20}  {printable(name_of(upload) or '-')}"
    )
