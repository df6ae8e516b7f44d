"""What is the same for all that one request does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .protocol.requests import Offer


@dataclass(frozen=True, slots=True)
class Call:
    """A request's options, what it may ask for, how it sees the URLs of uploads, and the web
    framework's request itself, for the hooks."""

    options: Options
    offer: Offer
    upload_url: Callable[[str], str]
    request: Any = None
