"""Whose uploads are whose, where a proxy says who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol.errors import Refuse
from .protocol.uploads import is_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from .hooks import AuthorizeEvent


def named_by(header: str) -> Callable[[AuthorizeEvent], str]:
    """A hook for ``authorize``: the owner is whom the request's header names. Only behind a proxy
    that sets it, and takes away a client's own."""

    def name(event: AuthorizeEvent) -> str:
        names = event.request.headers.getall(header, [])
        if len(names) != 1 or not is_owner(names[0]):
            raise Refuse(401, "The request does not say whose it is.")
        owner: str = names[0]
        return owner

    return name
