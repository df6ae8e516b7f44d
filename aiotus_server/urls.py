"""Between upload ids and URLs, at one mount point."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from msgspec import Struct

from .protocol.errors import PartialUnknown
from .protocol.uploads import UPLOAD_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

_host = re.compile(r"[A-Za-z0-9._~:\[\]-]+")


class Mount(Struct, frozen=True):
    """Where uploads live for one request.

    ``prefix`` is the path without its last slash, as the client sees it. ``origin`` is scheme
    and host, or None where Location should be a path.
    """

    prefix: str
    origin: str | None = None
    location: str | None = None  # the public URL of the prefix, when it was set
    public_prefixes: Sequence[str] = ()

    def upload_url(self, upload_id: str) -> str:
        if self.location is not None:
            return f"{self.location.rstrip('/')}/{upload_id}"
        return f"{self.origin or ''}{self.prefix}/{upload_id}"

    def upload_id(self, url: str) -> str:
        """The id in a URL of Upload-Concat, absolute or relative.

        Scheme and host are ignored: clients list what they see from outside a proxy, and
        nothing is ever fetched. Raises PartialUnknown for what is not below the prefix.
        """
        for base in (f"{self.prefix}/", self.prefix):
            try:
                path = unquote(urlsplit(urljoin(base, url)).path)
            except ValueError:
                break
            for prefix in self._prefixes():
                upload_id = path.removeprefix(f"{prefix.rstrip('/')}/")
                if upload_id != path and UPLOAD_ID.fullmatch(upload_id):
                    return upload_id
        raise PartialUnknown

    def _prefixes(self) -> list[str]:
        prefixes = [unquote(self.prefix), *self.public_prefixes]
        if self.location is not None:
            prefixes.append(unquote(urlsplit(self.location).path))
        return prefixes


@lru_cache(maxsize=64)
def origin_of(scheme: str, host: str) -> str | None:
    """``scheme://host``, or None if they could not stand in a URL."""
    if scheme not in ("http", "https") or not _host.fullmatch(host):
        return None
    return f"{scheme}://{host}"
