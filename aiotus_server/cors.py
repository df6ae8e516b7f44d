"""Cross-origin requests: what a browser needs to be told before it lets a page upload."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from .protocol.sendable import is_name

if TYPE_CHECKING:
    from collections.abc import Collection

METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS")
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "X-Requested-With",
)
RESPONSE_HEADERS = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Content-Type-Options",
)


_origin = re.compile(r"null|[a-z][a-z0-9+.-]*://[^/?#@\\\s]+")


def is_origin(text: str) -> bool:
    """Whether a browser may write so in ``Origin``."""
    return _origin.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Cors:
    """Who may upload from a browser.

    origins: origins such as ``https://app.example``, None for any.
    credentials: whether cookies may come along; needs ``origins``. Raises ValueError without.
    allow_headers, expose_headers: further names beside those of tus.
    max_age: how long a browser may remember the answer to a preflight. Raises TypeError for
        another type.
    """

    origins: Collection[str] | None = None
    credentials: bool = False
    allow_headers: Collection[str] = ()
    expose_headers: Collection[str] = ()
    max_age: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        for name in ("origins", "allow_headers", "expose_headers"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"Cors.{name} must be a collection of texts, not one")
            if getattr(self, name) is not None:
                object.__setattr__(self, name, frozenset(getattr(self, name)))
        for origin in self.origins or ():
            if not is_origin(origin):
                raise ValueError(
                    f"{origin!r} is no origin such as https://app.example; None stands for any"
                )
        if self.credentials and self.origins is None:
            raise ValueError("credentials for any origin would let every page act as the user")
        self._check_answer()

    def _check_answer(self) -> None:
        for name in (*self.allow_headers, *self.expose_headers):
            if not is_name(name):
                raise ValueError(f"{name!r} cannot be the name of a header")
        if not isinstance(self.max_age, timedelta):
            raise TypeError(f"Cors.max_age must be a timedelta, not {self.max_age!r}")
        if self.max_age < timedelta(0):
            raise ValueError("Cors.max_age must not be negative")

    def headers(self, origin: str | None, *, preflight: bool) -> dict[str, str]:
        """What goes on an answer to a request with this ``Origin``, None for one without."""
        headers = {}
        if self.origins is not None:
            headers["Vary"] = "Origin"
        if origin is None or not (self.origins is None or origin in self.origins):
            return headers
        headers["Access-Control-Allow-Origin"] = "*" if self.origins is None else origin
        if self.credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if preflight:
            headers["Access-Control-Allow-Methods"] = ", ".join(METHODS)
            headers["Access-Control-Allow-Headers"] = ", ".join(
                (*REQUEST_HEADERS, *sorted(self.allow_headers))
            )
            headers["Access-Control-Max-Age"] = str(int(self.max_age.total_seconds()))
        headers["Access-Control-Expose-Headers"] = ", ".join(
            (*RESPONSE_HEADERS, *sorted(self.expose_headers))
        )
        return headers
