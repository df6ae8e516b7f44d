"""The hooks' other half: makes the events, runs the hooks, takes what they have set."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from logging import getLogger
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from .disk_errors import disk_errors
from .hooks import (
    AuthorizeEvent,
    CreatedEvent,
    CreateEvent,
    FinishEvent,
    HookEvent,
    HookList,
    Hooks,
    InterruptedEvent,
    is_ours,
)
from .protocol.errors import HookFailed, Refuse, TusError
from .protocol.sendable import are_headers, encode_text
from .protocol.uploads import UPLOAD_ID, Outcome, Partial, Upload, is_owner, parse_metadata
from .stores.base import ReadableStore, Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from .call import Call

_log = getLogger("aiotus_server")
_Event = TypeVar("_Event")
_ERRORS = range(400, 600)
_STATUSES = {None, *range(200, 600)}


class Events:
    """The hooks of one server, called with what they need to know."""

    def __init__(self, store: Store, hooks: Hooks) -> None:
        self._store = store
        self._hooks = hooks

    @property
    def judges_access(self) -> bool:
        return bool(self._hooks.authorize)

    @property
    def judges_ends(self) -> bool:
        return bool(self._hooks.pre_finish)

    @property
    def deaf(self) -> bool:
        """There are none of the hooks for the sake of which ends are noted."""
        hooks = self._hooks
        return not (hooks.pre_finish or hooks.post_finish or hooks.pre_create)

    async def authorize(self, verb: str, upload_id: str | None, request: Any) -> str | None:
        """Who asks, if the hooks say so."""
        event = AuthorizeEvent(verb=verb, upload_id=upload_id, request=request)
        answers = await _judge(self._hooks.authorize, event)
        owners = [answer for answer in answers if answer not in (None, "") and answer is not True]
        if not owners:
            return None
        if not is_owner(owners[0]) or owners.count(owners[0]) < len(owners):
            _log.error("authorize must return one owner, a text, or None, not %r", owners)
            raise HookFailed
        return str(owners[0])

    async def pre_create(self, upload: Upload, call: Call) -> Upload:
        """The upload as the hooks want it. Its id is fit to be one, whoever made it."""
        if self._hooks.pre_create:
            upload = await self._shaped(upload, call)
        if not isinstance(upload.upload_id, str) or not UPLOAD_ID.fullmatch(upload.upload_id):
            _log.error("%r cannot be an upload's id", upload.upload_id)
            raise HookFailed
        return self.expected(upload)

    async def _shaped(self, upload: Upload, call: Call) -> Upload:
        facts = self._facts(upload, call.request)
        sent = dict(facts["metadata"])
        event = CreateEvent(**facts, upload_id=upload.upload_id)
        await _judge(self._hooks.pre_create, event)
        return replace(
            upload,
            upload_id=event.upload_id,
            path=None if event.path is None else _absolute(event.path),
            app_metadata=None if event.metadata == sent else _checked(event.metadata),
        )

    async def post_create(self, upload: Upload, call: Call) -> str:
        """The upload's URL."""
        location = call.upload_url(upload.upload_id)
        if not self._hooks.post_create:
            return location
        event = CreatedEvent(**self._facts(upload, call.request), location=location)
        await self._hooks.post_create.notify(event)
        if event.location and are_headers({"Location": event.location}):
            return event.location
        if event.location:
            _log.error("post_create set a location that cannot be sent: %r", event.location)
        return location

    async def pre_receive(self, upload: Upload, call: Call) -> None:
        if self._hooks.pre_receive:
            await _judge(self._hooks.pre_receive, HookEvent(**self._facts(upload, call.request)))

    def progress(self, upload: Upload, call: Call) -> Callable[[int], Awaitable[None]] | None:
        """What a body calls with the bytes received; ``post_receive``, not too often."""
        if not self._hooks.post_receive:
            return None
        loop = asyncio.get_running_loop()
        interval = call.options.progress_interval.total_seconds()
        due, told = loop.time() + interval, 0

        async def report(received: int) -> None:
            nonlocal due, told
            if received > told and loop.time() >= due:
                due, told = loop.time() + interval, received
                await self.received(replace(upload, offset=upload.offset + received), call)

        return report

    async def received(self, upload: Upload, call: Call) -> None:
        if self._hooks.post_receive:
            event = HookEvent(**self._facts(upload, call.request))
            await self._hooks.post_receive.notify(event)

    def expected(self, upload: Upload) -> Upload:
        """The upload, ``finish_due`` if there will be anything to do when it is complete.

        "The Server SHOULD NOT process these partial uploads until they are concatenated."
        """
        due = bool(self._hooks.pre_finish or self._hooks.post_finish or upload.path)
        if isinstance(upload.concat, Partial) or upload.outcome is not None:
            due = False
        return upload if due == upload.finish_due else replace(upload, finish_due=due)

    async def finish(self, upload: Upload, call: Call) -> Upload:
        """Run the finish hooks if all bytes are in, once per upload; the outcome is recorded
        between them."""
        if not upload.complete or not self.expected(upload).finish_due:
            return upload
        event = FinishEvent(**self._facts(upload, call.request))
        try:
            await _judge(self._hooks.pre_finish, event)
            outcome = _outcome_of(event)
        except Refuse as refusal:
            if refusal.answer < 500:
                outcome = Outcome(refusal.answer, refusal.headers, refusal.body)
                _check_outcome(outcome)
                with disk_errors():
                    await self._store.finish(replace(upload, path=None), outcome)
                    await self._store.delivered(upload.upload_id)
            refusal.upload = upload
            raise
        with disk_errors():
            upload = await self._store.finish(upload, outcome)
        await self._tell_finished(upload, call)
        return upload

    async def _tell_finished(self, upload: Upload, call: Call) -> None:
        """A hook that fails is told again at the next start, like one that a crash cut off."""
        event = HookEvent(**self._facts(upload, call.request))
        if await self._hooks.post_finish.notify(event):
            await self._forget(upload)

    async def _forget(self, upload: Upload) -> None:
        try:
            await self._store.delivered(upload.upload_id)
        except OSError as error:
            _log.warning("%s will be told of again: %s", upload.upload_id, error)

    async def deliver(self, upload: Upload, call: Call) -> None:
        """What a crash may have cut off: the upload, locked, was noted as ``finish_due``."""
        if upload.outcome is None and upload.complete:
            await self.finish(upload, call)
        elif upload.complete and not upload.refused:
            if upload.published and upload.outcome is not None:
                with disk_errors():
                    await self._store.finish(upload, upload.outcome)  # the rest of it
            await self._tell_finished(upload, call)
        else:
            await self._forget(upload)  # noted again by whoever completes it

    async def deliver_before_removal(self, upload: Upload, call: Call) -> None:
        """What nobody could be told of later: the end of an upload that had been acknowledged."""
        if upload.outcome is None or upload.refused or not self._hooks.post_finish:
            return
        with disk_errors():
            due = await self._store.is_undelivered(upload.upload_id)
        if due:
            await self._tell_finished(upload, call)

    async def pre_terminate(self, upload: Upload, call: Call) -> None:
        if self._hooks.pre_terminate:
            await _judge(self._hooks.pre_terminate, HookEvent(**self._facts(upload, call.request)))

    async def post_terminate(self, upload: Upload, call: Call) -> None:
        if self._hooks.post_terminate:
            await self._hooks.post_terminate.notify(HookEvent(**self._facts(upload, call.request)))

    async def expired(self, upload: Upload) -> None:
        if self._hooks.on_expired:
            await self._hooks.on_expired.notify(HookEvent(**self._facts(upload, None)))

    async def interrupted(self, upload: Upload, error: TusError, call: Call) -> None:
        if self._hooks.on_interrupted:
            event = InterruptedEvent(**self._facts(upload, call.request), error=error)
            await self._hooks.on_interrupted.notify(event)

    def _facts(self, upload: Upload, request: Any) -> dict[str, Any]:
        def open_bytes() -> AbstractAsyncContextManager[Any]:
            if not isinstance(self._store, ReadableStore):
                raise TypeError("this store's uploads cannot be read back")
            return self._store.reader(upload)

        return {
            "upload": upload,
            "request": request,
            "metadata": metadata_of(upload),
            "open": open_bytes,
        }


