"""``show``: all that is known of one upload."""

from __future__ import annotations

import base64
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..arguments import Parser
from ..flags import SHOW_GROUPS
from ..listening import Failure, reason_of
from ..protocol.errors import UploadDamaged, UploadNotFound
from ..protocol.uploads import UPLOAD_ID, Final, parse_metadata
from ..states import states_of
from ..stores import marks, quarantine
from ..stores.snapshots import Snapshots
from .describing import printable, say, say_json, time_of
from .directory import store_of, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..protocol.uploads import Outcome, Upload
    from ..stores.layout import View

_ABOUT = """\
Tells all that is known of an upload in the directory of a server, which may be running."""


def show(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    parser = Parser(SHOW_GROUPS, prog="aiotus-server show", description=_ABOUT)
    parser.add_argument("id", metavar="ID", help="the last part of the upload's URL")
    values = parser.read(arguments, environment)
    if not UPLOAD_ID.fullmatch(values.id):
        parser.error(f"{values.id!r} cannot be the id of an upload")
    directory = store_of(values)
    view = view_of(directory)
    try:
        facts = _facts(view, values.id)
    except OSError as error:
        raise Failure(f"{directory} cannot be read: {reason_of(error)}") from error
    if facts is None:
        raise Failure(f"there is no upload {values.id} in {directory}")
    if values.json:
        say_json(facts, indent=2)
    else:
        for line in _lines(facts):
            say(line)


def _facts(view: View, upload_id: str) -> dict[str, Any] | None:
    """None if there is not even a file."""
    snapshots = Snapshots(view)
    upload: Upload | None = None
    facts: dict[str, Any] = {"id": upload_id}
    try:
        upload = snapshots.get(upload_id)
        facts |= _facts_of(upload)
    except UploadDamaged as damage:
        facts |= {"states": ["damaged"], "damage": {"code": damage.finding, "text": damage.why}}
    except UploadNotFound:
        pass
    facts["waited_for_by"] = sorted(snapshots.waiting_for(upload_id))
    facts["files"] = list(_files(view, upload_id, upload))
    facts["quarantined"] = _quarantined(view.root, upload_id)
    return facts if facts["files"] or facts["quarantined"] else None


def _facts_of(upload: Upload) -> dict[str, Any]:
    final = upload.concat if isinstance(upload.concat, Final) else None
    return {
        "states": states_of(upload, datetime.now(UTC)),
        "offset": upload.offset,
        "length": upload.length,
        "created": time_of(upload.created),
        "expires": None if upload.complete else time_of(upload.expires),
        "lifetime": None if upload.lifetime is None else upload.lifetime.total_seconds(),
        "owner": upload.owner,
        "metadata": _texts(parse_metadata(upload.metadata, lenient=True)),
        "metadata_header": upload.metadata,
        "app_metadata": None if upload.app_metadata is None else _texts(upload.app_metadata),
        "concat_header": upload.concat_header,
        "parts": None if final is None else list(final.parts),
        "path": upload.path,
        "outcome": None if upload.outcome is None else _outcome(upload.outcome),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "headers": dict(outcome.headers),
        "body": _text(outcome.body),
    }


def _texts(metadata: Mapping[str, bytes | None]) -> dict[str, Any]:
    return {key: None if value is None else _text(value) for key, value in metadata.items()}


def _text(value: bytes) -> Any:
    """As text if it is, else in Base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _files(view: View, upload_id: str, upload: Upload | None) -> Iterator[dict[str, Any]]:
    name = view.name(upload_id)
    names = [name, f"{name}.info", f"{name}.info.new", marks.name_of(upload_id)]
    paths = [view.root / name for name in names]
    if upload is not None and upload.published and upload.path:
        paths.append(view.root / upload.path)
    for path in paths:
        try:
            facts = path.lstat()
        except FileNotFoundError:
            continue
        yield {
            "path": str(path),
            "bytes": facts.st_size,
            "allocated": facts.st_blocks * 512,
            "modified": time_of(datetime.fromtimestamp(facts.st_mtime, UTC)),
            "mode": stat.filemode(facts.st_mode),
            "user": facts.st_uid,
            "group": facts.st_gid,
        }


def _quarantined(root: Path, upload_id: str) -> list[str]:
    folder = root / quarantine.FOLDER
    try:
        cases = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(str(folder / case) for case in cases if case.partition(".")[0] == upload_id)


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """Names and values, what is inside of others below them; what there is not is left out."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield f"{indent}{printable(key)}:"
            yield from _lines(inner, indent + "  ")
        elif inner and isinstance(inner, list) and isinstance(inner[0], dict):
            for item in inner:
                path, *rest = item.items()
                yield f"{indent}{printable(key)}: {printable(path[1])}"
                yield from _lines(dict(rest), indent + "  ")
        elif inner not in (None, [], ""):
            text = ", ".join(inner) if isinstance(inner, list) else str(inner)
            yield f"{indent}{printable(key)}: {printable(text)}"
