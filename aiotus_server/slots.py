"""How many uploads a server receives content for at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .protocol.errors import TooManyBodies

if TYPE_CHECKING:
    from types import TracebackType


class Slots:
    """One slot for each upload that content is being received for, or about to be.

    An upload has one writer at a time. Whoever takes it over, from a connection that is dead
    say, needs no slot of its own: the content that it replaces ends. So the limit never keeps a
    client from an upload that holds one of the slots.
    """

    def __init__(self) -> None:
        self._users: dict[str, int] = {}

    @property
    def taken(self) -> int:
        return len(self._users)

    def take(self, upload_id: str, most: int | None) -> Slot:
        """A slot, given back when its context ends. Raises TooManyBodies when ``most`` are taken
        by other uploads."""
        users = self._users.get(upload_id, 0)
        if not users and most is not None and len(self._users) >= most:
            raise TooManyBodies
        self._users[upload_id] = users + 1
        return Slot(self._users, upload_id)


class Slot(AbstractContextManager[None]):
    __slots__ = ("_upload_id", "_users")

    def __init__(self, users: dict[str, int], upload_id: str) -> None:
        self._users = users
        self._upload_id = upload_id

    def __enter__(self) -> None:
        """It has been taken."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        users = self._users.pop(self._upload_id) - 1
        if users:
            self._users[self._upload_id] = users
