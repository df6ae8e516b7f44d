"""Hooks: the application's own code, at the moments of an upload's life.

``authorize`` and every ``pre_`` hook is awaited and may ``raise Refuse(403, "why")``. An
error in any other hook is logged; it harms neither the upload nor the request.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from logging import getLogger
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager

    from .protocol.errors import TusError
    from .protocol.uploads import Upload

_log = getLogger("aiotus_server")


@dataclass(kw_only=True, slots=True)
class AuthorizeEvent:
    """Before the store is asked. ``verb`` is one of create, append, inspect, terminate, read;
    ``upload_id`` is None for create.

    A hook may return the name of who asks, a text. An upload belongs to whom its creation named,
    and for others it is not there: 404, whatever they ask. One that was created without a name is
    everybody's.
    """

    verb: str
    upload_id: str | None
    request: Any


@dataclass(kw_only=True, slots=True)
class HookEvent:
    """``upload`` is a snapshot; ``request`` is the web framework's, None where there is none.

    ``metadata`` has the parsed pairs, or what ``pre_create`` set instead. ``open()`` opens the
    stored bytes for reading: ``async with event.open() as file``; an aiofiles handle.
    """

    upload: Upload
    request: Any
    metadata: Mapping[str, bytes | None]
    open: Callable[[], AbstractAsyncContextManager[Any]] = field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same each time something happens to the same upload, for those who must do a
        thing once: a crash may have ``post_finish`` delivered again. Another upload has another,
        even if it is given an id that was used before."""
        return f"{self.upload.upload_id}:{self.upload.created:%Y%m%dT%H%M%S.%fZ}"


@dataclass(kw_only=True, slots=True)
class CreateEvent(HookEvent):
    """Before an upload is created: set ``upload_id``, ``metadata`` or ``path``.

    ``metadata`` set here belongs to the application; HEAD shows what the client sent.
    ``path`` is where the finished file shall be published, relative to the working directory of
    the server's process unless it is absolute. Nothing is replaced: if there is a
    file already, the creation is answered 409. A name from the client's metadata may have
    slashes in it; take ``PurePath(name).name``.
    """

    upload_id: str
    path: str | os.PathLike[str] | None = None


@dataclass(kw_only=True, slots=True)
class CreatedEvent(HookEvent):
    """After an upload was created: ``location`` may be set to another URL."""

    location: str | None = None


@dataclass(kw_only=True, slots=True)
class FinishEvent(HookEvent):
    """All bytes are in: ``status``, ``headers`` and ``body`` shape the last answer. A status from
    400 on refuses, like ``raise Refuse``.

    They are kept with the upload and given again to a client that asks again. ``pre_finish`` may
    be told of one end more than once: after a crash, or when it refused with 500 or above, or
    failed. ``idempotency_key`` is the same then.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes = b""


@dataclass(kw_only=True, slots=True)
class InterruptedEvent(HookEvent):
    """A body ended early; ``error`` says why. What came is kept, unless a checksum forbids."""

    error: TusError


_Event = TypeVar("_Event")
_Hook = TypeVar("_Hook", bound=Callable[[Any], Any])


class HookList(list[Callable[[_Event], Any]], Generic[_Event]):
    """A list of callables that adds one when it is used as a decorator."""

    def __call__(self, hook: _Hook) -> _Hook:
        if not callable(hook):
            raise TypeError(f"a hook must be a function, not {hook!r}")
        self.append(hook)
        return hook

    async def run(self, event: _Event) -> list[Any]:
        """One after the other: what they return. What one raises is raised."""
        results: list[Any] = []
        for hook in self:
            result: Any = hook(event)
            results.append(await result if inspect.isawaitable(result) else result)
        return results

    async def notify(self, event: _Event) -> bool:
        """One after the other; what one raises is logged. Whether none did."""
        quiet = True
        for hook in self:
            try:
                result = hook(event)
                if inspect.isawaitable(result):
                    await result
            except (Exception, asyncio.CancelledError, SystemExit) as error:
                if is_ours(error):
                    raise
                quiet = False
                upload = getattr(event, "upload", None)
                of = f" for the upload {upload.upload_id}" if upload else ""
                _log.exception("The hook %r failed%s", hook, of)
        return quiet


def is_ours(error: BaseException) -> bool:
    """Whether it is this task that is cancelled, and not something that a hook has awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


class Hooks:
    """The application's callables, sync or async, by moment. A sync one runs on the event loop:
    it must not block.

        hooks = Hooks()

        @hooks.post_finish
        async def archive(event): ...
    """

    def __init__(self) -> None:
        self.authorize: HookList[AuthorizeEvent] = HookList()
        self.pre_create: HookList[CreateEvent] = HookList()
        self.post_create: HookList[CreatedEvent] = HookList()
        self.pre_receive: HookList[HookEvent] = HookList()
        self.post_receive: HookList[HookEvent] = HookList()
        self.pre_finish: HookList[FinishEvent] = HookList()
        self.post_finish: HookList[HookEvent] = HookList()
        self.pre_terminate: HookList[HookEvent] = HookList()
        self.post_terminate: HookList[HookEvent] = HookList()
        self.on_expired: HookList[HookEvent] = HookList()
        self.on_interrupted: HookList[InterruptedEvent] = HookList()
