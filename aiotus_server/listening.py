"""Where the bundled server listens: one process's sockets, or those that several share.

Sockets are bound before any event loop runs, so that what stands in the way is known before
anything else is begun. It becomes a ``Failure``, one line for the administrator.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

BACKLOG = 1024  # connections that wait to be accepted


class Failure(Exception):
    """Something stands in the way; the text says what, on one line. ``code`` is that of exit."""

    code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where connections come from, and what is the same for all of them.

    grace: seconds from a signal to the end of the process, at most.
    header_timeout: seconds that the head of a request may take to come, None for ever.
    keepalive_timeout: seconds that a connection may be idle between two requests, None for ever.
    workers: processes that accept connections.
    affinity: keep each of them on a core of its own.
    uvloop: use it where it is installed.
    """

    host: str = "127.0.0.1"
    port: int = 1080
    unix_socket: Path | None = None
    reuse_port: bool = False
    tls: ssl.SSLContext | None = None
    access_log: bool = False
    grace: float = 8.0
    header_timeout: float | None = 30.0
    # Longer than proxies keep theirs: else they would send requests on what was just closed.
    keepalive_timeout: float | None = 180.0
    workers: int = 1
    affinity: bool = True
    uvloop: bool = True


class Sockets:
    """Bound sockets that nobody listens on yet; but a Unix socket's backlog is open.

    Raises Failure. With several workers each takes ``for_worker()``.
    """

    def __init__(self, listening: Listening) -> None:
        self._listening = listening
        self._sockets: list[socket.socket] = []
        self._file: Path | None = None
        try:
            if listening.unix_socket is not None:
                self._sockets.append(_bind_unix(listening.unix_socket))
                self._file = listening.unix_socket
            else:
                self._bind_all()
        except BaseException:
            self.close()
            raise

    def _bind_all(self) -> None:
        asked = self._listening
        try:
            for family, address in _resolved(asked.host, asked.port):
                taken = self._sockets[0].getsockname()[1] if self._sockets else asked.port
                place = (address[0], taken, *address[2:])
                self._sockets.append(_bound(family, place, share=asked.reuse_port))
        except OSError as error:
            where = f"{_host_of(asked)}:{asked.port}"
            raise Failure(f"cannot listen on {where}: {reason_of(error)}") from error
        if asked.workers > 1:
            # Only now, so that the port of another program that would share it is not taken.
            for bound in self._sockets:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def for_worker(self) -> list[socket.socket]:
        """This process's own. The kernel spreads connections over all that listen on a port;
        a Unix socket is one for all."""
        if self._listening.workers == 1 or self._listening.unix_socket is not None:
            return self._sockets
        return [
            _bound(reserved.family, reserved.getsockname(), share=True)
            for reserved in self._sockets
        ]

    def address(self, prefix: str) -> str:
        """Where clients create uploads, in words."""
        if self._listening.unix_socket is not None:
            return f"{prefix} on the Unix socket {self._listening.unix_socket}"
        scheme = "http" if self._listening.tls is None else "https"
        port = self._sockets[0].getsockname()[1]
        return f"{scheme}://{_host_of(self._listening)}:{port}{prefix}"

    def remove_file(self) -> None:
        """Do it while somebody listens: later the Unix socket could be another server's. So the
        second time nothing is done."""
        file, self._file = self._file, None
        if file is not None:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        for bound in self._sockets:
            bound.close()


def _host_of(listening: Listening) -> str:
    return f"[{listening.host}]" if ":" in listening.host else listening.host


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: int, address: Any, *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier server, long closed, are not in the way.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _bind_unix(path: Path) -> socket.socket:
    """A socket file that a dead server left is replaced; so would that of a live one be."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _answers(path):
            raise Failure(f"cannot listen on {path}: another server does")
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise Failure(f"cannot listen on {path}: {reason_of(error)}") from error
    except Failure:
        bound.close()
        raise
    return bound


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


def reason_of(error: BaseException) -> str:
    """In the words of the system, without numbers and names of functions."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
