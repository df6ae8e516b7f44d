"""Final uploads: made at once, or when the last of their partials is complete."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .body import Body, EmptySource, Source
from .damage import create_held, get_held
from .disk_errors import disk_errors
from .locks import Purpose
from .protocol.errors import (
    MaxSizeExceeded,
    PartialUnknown,
    Refuse,
    ServerStopping,
    TusError,
    UploadDamaged,
    UploadLocked,
    UploadNotFound,
)
from .protocol.rules import check_owner, check_parts
from .protocol.uploads import Final, Partial, Upload
from .stores.base import ConcatenationStore, TerminationStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from .call import Call
    from .options import Options
    from .protocol.requests import Create
    from .server import Server

_log = getLogger("aiotus_server")

# Whoever completes a partial waits for so many finals; the others are made behind its back.
JOINED_AT_ONCE = 8
# So many partials are looked up together; then it is other requests' turn.
ASKED_AT_ONCE = 32


class _PartialGone(PartialUnknown):
    """It has been removed, or never was: nothing can ever be made of it."""

    code = PartialUnknown.code


class Concatenation:
    """What ``Server`` does about ``Upload-Concat: final``.

    Locks are taken in one order, the final's first and then its partials' by their ids, so
    that two requests never wait for each other.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._background: set[asyncio.Future[None]] = set()
        self._joining: asyncio.Future[Upload | None] | None = None

    async def create(
        self, create: Create, final: Final, source: Source, call: Call
    ) -> tuple[Upload, str]:
        """POST of a final upload: the upload, joined if all partials are complete, and its URL."""
        server, events = self._server, self._server.events
        parts = await self._parts(final, call.owner)
        length = self._check(parts, final, call)
        upload = replace(server.new_upload(create, call), length=length)
        upload = await events.pre_create(upload, call)
        async with server.receiving(upload.upload_id, source, call):
            if all(part.complete for part in parts.values()):
                async with self._locked(final, call.options):
                    parts = await self._parts(final, upload.owner)
                    self._check(parts, final, call)
                    upload = await self._concatenate(upload, final, parts, source, call)
            else:
                upload = await self._create_waiting(upload)
            location = await events.post_create(upload, call)
            try:
                upload = await events.finish(upload, call)
            except TusError as error:
                error.upload, error.location = upload, location
                raise
        if not upload.complete:
            # A partial may have become complete before anybody knew that it is waited for.
            upload = await self._try_join(upload.upload_id, call) or upload
        return upload, location

    async def join_waiting_for(self, upload: Upload | None, call: Call) -> None:
        """Make the finals that waited for this partial, if it is complete and was the last.

        Called without any lock. Nothing that goes wrong is the partial's.
        """
        if upload is None or not upload.complete:
            return
        waiting = await self.waiting_for(upload)
        await self._join_each(waiting[:JOINED_AT_ONCE], call)
        if more := waiting[JOINED_AT_ONCE:]:
            joining = asyncio.ensure_future(self._join_each(more, call))
            self._background.add(joining)
            joining.add_done_callback(self._background.discard)

    async def waiting_for(self, upload: Upload) -> Sequence[str]:
        store = self._server.store
        if not isinstance(upload.concat, Partial) or not isinstance(store, ConcatenationStore):
            return ()
        with disk_errors():
            return await store.waiting_for(upload.upload_id)

    async def join_all(self, call: Call) -> None:
        """Make every final whose partials are all complete: a crash may have come between."""
        store = self._server.store
        if not isinstance(store, ConcatenationStore):
            return
        with disk_errors():
            waiting = await store.waiting()
        await self._join_each(waiting, call)

    async def _join_each(self, upload_ids: Sequence[str], call: Call) -> None:
        for upload_id in upload_ids:
            if self._server.stopping:
                return
            await self._try_join(upload_id, call)

    async def abandon(self, upload_ids: Iterable[str]) -> None:
        """Remove finals that can never be made: a partial is gone, or the sum too large."""
        store = self._server.store
        assert isinstance(store, TerminationStore)
        for upload_id in upload_ids:
            _log.info("The final upload %s is given up: it can never be made", upload_id)
            try:
                async with self._server.locker.lock(upload_id, Purpose.TERMINATE, wait=3):
                    upload = await get_held(store, upload_id)
                    if not upload.complete:
                        with disk_errors():
                            await store.terminate(upload)
            except UploadNotFound:
                continue
            except UploadLocked:
                _log.warning("The final upload %s is in use; it stays, unfinished", upload_id)

    async def look_at(self, upload: Upload, call: Call) -> Upload:
        """A final that waits, with its length: "The Upload-Length header MUST be included if
        the length of the final resource can be calculated at the time of the request."

        If it waits for nothing any more (making it may have failed), it is made now, in the
        background.
        """
        if not isinstance(upload.concat, Final) or upload.complete:
            return upload
        try:
            parts = await self._parts(upload.concat, upload.owner)
        except PartialUnknown:
            self._join_soon(upload, call)  # or give it up
            return upload
        if all(part.complete for part in parts.values()):
            self._join_soon(upload, call)
        lengths = [parts[upload_id].length for upload_id in upload.concat.parts]
        known = [length for length in lengths if length is not None]
        return replace(upload, length=sum(known) if len(known) == len(lengths) else None)

    def _join_soon(self, upload: Upload, call: Call) -> None:
        if not self._joining:
            self._joining = asyncio.ensure_future(self._try_join(upload.upload_id, call))
            self._joining.add_done_callback(self._joined)

    def _joined(self, joining: asyncio.Future[Upload | None]) -> None:
        self._joining = None

    async def _create_waiting(self, upload: Upload) -> Upload:
        store = self._server.store
        assert isinstance(store, ConcatenationStore)
        body = Body(EmptySource(), limit=0)
        return await create_held(store, upload.upload_id, partial(store.create, upload, body))

    async def _try_join(self, upload_id: str, call: Call) -> Upload | None:
        """``_join``, from where nobody can be told that it failed."""
        try:
            return await self._join(upload_id, call)
        except UploadLocked:
            return None  # somebody else is at it
        except (MaxSizeExceeded, _PartialGone):
            await self.abandon([upload_id])
            return None
        except PartialUnknown:
            _log.info("A partial of %s is damaged, or is just being removed", upload_id)
            return None
        except Refuse as refusal:
            return refusal.upload  # recorded with the final, for whoever asks
        except TusError as error:
            if not self._server.stopping:
                _log.error("The final upload %s could not be made yet: %s", upload_id, error)
            return None

    async def _join(self, upload_id: str, call: Call) -> Upload | None:
        """Make a waiting final if all its partials are complete; None if it is gone."""
        server = self._server
        source = EmptySource()
        async with server.receiving(upload_id, source, call):
            try:
                upload = server.events.expected(await get_held(server.store, upload_id))
            except UploadNotFound:
                return None
            final = upload.concat
            if not isinstance(final, Final) or final.joined:
                return upload
            parts = await self._parts(final, upload.owner)
            if not all(part.complete for part in parts.values()):
                return upload  # nobody who is appending need let go
            async with self._locked(final, call.options):
                parts = await self._parts(final, upload.owner)
                self._check(parts, final, call)
                upload = await self._concatenate(upload, final, parts, source, call)
            return await server.events.finish(upload, call)

    async def _concatenate(
        self, upload: Upload, final: Final, parts: dict[str, Upload], source: Source, call: Call
    ) -> Upload:
        store = self._server.store
        assert isinstance(store, ConcatenationStore)
        listed = [parts[upload_id] for upload_id in final.parts]
        try:
            upload = await create_held(
                store,
                upload.upload_id,
                partial(store.concatenate, upload, listed, lambda: source.interrupted is not None),
            )
        except InterruptedError:
            raise source.interrupted or ServerStopping() from None
        if call.options.delete_partials and isinstance(store, TerminationStore):
            try:
                for part in parts.values():
                    if not await store.waiting_for(part.upload_id):
                        await store.terminate(part)
            except OSError as error:  # the final is there, and cannot be made again
                _log.warning("Partials of %s could not be removed: %s", upload.upload_id, error)
        return upload

    async def _parts(self, final: Final, owner: str | None) -> dict[str, Upload]:
        """Those of a final of ``owner``; what is another's is not there."""
        upload_ids = list(dict.fromkeys(final.parts))
        parts: dict[str, Upload] = {}
        for first in range(0, len(upload_ids), ASKED_AT_ONCE):
            asked = (self._part(it, owner) for it in upload_ids[first : first + ASKED_AT_ONCE])
            for part in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(part, BaseException):
                    raise part
                parts[part.upload_id] = part
        return parts

    async def _part(self, upload_id: str, owner: str | None) -> Upload:
        try:
            part = await self._server.get(upload_id)
            check_owner(part, owner)
        except UploadDamaged:
            raise PartialUnknown from None
        except UploadNotFound:
            raise _PartialGone from None
        return part

    def _check(self, parts: dict[str, Upload], final: Final, call: Call) -> int | None:
        return check_parts(
            [parts[upload_id] for upload_id in final.parts],
            unfinished="concatenation-unfinished" in call.offer.extensions,
            max_size=call.options.max_size,
            now=self._server.clock(),
        )

    @asynccontextmanager
    async def _locked(self, final: Final, options: Options) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for upload_id in sorted(set(final.parts)):
                await stack.enter_async_context(
                    self._server.lock(upload_id, Purpose.CONCATENATE, options)
                )
            yield
