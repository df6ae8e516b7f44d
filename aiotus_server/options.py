"""Everything that can be set, as one frozen and validated value."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .cors import Cors
from .ids import random_id
from .protocol.checksum import algorithms
from .protocol.requests import Offer

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

EXTENSIONS = frozenset(
    {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "termination",
        "expiration",
        "checksum",
        "checksum-trailer",
        "concatenation",
        "concatenation-unfinished",
    }
)

# "If the Server does not offer the Creation extension, it MUST NOT offer the Creation With
# Upload extension either", and so on: dependent extensions go with their base.
BASES = {
    "creation-with-upload": "creation",
    "creation-defer-length": "creation",
    "concatenation": "creation",
    "concatenation-unfinished": "concatenation",
    "checksum-trailer": "checksum",
}


_public_url = re.compile(r"https?://[!-.0-~]+(/[!-\"$->@-~]*)?")


@dataclass(frozen=True, slots=True)
class Expiry:
    """Unfinished uploads expire ``after`` their creation, or, ``sliding``, after their last byte.

    Complete uploads never expire.
    """

    after: timedelta
    sliding: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.after, timedelta):
            raise TypeError(f"Expiry.after must be a timedelta, not {self.after!r}")
        if self.after <= timedelta(0):
            raise ValueError("Expiry.after must be longer than nothing")
        if not isinstance(self.sliding, bool):
            raise TypeError(f"Expiry.sliding must be True or False, not {self.sliding!r}")


# What a value must be, where another type would be noticed at some request only.
_kinds: dict[str, tuple[Any, ...]] = {
    "max_size": (int, type(None)),
    "max_request_size": (int, type(None)),
    "max_bodies": (int, type(None)),
    "min_rate": (int,),
    "min_rate_window": (timedelta,),
    "expiry": (Expiry, type(None)),
    "location": (str,),
    "cors": (Cors, type(None)),
    "read_timeout": (timedelta,),
    "lock_timeout": (timedelta,),
    "direct_from": (int, type(None)),
    "progress_interval": (timedelta,),
    "reserve": (int,),
    "new_id": (Callable,),
    "extensions": (Collection,),
    "algorithms": (Collection, type(None)),
    "public_prefixes": (Collection,),
}
_switches = (
    "lenient_metadata",
    "trust_forwarded",
    "terminate_complete",
    "delete_partials",
    "read",
)

_words: dict[Any, str] = {
    int: "a whole number",
    str: "a text",
    Expiry: "an Expiry",
    type(None): "None",
    Callable: "a function",
    Collection: "a collection of texts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How uploads are received. Raises ValueError when a value makes no sense, TypeError when it is
    of another type.

    max_size: largest upload in bytes (Tus-Max-Size), None for no limit.
    max_request_size: largest body of one request in bytes, None for no limit; a larger one is
        answered 413, and a client may go on with smaller ones.
    max_bodies: so many bodies are received at once by this server, None for no limit; one more
        is answered 503 before any of it is read, unless it takes the place of another of the
        same upload.
    min_rate: bytes a second that a body must bring on average over ``min_rate_window``, counted
        while the server waits for it; else it ends early like one that is silent. 0 for any.
    expiry: when unfinished uploads expire, None for never (no ``expiration`` then).
    extensions: what may be offered, of what the store can do.
    algorithms: the checksum algorithms on offer, None for all that are registered.
    lenient_metadata: drop pairs of Upload-Metadata that are malformed, instead of a 400.
    location: ``auto``, ``path``, ``absolute``, or the public URL of the prefix.
    trust_forwarded: believe ``Forwarded`` and ``X-Forwarded-*`` for scheme and host. Only
        behind a proxy that sets them.
    public_prefixes: paths under which clients know the prefix, where a proxy rewrites it;
        Upload-Concat may use them. The path of ``location`` is one.
    terminate_complete: whether DELETE may remove complete uploads, else 403.
    delete_partials: remove partials once they have been concatenated.
    read: whether GET gives out complete uploads.
    cors: for browsers; None sends no CORS headers.
    read_timeout: a body without a byte for so long ends early.
    lock_timeout: how long a request waits for the present holder of an upload to let go.
    direct_from: bodies of which so many bytes are still to come are taken from the socket in
        threads, where that can be done; None for never.
    progress_interval: shortest time between two ``post_receive`` of one body.
    reserve: bytes that must stay free on the disk (507). An upload whose length would take of them
        is not created, and an append stores what fits. A concatenation is not measured.
    new_id: makes upload ids: 1 to 64 of ``A-Za-z0-9_-``, unguessable, never twice the same.
    """

    max_size: int | None = None
    max_request_size: int | None = None
    max_bodies: int | None = None
    min_rate: int = 0
    min_rate_window: timedelta = timedelta(seconds=30)
    expiry: Expiry | None = None
    extensions: Set[str] = EXTENSIONS
    algorithms: Sequence[str] | None = None
    lenient_metadata: bool = False
    location: str = "auto"
    trust_forwarded: bool = False
    public_prefixes: Sequence[str] = ()
    terminate_complete: bool = True
    delete_partials: bool = False
    read: bool = True
    cors: Cors | None = field(default_factory=Cors)
    read_timeout: timedelta = timedelta(seconds=60)
    lock_timeout: timedelta = timedelta(seconds=3)
    direct_from: int | None = 1024 * 1024
    progress_interval: timedelta = timedelta(seconds=1)
    reserve: int = 0
    new_id: Callable[[], str] = random_id

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("max_size", "max_request_size", "direct_from"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} must not be negative")
        _require(self.max_bodies is None or self.max_bodies > 0, "max_bodies must be at least 1")
        _require(self.min_rate >= 0, "min_rate must not be negative")
        _require(self.reserve >= 0, "reserve must not be negative")
        object.__setattr__(self, "extensions", frozenset(self.extensions))
        unknown = self.extensions - EXTENSIONS
        _require(not unknown, f"there is no extension {', '.join(sorted(unknown))}")
        if self.algorithms is not None:
            object.__setattr__(self, "algorithms", tuple(self.algorithms))
        for name in self.algorithms or ():
            _require(name in algorithms(), f"no checksum algorithm {name} is registered")
        if self.algorithms is not None and "checksum" in self.extensions:
            _require("sha1" in self.algorithms, "the protocol demands sha1 among the algorithms")
        for name in ("read_timeout", "lock_timeout", "min_rate_window"):
            _require(getattr(self, name) > timedelta(0), f"{name} must be longer than nothing")
        _require(self.progress_interval >= timedelta(0), "progress_interval must not be negative")
        for path in self.public_prefixes:
            _require(path.startswith("/"), f"a public prefix starts with a slash, unlike {path!r}")
        self._check_location()

    def _check_types(self) -> None:
        for name, kinds in _kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                expected = " or ".join(_words.get(kind, f"a {kind.__name__}") for kind in kinds)
                raise TypeError(f"{name} must be {expected}, not {value!r}")
        for name in _switches:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name in ("extensions", "algorithms", "public_prefixes"):
            value = getattr(self, name)
            _require(not isinstance(value, str), f"{name} must be a collection, not one text")
            if not all(isinstance(text, str) for text in value or ()):
                raise TypeError(f"{name} must be a collection of texts, not {value!r}")

    def _check_location(self) -> None:
        if self.location in ("auto", "path", "absolute"):
            return
        _require(
            _public_url.fullmatch(self.location),
            "location must be auto, path, absolute or a URL with http or https, without a query",
        )

    def offer(self, capabilities: frozenset[str], *, trailers: bool) -> Offer:
        """What a request may ask for: of what the store can do (``capabilities``) and what is
        switched on, all that has its base. ``trailers``: whether they can be read here."""
        extensions = set(capabilities & self.extensions)
        if self.expiry is None:
            extensions.discard("expiration")
        if not trailers:
            extensions.discard("checksum-trailer")
        for _ in range(2):  # concatenation-unfinished hangs two steps below creation
            for extension, base in BASES.items():
                if base not in extensions:
                    extensions.discard(extension)
        return Offer(
            frozenset(extensions),
            algorithms() if self.algorithms is None else tuple(self.algorithms),
            self.lenient_metadata,
        )


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)
