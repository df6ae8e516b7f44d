"""``rm`` and ``gc``: uploads go, as if by DELETE or by the sweep of a server."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..arguments import Parser
from ..call import Call
from ..damage import get_held
from ..disk_errors import disk_errors
from ..flags import GC_GROUPS, RM_GROUPS
from ..listening import Failure
from ..locks import Purpose
from ..options import Options
from ..protocol.errors import HookFailed, Refuse, TusError, UploadLocked, UploadNotFound
from ..protocol.uploads import UPLOAD_ID
from ..server import Server
from ..serving import make_directory
from ..starting import hooks_of, start_logging
from ..stores import DiskStore
from ..sweeper import sweep
from .directory import become_owner, directory_of, locker_of, store_of, why_not

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from ..hooks import Hooks

_GC_ABOUT = """\
Removes the unfinished uploads that have expired from the directory of a server that does not
run. A running server does so itself."""

_RM_ABOUT = """\
Removes uploads from the directory of a server, complete ones too, and tells the hooks. A body that
is just being received for one of them ends."""


def gc(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Remove expired uploads, and print how many."""
    parser = Parser(GC_GROUPS, prog="aiotus-server gc", description=_GC_ABOUT)
    values = parser.read(arguments, environment)
    start_logging(values.log_level)
    hooks = hooks_of(values.hooks)
    directory = directory_of(values)
    become_owner(directory)
    make_directory(directory)
    removed = asyncio.run(_gc(directory, hooks, shared=values.shared))
    uploads = "upload" if removed == 1 else "uploads"
    sys.stdout.write(f"{removed} expired {uploads} removed from {directory}\n")


async def _gc(directory: Path, hooks: Hooks | None, *, shared: bool) -> int:
    async with _server(directory, hooks, shared=shared) as server:
        return await sweep(server)


def rm(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Remove uploads, and print the ids of those that are gone. The code is 1 if any is not."""
    parser = Parser(RM_GROUPS, prog="aiotus-server rm", description=_RM_ABOUT)
    parser.add_argument("ids", metavar="ID", nargs="+", help="the last part of an upload's URL")
    values = parser.read(arguments, environment)
    for upload_id in values.ids:
        if not UPLOAD_ID.fullmatch(upload_id):
            parser.error(f"{upload_id!r} cannot be the id of an upload")
    start_logging(values.log_level)
    hooks = hooks_of(values.hooks)
    directory = store_of(values)
    become_owner(directory)
    make_directory(directory)
    return asyncio.run(_rm(directory, hooks, values))


async def _rm(directory: Path, hooks: Hooks | None, values: argparse.Namespace) -> int:
    code = 0
    async with _server(directory, hooks, shared=values.shared) as server:
        for upload_id in dict.fromkeys(values.ids):
            try:
                await _remove(server, upload_id)
                sys.stdout.write(f"{upload_id} removed\n")
            except (UploadNotFound, UploadLocked, Refuse, HookFailed) as error:
                sys.stderr.write(f"aiotus-server: {upload_id} is not removed: {_why(error)}\n")
                code = 1
    return code


async def _remove(server: Server, upload_id: str) -> None:
    """DELETE, but for its rules: what has expired goes too."""
    options = Options()
    offer = options.offer(server.capabilities, trailers=False)
    call = Call(options, offer, upload_url=lambda upload_id: upload_id)
    assert isinstance(server.store, DiskStore)
    async with server.lock(upload_id, Purpose.TERMINATE, options):
        upload = await get_held(server.store, upload_id)
        with disk_errors():
            if server.events.deaf and await server.store.is_undelivered(upload_id):
                sys.stderr.write(f"aiotus-server: no hook was told of the end of {upload_id}\n")
        waiting = await server.remove(upload, call)
    await server.concatenation.abandon(waiting)


def _why(error: TusError) -> str:
    if isinstance(error, Refuse):
        return " ".join(f"{error} {error.body.decode('utf-8', 'replace')}".split())
    if isinstance(error, HookFailed) and error.__cause__ is not None:
        return f"{error} {type(error.__cause__).__name__}: {error.__cause__}"
    return str(error)


@asynccontextmanager
async def _server(directory: Path, hooks: Hooks | None, *, shared: bool) -> AsyncIterator[Server]:
    """One that receives nothing. Raises Failure if the directory cannot be had."""
    locker = locker_of(directory, shared=shared)
    server = Server(DiskStore(directory), hooks=hooks, locker=locker)
    try:
        await server.start()
        yield server
    except TusError as error:
        raise Failure(why_not(error, directory, shared=shared)) from error
    finally:
        await server.stop()
