"""One process of the bundled server: it accepts connections, and stops in time.

What stands in the way of that becomes a ``Failure``, one line for the administrator.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import _aiohttp, threads
from .app import Settings, make_app
from .disk_errors import FULL
from .listening import BACKLOG, Failure, Listening, Sockets, reason_of
from .protocol.errors import StoreUnavailable, TusError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("aiotus_server")

# New objects, less those that are gone, after which the garbage collector runs.
COLLECT_AFTER = 10_000
FOR_EVER = 100 * 365 * 86400.0  # seconds, where 0 is at once


def serve(
    settings: Settings,
    listening: Listening,
    sockets: Sockets,
    *,
    ready: Callable[[], None],
    core: int | None = None,
    supervisor: int | None = None,
) -> None:
    """Serve until a signal comes. Raises Failure if that cannot be begun.

    ``ready`` is called when connections are accepted. ``core`` is where this process stays, as
    far as that helps. ``supervisor`` is a descriptor that reads as ended when the supervisor
    has: then this process ends too, and of the signals it heeds SIGTERM alone.
    """
    everywhere = None
    if core is not None:
        everywhere = os.sched_getaffinity(0)
        threads.pin(core)
    with asyncio.Runner(loop_factory=_uvloop() if listening.uvloop else None) as runner:
        if everywhere is not None:
            runner.get_loop().set_default_executor(_executor_on(everywhere))
        runner.run(_serve(settings, listening, sockets, ready, supervisor))


def _executor_on(cores: set[int]) -> ThreadPoolExecutor:
    """For the application's own calls in threads, which need not stay where the loop is."""
    return ThreadPoolExecutor(initializer=os.sched_setaffinity, initargs=(0, cores))


async def _serve(
    settings: Settings,
    listening: Listening,
    sockets: Sockets,
    ready: Callable[[], None],
    supervisor: int | None,
) -> None:
    stop = _stop_signal(listening.grace, supervisor)
    runner = web.AppRunner(
        _app(settings),
        access_log=logging.getLogger("aiohttp.access") if listening.access_log else None,
        # What still runs then is cancelled, and has the rest of the time to end.
        shutdown_timeout=listening.grace * 0.8,
        keepalive_timeout=listening.keepalive_timeout or FOR_EVER,
        **_connection_options(listening),
    )
    servers: list[asyncio.AbstractServer] = []
    try:
        await _open(runner, settings)
        servers = await _accept(runner, sockets, listening)
        _spare_collector()
        ready()
        await stop.wait()
        if supervisor is None:
            sockets.remove_file()
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()


def _spare_collector() -> None:
    """What has been loaded stays. A full collection that looks at all of it stops everything for
    10 ms, and requests that leave no cycles behind need fewer collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def _connection_options(listening: Listening) -> dict[str, Any]:
    """What aiohttp's own connections do not know."""
    return {"header_timeout": listening.header_timeout} if _aiohttp.install() else {}


def _app(settings: Settings) -> web.Application:
    try:
        return make_app(settings)
    except NotImplementedError as error:
        raise Failure(str(error)) from error


async def _open(runner: web.AppRunner, settings: Settings) -> None:
    try:
        await runner.setup()
    except TusError as error:
        raise Failure(why_unavailable(error, settings.directory)) from error


async def _accept(
    runner: web.AppRunner, sockets: Sockets, listening: Listening
) -> list[asyncio.AbstractServer]:
    """Accept connections."""
    options: dict[str, Any] = {"ssl": listening.tls, "backlog": BACKLOG}
    if listening.tls is not None:
        options["ssl_handshake_timeout"] = listening.header_timeout or FOR_EVER
    try:
        return [await _accept_on(bound, runner.server, options) for bound in sockets.for_worker()]
    except OSError as error:
        raise Failure(f"cannot listen: {reason_of(error)}") from error


async def _accept_on(
    bound: socket.socket, server: Any, options: dict[str, Any]
) -> asyncio.AbstractServer:
    loop = asyncio.get_running_loop()
    create = loop.create_server if bound.family != socket.AF_UNIX else loop.create_unix_server
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return await create(server, sock=bound, **options)
    if bound.family == socket.AF_UNIX and sys.version_info >= (3, 13):
        options = {**options, "cleanup_socket": False}  # other workers accept there too
    # asyncio accepts so many at a time as may wait, and when there is no descriptor left it logs
    # each, and tries each again: the log would fill the disk.
    accepting = await create(server, sock=bound, **{**options, "backlog": 1})
    bound.listen(BACKLOG)
    return accepting


def _stop_signal(grace: float, supervisor: int | None) -> asyncio.Event:
    """Set by SIGTERM, SIGINT and SIGHUP, or the end of the supervisor. From then on the process
    has ``grace`` seconds; another SIGINT ends it at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    # Not with loop.add_signal_handler: this is heard even if a hook blocks the loop.
    def begin(number: int, frame: object) -> None:
        if signal.getsignal(signal.SIGALRM) is not _give_up:
            signal.signal(signal.SIGALRM, _give_up)
            signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))  # 0 would be never
            if supervisor is None:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            loop.call_soon_threadsafe(stop.set)

    def orphaned(fd: int) -> None:
        loop.remove_reader(fd)
        _log.error("The supervisor has ended; so does worker %d", os.getpid())
        begin(signal.SIGTERM, None)

    if supervisor is not None:
        signal.signal(signal.SIGTERM, begin)
        loop.add_reader(supervisor, orphaned, supervisor)
        return stop
    for number in stop_signals():
        signal.signal(number, begin)
    return stop


def stop_signals() -> list[signal.Signals]:
    """Those that stop the server. A terminal that is closed does, unless nohup was used."""
    heeded = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    return heeded


def _give_up(number: int, frame: object) -> None:
    """Whatever hangs, in the loop or in a thread: what is stored is consistent at any moment."""
    try:
        _log.warning("Not all requests ended within the grace time")
    finally:
        os._exit(0)


def make_directory(directory: Path) -> None:
    """Raises Failure if it cannot be made, or nothing can be made in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (FileExistsError, NotADirectoryError):
        raise Failure(f"{directory} cannot be used: it is not a directory") from None
    except OSError as error:
        # On a full disk uploads can still be read and removed.
        if error.errno not in FULL:
            raise Failure(f"{directory} cannot be used: {reason_of(error)}") from error


def why_unavailable(error: TusError, directory: Path) -> str:
    if isinstance(error, StoreUnavailable):
        return error.explanation
    return f"{directory} cannot be used: {reason_of(error.__cause__ or error)}"


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
