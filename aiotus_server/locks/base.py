"""What a locker promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from ..protocol.errors import UploadLocked

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager


class Purpose(Enum):
    """Why somebody wants the lock; the holder behaves accordingly."""

    INSPECT = "inspect"
    APPEND = "append"
    TERMINATE = "terminate"
    CONCATENATE = "concatenate"
    EXPIRE = "expire"
    RECOVER = "recover"


class Declined(UploadLocked):
    """The holder will not let go for this purpose; there is no use in waiting."""

    code = UploadLocked.code


class Lock:
    """Held until its context ends.

    ``release_requested`` is set, to the purpose, when somebody else wants the lock. The holder
    should then end its work early; nobody takes the lock away from it.
    """

    __slots__ = ("_callbacks", "_requests", "release_requested")

    def __init__(self) -> None:
        self.release_requested: Purpose | None = None
        # Tuples: hardly any lock is ever asked for by a second.
        self._callbacks: tuple[Callable[[Purpose], bool], ...] = ()
        self._requests: tuple[tuple[Purpose, Callable[[], None]], ...] = ()

    def on_release_requested(self, callback: Callable[[Purpose], bool]) -> None:
        """``callback`` is called at each request from now on, and at once for those before.

        It tells whether the holder will let go; False declines the request.
        """
        self._callbacks += (callback,)
        for purpose, declined in self._requests:
            if not callback(purpose):
                declined()

    def request_release(self, purpose: Purpose, declined: Callable[[], None]) -> None:
        """For lockers: somebody wants the lock. ``declined`` is called, now or later, if the
        holder declines."""
        self.release_requested = purpose
        self._requests += ((purpose, declined),)
        for callback in self._callbacks:
            if not callback(purpose):
                declined()


class Locker(ABC):
    """Gives one lock per upload id.

    ``spans_processes`` says whether it excludes other processes too.
    """

    spans_processes: ClassVar[bool] = False

    @abstractmethod
    def lock(
        self, upload_id: str, purpose: Purpose, *, wait: float
    ) -> AbstractAsyncContextManager[Lock]:
        """Ask the present holder to let go, and wait for the lock, ``wait`` seconds at most.

        Those who wait are served in their order. Raises UploadLocked on entering when the
        holder did not let go in time; the request to it stands. Raises Declined at once when
        the holder declines.
        """
