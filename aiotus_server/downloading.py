"""The bytes of an answer to GET: sent by the kernel where that can be done, else in pieces."""

from __future__ import annotations

import os
from contextlib import aclosing
from logging import getLogger
from typing import TYPE_CHECKING

from . import _aiohttp, threads
from .disk_errors import disk_errors

if TYPE_CHECKING:
    from aiohttp import web

    from .protocol.download import Selection
    from .protocol.uploads import Upload
    from .stores.base import ReadableStore

_log = getLogger("aiotus_server")

# Smaller ones are read into memory: that takes less than to hand the connection over.
SENDFILE_SIZE = 64 * 1024  # bytes


async def send(
    request: web.Request,
    response: web.StreamResponse,
    store: ReadableStore,
    upload: Upload,
    selection: Selection,
) -> None:
    """Prepare ``response`` and send what is selected of ``upload``.

    What cannot be opened raises before the head is sent. A client that leaves is no error.
    """
    try:
        await _send(request, response, store, upload, selection)
    except ConnectionError:
        _aiohttp.drop(request)
    except Exception as error:
        if not response.prepared:
            with disk_errors():
                raise
        # Another answer would be taken for the file's bytes.
        _log.error("The download of %s ended early: %s", upload.upload_id, error)
        _aiohttp.drop(request)


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    store: ReadableStore,
    upload: Upload,
    selection: Selection,
) -> None:
    # X-HTTP-Method-Override may make a GET of a HEAD; its answer has no body all the same.
    size = 0 if request.method == "HEAD" else selection.stop - selection.start
    fd = await store.open_bytes(upload) if size >= SENDFILE_SIZE else None
    if fd is not None:
        try:
            await response.prepare(request)
            if await _aiohttp.send_file(request, response, fd, selection.start, selection.stop):
                return
        finally:
            await threads.quick.run(os.close, fd)
    async with aclosing(store.read(upload, selection.start, selection.stop)) as pieces:
        # The first piece before the head: what cannot be opened can still be told.
        first = await anext(pieces, b"") if size else b""
        await response.prepare(request)
        if first:
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
