"""The bundled application: uploads at one prefix, and at ``/`` a word on how to upload."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from . import __version__
from .location import origin_of_request
from .locks import FileLocker
from .options import Options
from .routes import setup
from .stores import DiskStore, Durability

if TYPE_CHECKING:
    from .hooks import Hooks

# No braces: aiohttp would take them for a variable. No escapes: one spelling for one path.
_prefix = re.compile(r"/|(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the application is made of. Raises ValueError for a prefix that cannot be one.

    directory: where uploads are stored; it is made if need be.
    prefix: the path at which clients create uploads.
    durability: when bytes are flushed to the disk.
    shared: other servers on this machine may use the directory too.
    """

    directory: Path = Path("uploads")
    prefix: str = "/files/"
    durability: Durability = Durability.COMPLETE
    shared: bool = False
    options: Options = field(default_factory=Options)
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        if not _prefix.fullmatch(self.prefix):
            raise ValueError(f"the prefix {self.prefix!r} is not a path such as /files/")


def make_app(settings: Settings) -> web.Application:
    """An application of which nothing is open yet.

    Its start-up opens the store and raises StoreUnavailable if that cannot be had. Raises
    NotImplementedError for a shared directory where there is no FileLocker.
    """
    app = web.Application()
    setup(
        app,
        DiskStore(settings.directory, durability=settings.durability),
        prefix=settings.prefix,
        options=settings.options,
        hooks=settings.hooks,
        locker=FileLocker(settings.directory) if settings.shared else None,
    )
    if settings.prefix != "/":
        app.router.add_get("/", _Index(settings).show)
    return app


class _Index:
    """``GET /``: text, or HTML for those who ask for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def show(self, request: web.Request) -> web.Response:
        url = self._url(request)
        headers = {"Vary": "Accept"}
        if "text/html" in request.headers.get("Accept", ""):
            page = _PAGE.format(version=__version__, url=html.escape(url))
            return web.Response(text=page, content_type="text/html", headers=headers)
        return web.Response(text=_TEXT.format(version=__version__, url=url), headers=headers)

    def _url(self, request: web.Request) -> str:
        """Where to create uploads, as this client should see it."""
        options = self._settings.options
        if options.location not in ("auto", "path", "absolute"):
            return options.location.rstrip("/")
        return (origin_of_request(request, options) or "") + self._settings.prefix.rstrip("/")


# The URL without a slash at its end: behind one, curl -T would add the name of the file.
_CURL = """\
curl -i -X POST -T FILE {url} \\
  -H "Tus-Resumable: 1.0.0" \\
  -H "Content-Type: application/offset+octet-stream" \\
  -H "Upload-Length: $(wc -c < FILE)"
"""

_TEXT = f"""\
aiotus-server {{version}}: resumable uploads with the tus protocol 1.0.0 (https://tus.io)

Give this address to any tus client, as its endpoint:

  {{url}}

Or send FILE with curl; the answer's Location is the address of the upload:

{_CURL}"""

_PAGE = f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>aiotus-server</title>
<h1>aiotus-server {{version}}</h1>
<p>This server receives resumable uploads with the
<a href="https://tus.io">tus protocol</a> 1.0.0.</p>
<p>Give this address to any tus client, as its endpoint:</p>
<pre>{{url}}</pre>
<p>Or send FILE with curl; the answer's Location is the address of the upload:</p>
<pre>{_CURL}</pre>
</html>
"""
