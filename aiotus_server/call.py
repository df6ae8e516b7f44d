"""What is the same for all that one request does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .protocol.requests import Offer


class Call(Struct, frozen=True):
    """A request's options, what it may ask for, how it sees the URLs of uploads, and the web
    framework's request itself, for the hooks."""

    options: Options
    offer: Offer
    upload_url: Callable[[str], str]
    request: Any = None
    owner: str | None = None  # who asks, as ``authorize`` has said
