"""tus in an aiohttp application: ``app.add_routes(tus_routes(store))``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any, overload

from aiohttp import web

from . import _aiohttp
from .hooks import Hooks
from .locks import Locker
from .options import Options
from .protocol.checksum import SLOW
from .server import Server
from .stores.base import Store
from .web import Handler

if TYPE_CHECKING:
    from .web import OptionsFor

_log = getLogger("aiotus_server")
# What aiohttp's router finds again as it was written; {name} is its own notation.
_prefix = re.compile(r"(?:/(?:[A-Za-z0-9._~-]|\{[^{}]+\})+)*")


class TusRoutes(Sequence[web.RouteDef]):
    """The routes of one mount point, for ``app.add_routes``.

    ``cleanup_ctx`` is for ``app.cleanup_ctx.append``: it opens the store when the application
    starts instead of at the first request, and closes it when the application stops.
    ``server`` is what is behind the routes.
    """

    def __init__(self, handler: Handler, prefix: str) -> None:
        self.server = handler.server
        self.cleanup_ctx = handler.cleanup_ctx
        self._routes = [
            web.route("*", path, handler.handle, expect_handler=handler.expect)
            for path in (prefix, f"{prefix}/{{upload_id:(?s:.*)}}")
        ]

    @overload
    def __getitem__(self, index: int) -> web.RouteDef: ...
    @overload
    def __getitem__(self, index: slice) -> list[web.RouteDef]: ...
    def __getitem__(self, index: int | slice) -> web.RouteDef | list[web.RouteDef]:
        return self._routes[index]

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[web.RouteDef]:
        return iter(self._routes)


def tus_routes(
    store: Store,
    *,
    prefix: str = "/files",
    options: Options | OptionsFor | None = None,
    hooks: Hooks | None = None,
    locker: Locker | None = None,
    adapt_aiohttp: bool = True,
) -> TusRoutes:
    """Routes that receive tus uploads into ``store`` at ``prefix`` and below it.

    ``options`` is a value, or a function of the request, sync or async, that returns one, None
    for 404.
    ``locker`` is a MemoryLocker unless several processes share the store. ``adapt_aiohttp``
    makes aiohttp's servers in this process create connections that keep request trailers and
    end bodies when the application stops; without it ``checksum-trailer`` is not offered.
    Call it before the server accepts connections. Raises ValueError for a bad prefix, TypeError
    for what is no store, options, hooks or locker.
    """
    _check_type("store", store, Store)
    _check_type("hooks", hooks, Hooks, type(None))
    _check_type("locker", locker, Locker, type(None))
    _check_type("options", options, Options, Callable, type(None))
    if isinstance(options, type):
        raise TypeError(f"options cannot be {options!r}: call it")
    prefix = prefix.rstrip("/")
    if not _prefix.fullmatch(prefix):
        raise ValueError("the prefix must be a path of A-Za-z0-9._~- that starts with a slash")
    if adapt_aiohttp:
        _aiohttp.install()
    for name in SLOW:
        _log.warning("The checksum %s is slow here: crcmod has no C extension", name)
    server = Server(store, hooks=hooks, locker=locker)
    return TusRoutes(Handler(server, options or Options()), prefix)


def _check_type(name: str, value: object, *kinds: Any) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} cannot be {value!r}")


def setup(
    app: web.Application,
    store: Store,
    *,
    prefix: str = "/files",
    options: Options | OptionsFor | None = None,
    hooks: Hooks | None = None,
    locker: Locker | None = None,
) -> TusRoutes:
    """``tus_routes``, added to ``app`` together with its ``cleanup_ctx``."""
    routes = tus_routes(store, prefix=prefix, options=options, hooks=hooks, locker=locker)
    app.add_routes(routes)
    app.cleanup_ctx.append(routes.cleanup_ctx)
    return routes


__all__ = ["TusRoutes", "setup", "tus_routes"]
