"""How the bytes of one request get into the store, and what is made of how they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from .body import Body, Source, hash_somewhere
from .disk_errors import disk_errors
from .protocol.checksum import hashers_for
from .protocol.errors import (
    ChecksumMismatch,
    MaxSizeExceeded,
    RequestTooLong,
    TusError,
)
from .protocol.headers import BEYOND_63_BITS
from .stores.base import ChecksumStore, DeferLengthStore, ReadableStore, Store

if TYPE_CHECKING:
    from .call import Call
    from .events import Events
    from .options import Options
    from .protocol.checksum import Checksum
    from .protocol.requests import Append, Create
    from .protocol.uploads import Upload


class Reception:
    """Under an upload's lock, when the rules have passed. All bytes move inside one call of
    the store; what ended them early is raised when what came has been kept or discarded."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def body(self, asked: Create | Append, upload: Upload, source: Source, call: Call) -> Body:
        """What ``source`` may give to ``upload``."""
        limit, too_long = _limit_of(upload, call.options)
        return Body(
            source,
            limit=limit,
            too_long=too_long,
            verification=asked.verification,
            algorithms=call.offer.algorithms,
            progress=self._events.progress(upload, call),
            reserve=call.options.reserve,
        )

    async def receive_created(self, upload: Upload, body: Body, call: Call) -> Upload:
        """The rest of a POST: ``upload`` has what of ``body`` was there when it was created."""
        if body.consumed:
            return await self._judge(replace(upload, offset=0), upload, body, call)
        return await self._store_body(upload, body, call)

    async def receive(self, upload: Upload, append: Append, source: Source, call: Call) -> Upload:
        """The body of a PATCH, and the length that it may declare.

        A length is recorded before the bytes. Not under a checksum, which a body in chunks may
        bring along at its end: then a failure leaves everything as if the request had not come.
        """
        declares = append.length is not None and upload.length is None
        target = replace(upload, length=append.length) if declares else upload
        body = self.body(append, target, source, call)
        if declares and not body.atomic and append.body_length is not None:
            target, declares = await self._declare(target), False
        if not body.buffered():
            await body.settle()
        try:
            target = await self._store_body(target, body, call)
        except TusError as error:
            if declares and not body.atomic:
                error.upload = await self._declare(error.upload or target)
            elif declares and error.upload is not None:
                error.upload = replace(error.upload, length=None)
            raise
        if not declares:
            return target
        return await self._declare(replace(target, length=append.length))

    async def mended(self, upload: Upload) -> Upload:
        """The upload without the bytes that a crash left unverified."""
        return await self._rewind(upload)

    async def _store_body(self, upload: Upload, body: Body, call: Call) -> Upload:
        if body.buffered() and not body.received:
            body.take()
            return await self._judge(upload, upload, body, call)
        try:
            with disk_errors():
                after = await self._store.append(upload, body)
        except TusError as error:
            if body.atomic:
                await self._rewind(upload)
            with disk_errors():
                error.upload = await self._store.get(upload.upload_id)
            raise
        return await self._judge(upload, after, body, call)

    async def _judge(self, before: Upload, upload: Upload, body: Body, call: Call) -> Upload:
        await body.report()
        if body.late_checksum is not None:
            await self._verify_late(before, body, body.late_checksum)
        if body.error is None:
            return upload
        if body.atomic:
            upload = await self._rewind(before)
        else:
            upload = await self._events.finish(upload, call)
        await self._events.interrupted(upload, body.error, call)
        body.error.upload = upload
        raise body.error

    async def _declare(self, upload: Upload) -> Upload:
        assert isinstance(self._store, DeferLengthStore)
        assert upload.length is not None
        with disk_errors():
            return await self._store.declare_length(upload, upload.length)

    async def _rewind(self, before: Upload) -> Upload:
        assert isinstance(self._store, ChecksumStore)
        with disk_errors():
            return await self._store.rewind(before)

    async def _verify_late(self, before: Upload, body: Body, checksum: Checksum) -> None:
        """A checksum in a trailer that nothing had announced: the one case in which bytes are
        read again, since all algorithms would have to be computed for every chunked body."""
        body.atomic = True
        body.error = ChecksumMismatch(checksum.algorithm)
        if isinstance(self._store, ReadableStore):
            hashers = hashers_for(checksum, ())
            stored = self._store.read(before, before.offset, before.offset + body.received)
            with disk_errors():
                async for piece in stored:
                    await hash_somewhere(hashers, piece)
            if hashers[checksum.algorithm].digest() == checksum.digest:
                body.error = None


def _limit_of(upload: Upload, options: Options) -> tuple[int, TusError | None]:
    """How many bytes ``upload`` may be given by one request, and the error for more; None for
    BodyTooLong."""
    largest, room = BEYOND_63_BITS - 1, upload.room
    if options.max_size is not None:
        largest = options.max_size
    too_long: TusError | None = None
    if room is None:
        room, too_long = largest - upload.offset, MaxSizeExceeded(largest)
    at_once = options.max_request_size
    if at_once is not None and at_once < room:
        return at_once, RequestTooLong(at_once, kept=True)
    return room, too_long
