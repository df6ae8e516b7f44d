"""What a locker promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

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


class Lock:
    """Held until its context ends.

    ``release_requested`` is set, to the purpose, when somebody else wants the lock. The holder
    should then end its work early; nobody takes the lock away from it.
    """

    __slots__ = ("_callbacks", "release_requested")

    def __init__(self) -> None:
        self.release_requested: Purpose | None = None
        self._callbacks: list[Callable[[Purpose], None]] = []

    def on_release_requested(self, callback: Callable[[Purpose], None]) -> None:
        """``callback`` is called at each request from now on, and at once if there was one."""
        self._callbacks.append(callback)
        if self.release_requested is not None:
            callback(self.release_requested)

    def request_release(self, purpose: Purpose) -> None:
        """For lockers: somebody wants the lock."""
        self.release_requested = purpose
        for callback in self._callbacks:
            callback(purpose)


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
        holder did not let go in time; the request to it stands.
        """

    def held(self, upload_id: str) -> bool:
        """Whether somebody holds the lock, as far as that can be told at once; if not, True."""
        return True
