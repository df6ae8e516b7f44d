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


class Declined(UploadLocked):
    """The holder will not let go for this purpose; there is no use in waiting."""

    code = UploadLocked.code


class Lock:
    """Held until its context ends.

    ``release_requested`` is set, to the purpose, when somebody else wants the lock. The holder
    should then end its work early; nobody takes the lock away from it.
    """

    __slots__ = ("_callbacks", "release_requested")

    def __init__(self) -> None:
        self.release_requested: Purpose | None = None
        self._callbacks: list[Callable[[Purpose], bool]] = []

    def on_release_requested(self, callback: Callable[[Purpose], bool]) -> None:
        """``callback`` is called at each request from now on, and at once if there was one.

        It tells whether the holder will let go; False declines the request.
        """
        self._callbacks.append(callback)
        if self.release_requested is not None:
            callback(self.release_requested)

    def request_release(self, purpose: Purpose) -> bool:
        """For lockers: somebody wants the lock. Whether it may be waited for."""
        self.release_requested = purpose
        return all(callback(purpose) for callback in self._callbacks)


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
