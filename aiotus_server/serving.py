"""The process of the bundled server: it listens, tells where, and stops in time.

What stands in the way of that becomes a ``Failure``, one line for the administrator.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from . import __version__
from .app import Settings, make_app
from .protocol.errors import StoreUnavailable, TusError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("aiotus_server")

BACKLOG = 1024  # connections that wait to be accepted


class Failure(Exception):
    """Something stands in the way; the text says what, on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where connections come from, and what is the same for all of them.

    grace: seconds from a signal to the end of the process, at most.
    uvloop: use it where it is installed.
    """

    host: str = "127.0.0.1"
    port: int = 1080
    unix_socket: Path | None = None
    reuse_port: bool = False
    tls: ssl.SSLContext | None = None
    access_log: bool = False
    grace: float = 8.0
    uvloop: bool = True


def run(settings: Settings, listening: Listening) -> None:
    """Serve until SIGTERM or SIGINT. Raises Failure if that cannot be begun."""
    make_directory(settings.directory)
    with asyncio.Runner(loop_factory=_uvloop() if listening.uvloop else None) as runner:
        runner.run(_serve(settings, listening))


async def _serve(settings: Settings, listening: Listening) -> None:
    stop = _stop_signal(listening.grace)
    runner = web.AppRunner(
        make_app(settings),
        access_log=logging.getLogger("aiohttp.access") if listening.access_log else None,
        # What still runs then is cancelled, and has the rest of the time to end.
        shutdown_timeout=listening.grace * 0.8,
    )
    try:
        await _open(runner, settings)
        _announce(await _listen(runner, settings, listening), settings)
        await stop.wait()
        if listening.unix_socket is not None:
            # Before the listener closes: later the file could be another server's.
            listening.unix_socket.unlink(missing_ok=True)
    finally:
        await runner.cleanup()


def _announce(address: str, settings: Settings) -> None:
    sys.stdout.write(
        f"aiotus-server {__version__}: uploads to {address} are stored in {settings.directory}\n"
    )
    sys.stdout.flush()


async def _open(runner: web.AppRunner, settings: Settings) -> None:
    try:
        await runner.setup()
    except TusError as error:
        raise Failure(why_unavailable(error, settings.directory)) from error


async def _listen(runner: web.AppRunner, settings: Settings, listening: Listening) -> str:
    """Accept connections, and tell where."""
    if listening.unix_socket is not None:
        return await _listen_unix(runner, settings, listening, listening.unix_socket)
    site = web.TCPSite(
        runner,
        listening.host,
        listening.port,
        ssl_context=listening.tls,
        backlog=BACKLOG,
        reuse_port=listening.reuse_port or None,
    )
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    try:
        await site.start()
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{listening.port}: {reason_of(error)}") from error
    scheme = "http" if listening.tls is None else "https"
    return f"{scheme}://{host}:{site.port}{settings.prefix}"


async def _listen_unix(
    runner: web.AppRunner, settings: Settings, listening: Listening, path: Path
) -> str:
    site = web.UnixSite(runner, path, ssl_context=listening.tls, backlog=BACKLOG)
    try:
        # A socket file that a dead server left is replaced; so would that of a live one be.
        if await _answers(path):
            raise Failure(f"cannot listen on {path}: another server does")
        await site.start()
    except OSError as error:
        raise Failure(f"cannot listen on {path}: {reason_of(error)}") from error
    return f"{settings.prefix} on the Unix socket {path}"


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def _stop_signal(grace: float) -> asyncio.Event:
    """Set by SIGTERM and SIGINT. From then on the process has ``grace`` seconds; another
    SIGINT ends it at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    # Not with loop.add_signal_handler: this is heard even if a hook blocks the loop.
    def begin(number: int, frame: object) -> None:
        if signal.getsignal(signal.SIGALRM) is not _give_up:
            signal.signal(signal.SIGALRM, _give_up)
            signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))  # 0 would be never
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, begin)
    return stop


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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(f"{directory} cannot be used: {reason_of(error)}") from error


def why_unavailable(error: TusError, directory: Path) -> str:
    if isinstance(error, StoreUnavailable):
        return error.explanation
    return f"{directory} cannot be used: {reason_of(error.__cause__ or error)}"


def reason_of(error: BaseException) -> str:
    """In the words of the system, without numbers and names of functions."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
