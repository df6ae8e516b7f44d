"""Where the client finds its uploads: the mount point as one aiohttp request shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .urls import Mount, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from .options import Options


class LateMount:
    """The mount point, looked for when it is asked about: most requests do not."""

    __slots__ = ("_mount", "_options", "_request")

    def __init__(self, request: web.Request, options: Options) -> None:
        self._request = request
        self._options = options
        self._mount: Mount | None = None

    def _found(self) -> Mount:
        if self._mount is None:
            self._mount = mount_of(self._request, self._options)
        return self._mount

    def upload_url(self, upload_id: str) -> str:
        return self._found().upload_url(upload_id)

    def upload_id(self, url: str) -> str:
        return self._found().upload_id(url)


def mount_of(request: web.Request, options: Options) -> Mount:
    path = request.rel_url.raw_path
    prefix = path.rpartition("/")[0] if "upload_id" in request.match_info else path.rstrip("/")
    if options.location not in ("auto", "path", "absolute"):
        return Mount(prefix, None, options.location, options.public_prefixes)
    origin = origin_of_request(request, options)
    return Mount(prefix, origin, public_prefixes=options.public_prefixes)


def origin_of_request(request: web.Request, options: Options) -> str | None:
    """Scheme and host for Location, None for a path.

    A path is right behind every proxy and in every browser; other clients may not be able to
    resolve it.
    """
    headers = request.headers
    if options.location == "path":
        return None
    scheme, host = request.scheme, request.host
    if options.trust_forwarded:
        forwarded = request.forwarded[-1] if request.forwarded else {}
        scheme = forwarded.get("proto") or headers.get("X-Forwarded-Proto") or scheme
        host = forwarded.get("host") or headers.get("X-Forwarded-Host") or host
    elif options.location == "auto" and _calls_for_path(headers):
        return None
    return origin_of(scheme, host)


def _calls_for_path(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, or a proxy has passed the request on."""
    if "Origin" in headers or "Forwarded" in headers:
        return True
    for name in headers:  # noqa: SIM110 - a generator takes twice as long
        if name[0] in "xX" and name[:12].lower() == "x-forwarded-":
            return True
    return False
