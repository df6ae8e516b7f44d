"""The server: one method per verb of the protocol, on values; no HTTP in here.

Every verb has the same shape: take the lock, ask the store once, judge by the rules, let the
bytes move inside one call of the store, finish. Nothing below this module is ever cancelled:
work ends early by ``Source.interrupt``.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from .concatenation import Concatenation
from .damage import create_held, get_held
from .disk_errors import disk_errors
from .events import Events
from .hooks import Hooks
from .locks import Declined, Lock, Locker, MemoryLocker, Purpose
from .protocol.errors import (
    FinalNotAppendable,
    PathTaken,
    RequestTooLong,
    ServerStopping,
    StoreFull,
    StoreUnavailable,
    TusError,
    UploadDamaged,
    UploadDisplaced,
    UploadLocked,
    UploadNotFound,
    UploadTerminated,
)
from .protocol.rules import (
    check_append,
    check_create,
    check_owner,
    check_read,
    check_request_size,
    check_terminate,
    not_expired,
)
from .protocol.uploads import Final, Upload
from .reception import Reception
from .slots import Slots
from .stores.base import (
    CreationStore,
    Store,
    TerminationStore,
    extensions_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from .body import Source
    from .call import Call
    from .options import Options
    from .protocol.requests import Append, Create


def utc_now() -> datetime:
    return datetime.now(UTC)


class Server:
    """Uploads in ``store``, one writer at a time by ``locker``, with the application's hooks."""

    def __init__(
        self,
        store: Store,
        *,
        hooks: Hooks | None = None,
        locker: Locker | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.store = store
        self.locker = locker or MemoryLocker()
        self.events = Events(store, hooks or Hooks())
        self.clock = clock
        self.capabilities = extensions_of(store)
        self.reception = Reception(store, self.events)
        self.concatenation = Concatenation(self)
        self._opening: asyncio.Future[None] | None = None
        self._open = False
        self.stopping = False
        self._running: set[Source] = set()
        self.slots = Slots()
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Open the store, once; every verb does it first. Raises StoreUnavailable."""
        if self._open:
            return
        if self._opening is not None:
            await asyncio.shield(self._opening)
            return
        opening = self._opening = asyncio.ensure_future(
            self.store.open(shared=self.locker.spans_processes)
        )
        try:
            with disk_errors():
                await asyncio.shield(opening)
            self._open = True
        finally:
            self._opening = None

    def interrupt(self) -> None:
        """End the bodies and concatenations under way, and those that come."""
        self.stopping = True
        for source in list(self._running):
            source.interrupt(ServerStopping())

    async def stop(self) -> None:
        """End the bodies under way, keep their bytes, and close the store when it is idle.

        ``start`` may follow.
        """
        self.interrupt()
        self._idle.clear()
        if self._running:
            await self._idle.wait()
        self._open = self.stopping = False
        await self.store.close()

    # The verbs

    async def create(self, create: Create, source: Source, call: Call) -> tuple[Upload, str]:
        """POST: the new upload and its URL.

        An error raised once the upload exists has its ``upload`` and ``location``.
        """
        if not self._open:
            await self.start()
        check_create(create, call.options.max_size)
        check_request_size(create.body_length, call.options.max_request_size)
        if call.options.reserve:
            await self._check_reserve(create.length or 0, call.options)
        if isinstance(create.concat, Final):
            return await self.concatenation.create(create, create.concat, source, call)
        upload = self.new_upload(create, call)
        with self._slot(upload.upload_id, create, call):
            return await self._create(upload, create, source, call)

    async def _create(
        self, upload: Upload, create: Create, source: Source, call: Call
    ) -> tuple[Upload, str]:
        store = cast("CreationStore", self.store)
        upload = await self.events.pre_create(upload, call)
        if create.body_length != 0:
            await self.events.pre_receive(upload, call)
        async with self.receiving(upload.upload_id, source, call, create):
            body = self.reception.body(create, upload, source, call)
            if not body.buffered():
                await body.settle()
            upload = await create_held(store, upload.upload_id, partial(store.create, upload, body))
            location = await self.events.post_create(upload, call)
            try:
                upload = await self.reception.receive_created(upload, body, call)
                source.spent = True
                upload = await self.events.finish(upload, call)
            except TusError as error:
                error.upload = error.upload or upload
                error.location = location
                raise
        return upload, location

    async def append(self, upload_id: str, append: Append, source: Source, call: Call) -> Upload:
        """PATCH: the upload after it. Every error has the ``upload``, once it is known."""
        if not self._open:
            await self.start()
        await self._check_owner(upload_id, call)
        try:
            check_request_size(append.body_length, call.options.max_request_size)
            with self._slot(upload_id, append, call):
                upload = await self._append_locked(upload_id, append, source, call)
        except (UploadLocked, RequestTooLong):
            await self.refuse_final(upload_id, call)
            raise
        except TusError as error:
            await self.concatenation.join_waiting_for(error.upload, call)
            raise
        if upload.concat is not None:
            await self.concatenation.join_waiting_for(upload, call)
        return upload

    async def _append_locked(
        self, upload_id: str, append: Append, source: Source, call: Call
    ) -> Upload:
        async with self.receiving(upload_id, source, call, append):
            upload = self.events.expected(await self._held(upload_id, call))
            if upload.unverified:
                upload = await self.reception.mended(upload)
            try:
                check_append(append, upload, self.clock(), call.options.max_size)
                if append.body_length != 0:
                    await self.events.pre_receive(upload, call)
                upload = await self.reception.receive(upload, append, source, call)
                source.spent = True
                upload = await self.events.finish(upload, call)
            except TusError as error:
                error.upload = error.upload or upload
                raise
        return upload

    async def inspect(self, upload_id: str, call: Call) -> Upload:
        """HEAD. Whoever is appending is asked to let go, so that the offset is the last word;
        but not from under a checksum, since its bytes would be discarded.

        Clients take a full offset for the end. So where ``pre_finish`` or publishing has failed it
        is tried again first, and raises what it does; UploadLocked while it is under way.
        """
        if not self._open:
            await self.start()
        await self._check_owner(upload_id, call)
        try:
            async with self.lock(upload_id, Purpose.INSPECT, call.options):
                upload = await self._held(upload_id, call)
                if upload.unverified:
                    upload = await self.reception.mended(upload)
                if await self._is_unfinished(upload):
                    upload = await self._finished(upload, call)
        except Declined:
            upload = await self.get(upload_id)
            check_owner(upload, call.owner)
            if await self._is_unfinished(upload):
                raise UploadLocked from None
        not_expired(upload, self.clock())
        if isinstance(upload.concat, Final):
            upload = await self.concatenation.look_at(upload, call)
        return upload

    async def terminate(self, upload_id: str, call: Call) -> None:
        """DELETE. Raises UploadNotFound, TerminationForbidden or a hook's refusal."""
        assert isinstance(self.store, TerminationStore)
        await self.start()
        await self._check_owner(upload_id, call)
        async with self.lock(upload_id, Purpose.TERMINATE, call.options):
            upload = await self._held(upload_id, call)
            not_expired(upload, self.clock())
            check_terminate(upload, complete_allowed=call.options.terminate_complete)
            waiting = await self.remove(upload, call)
        await self.concatenation.abandon(waiting)

    async def remove(self, upload: Upload, call: Call) -> Sequence[str]:
        """Under its lock, with its hooks: the finals that are to be abandoned behind the lock."""
        assert isinstance(self.store, TerminationStore)
        await self.events.pre_terminate(upload, call)
        await self.events.deliver_before_removal(upload, call)
        with disk_errors():
            await self.store.terminate(upload)
        # Behind it: a final that is created now finds out for itself.
        waiting = await self.concatenation.waiting_for(upload)
        await self.events.post_terminate(upload, call)
        return waiting

    async def read(self, upload_id: str, call: Call) -> Upload:
        """GET: the upload, if it is complete and ``pre_finish`` has let it pass; one that was
        complete before there was such a hook too. Takes no lock."""
        await self.start()
        upload = await self.get(upload_id)
        check_owner(upload, call.owner)
        if isinstance(upload.concat, Final):
            upload = await self.concatenation.look_at(upload, call)
        check_read(upload)
        if upload.outcome is None and self.events.judges_ends:
            due = await self._is_unfinished(upload)
            # The outcome may have come meanwhile, and then the note of it is gone.
            upload = await self.get(upload_id)
            check_read(upload, judged=not due)
        return upload

    async def refuse_final(self, upload_id: str, call: Call) -> None:
        """A PATCH on a final upload is 403, whatever else is wrong with it."""
        await self.start()
        try:
            upload = await self.get(upload_id)
            check_owner(upload, call.owner)
        except UploadNotFound:
            return
        if isinstance(upload.concat, Final):
            raise FinalNotAppendable

    # What the verbs are made of

    async def _is_unfinished(self, upload: Upload) -> bool:
        """Whether all bytes are in, and what is to be done then is under way or has failed: its
        client must not take it for the end."""
        if not upload.complete or upload.outcome is not None:
            return False
        if not (self.events.judges_ends or upload.path):
            return False
        with disk_errors():
            return await self.store.is_undelivered(upload.upload_id)

    async def _finished(self, upload: Upload, call: Call) -> Upload:
        """Try it once more."""
        try:
            return await self.events.finish(self.events.expected(upload), call)
        except PathTaken as taken:
            # Its status would have clients begin anew.
            raise StoreUnavailable(f"{upload.upload_id} cannot be published: {taken}") from taken

    async def _check_owner(self, upload_id: str, call: Call) -> None:
        """Before the lock is asked for, where requests have names: others disturb nobody.

        Raises UploadNotFound, whether the upload is another's or not there: what comes behind,
        a limit say, could tell the one from the other.
        """
        if not self.events.judges_access:
            return
        with suppress(UploadDamaged):  # in the making, maybe; under the lock it is known
            check_owner(await self.get(upload_id), call.owner)

    async def _held(self, upload_id: str, call: Call) -> Upload:
        """The upload, under its lock. Raises UploadNotFound if it is another's."""
        upload = await get_held(self.store, upload_id)
        check_owner(upload, call.owner)
        return upload

    def new_upload(self, create: Create, call: Call) -> Upload:
        options, now = call.options, self.clock()
        expiry = options.expiry if "expiration" in call.offer.extensions else None
        return Upload(
            upload_id=options.new_id(),
            offset=0,
            length=create.length,
            created=now,
            metadata=create.metadata,
            concat=create.concat,
            concat_header=create.concat_header,
            expires=now + expiry.after if expiry else None,
            lifetime=expiry.after if expiry and expiry.sliding else None,
            owner=call.owner,
        )

    def lock(
        self, upload_id: str, purpose: Purpose, options: Options
    ) -> AbstractAsyncContextManager[Lock]:
        return self.locker.lock(upload_id, purpose, wait=options.lock_timeout.total_seconds())

    async def get(self, upload_id: str) -> Upload:
        """Without the lock; for those who hold it there is ``get_held``."""
        with disk_errors():
            return await self.store.get(upload_id)

    def receiving(
        self, upload_id: str, source: Source, call: Call, asked: Create | Append | None = None
    ) -> AbstractAsyncContextManager[None]:
        """The lock on the upload that ``source`` is for, which is interrupted when the lock is
        wanted, and by ``stop``. Without ``asked`` it is for a concatenation.
        """
        purpose = Purpose.CONCATENATE if asked is None else Purpose.APPEND
        lock = self.lock(upload_id, purpose, call.options)
        return _Receiving(self, source, asked, lock)

    def _slot(
        self, upload_id: str, asked: Create | Append, call: Call
    ) -> AbstractContextManager[None]:
        """Before a hook or another request hears of it, for a request that has a body."""
        if asked.body_length == 0:
            return nullcontext()
        return self.slots.take(upload_id, call.options.max_bodies)

    @property
    def sources(self) -> frozenset[Source]:
        """Those of which bytes are being received."""
        return frozenset(self._running)

    def begin(self, source: Source) -> None:
        """``stop`` interrupts ``source`` from now on, and waits for its ``end``."""
        if self.stopping:
            source.interrupt(ServerStopping())
        self._running.add(source)

    def end(self, source: Source) -> None:
        self._running.discard(source)
        if not self._running:
            self._idle.set()

    async def _check_reserve(self, size: int, options: Options) -> None:
        """Before there is an upload of so many bytes. Others may come meanwhile: the store looks
        again when they are there."""
        with disk_errors():
            free = await self.store.free_space()
        if free is not None and free - size < options.reserve:
            raise StoreFull


# Nothing expires in use, and what is in use is told of by its user.
_PATIENT = (Purpose.EXPIRE, Purpose.RECOVER)


class _Receiving(AbstractAsyncContextManager[None]):
    """A lock under which bytes come from a source; see ``Server.receiving``."""

    __slots__ = ("_asked", "_lock", "_server", "_source")

    def __init__(
        self,
        server: Server,
        source: Source,
        asked: Create | Append | None,
        lock: AbstractAsyncContextManager[Lock],
    ) -> None:
        self._server = server
        self._source = source
        self._asked = asked
        self._lock = lock

    async def __aenter__(self) -> None:
        self._server.begin(self._source)
        try:
            lock = await self._lock.__aenter__()
        except BaseException:
            self._server.end(self._source)
            raise
        lock.on_release_requested(self._give_way)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._lock.__aexit__(kind, error, trace)
        finally:
            self._server.end(self._source)

    def _give_way(self, purpose: Purpose) -> bool:
        asked, source = self._asked, self._source
        if purpose in _PATIENT:
            return False
        atomic = asked is not None and asked.verification is not None
        if purpose is Purpose.INSPECT and (atomic or source.spent):
            return False  # bytes under a checksum would be lost; the offset is known
        terminated = purpose is Purpose.TERMINATE
        if asked is None and not terminated:
            # What has been copied would be lost, and the outcome is the one wanted.
            return purpose is not Purpose.INSPECT
        source.interrupt(UploadTerminated() if terminated else UploadDisplaced())
        return True