def _checked(metadata: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """What pre_create set, which must be of the types that the info file keeps."""
    if not isinstance(metadata, Mapping):
        _log.error("pre_create must set metadata of str to bytes or None, not %r", metadata)
        raise HookFailed
    for key, value in metadata.items():
        if not isinstance(key, str) or not (value is None or isinstance(value, bytes)):
            _log.error("pre_create must set metadata of str to bytes or None, not %r", key)
            raise HookFailed
    return dict(metadata)


def _outcome_of(event: FinishEvent) -> Outcome:
    """What pre_finish has set. Raises Refuse for the status of an error, as if it was raised."""
    try:
        if event.status is not None and event.status in _ERRORS:
            raise Refuse(event.status, event.body, event.headers)
        body, headers = encode_text(event.body, event.headers)
    except (TypeError, ValueError) as error:
        _log.error("pre_finish set what cannot be sent: %s", error)
        raise HookFailed from None
    outcome = Outcome(event.status, headers if body else dict(event.headers), body)
    _check_outcome(outcome)
    return outcome


def _check_outcome(outcome: Outcome) -> None:
    """What pre_finish set, or refused with, will be kept, and sent again and again: it must be
    fit to be sent."""
    if (
        not are_headers(outcome.headers)
        or not isinstance(outcome.body, bytes)
        or outcome.status not in _STATUSES
    ):
        _log.error("pre_finish set a status, header or body that cannot be sent: %r", outcome)
        raise HookFailed


def _absolute(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, (str, os.PathLike)):
        _log.error("pre_create set a path that is none: %r", path)
        raise HookFailed
    absolute = os.fsdecode(os.path.abspath(path))
    if "\0" in absolute:
        _log.error("pre_create set a path with a NUL: %r", absolute)
        raise HookFailed
    return absolute


def metadata_of(upload: Upload) -> Mapping[str, bytes | None]:
    """What the application set, or else what the client sent."""
    if upload.app_metadata is not None:
        return upload.app_metadata
    return parse_metadata(upload.metadata, lenient=True)


async def _judge(hooks: HookList[_Event], event: _Event) -> list[Any]:
    """Run hooks that may refuse: what they return. An error of theirs is not the client's to
    see."""
    try:
        return await hooks.run(event)
    except TusError:
        raise
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        if is_ours(error):
            raise
        # The web layer may know the cause for an answer of its framework's.
        raise HookFailed from error
