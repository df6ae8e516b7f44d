"""A tus client over one blocking connection, with as little work as possible."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import ssl

    from .source import Source

PATIENCE = 120  # seconds without a byte
OCTETS = "application/offset+octet-stream"
# As real clients send it: tuspyserver answers no HEAD without. data.bin, application/octet-stream
METADATA = "filename ZGF0YS5iaW4=,filetype YXBwbGljYXRpb24vb2N0ZXQtc3RyZWFt"


class Refused(Exception):
    """The server answered something else than a success."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where uploads are created."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{self.host}:{self.port}{self.path}"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    rest: bytes  # what has already come of the body


class Client:
    """One connection. Anything but a 2xx raises Refused."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.socket = connect(endpoint)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        if body or method in ("POST", "PATCH"):
            headers["Content_Length"] = str(len(body))
        self.socket.sendall(self.head(method, path, **headers) + body)
        return self.reply(f"{method} {path}")

    def head(self, method: str, path: str, **headers: str) -> bytes:
        """The head of a request; ``_`` in names stands for ``-``."""
        fields = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.endpoint.host}:{self.endpoint.port}\r\n"
            f"Tus-Resumable: 1.0.0\r\n{fields}\r\n".encode()
        )

    def reply(self, what: str) -> Reply:
        text = b""
        while b"\r\n\r\n" not in text:
            received = self.socket.recv(65536)
            if not received:
                raise Refused(f"{what}: closed without an answer")
            text += received
        head, _, rest = text.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        status = int(lines[0].split()[1])
        if not 200 <= status < 300:
            raise Refused(f"{what}: answered {status} {rest[:200].decode(errors='replace')}")
        return Reply(status, headers, self._whole(what, headers, rest))

    def _whole(self, what: str, headers: dict[str, str], rest: bytes) -> bytes:
        """Small bodies are taken off the connection; those of GET are the caller's."""
        if what.startswith(("HEAD", "GET")):
            return rest
        missing = int(headers.get("content-length", "0")) - len(rest)
        while missing > 0:
            received = self.socket.recv(missing)
            if not received:
                break
            rest, missing = rest + received, missing - len(received)
        return rest

    def create(self, length: int | None, body: bytes = b"", **headers: str) -> str:
        """The path of a new upload; ``length`` is None for a final one."""
        if length is not None:
            headers["Upload_Length"] = str(length)
        if body:
            headers["Content_Type"] = OCTETS
        headers["Upload_Metadata"] = METADATA
        reply = self.request("POST", self.endpoint.path, body, **headers)
        parts = urlsplit(urljoin(self.endpoint.url, reply.headers["location"]))
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def append(
        self, path: str, offset: int, source: Source, start: int, size: int, **headers: str
    ) -> None:
        """PATCH ``size`` bytes of the source from ``start`` on."""
        head = self.head(
            "PATCH",
            path,
            Upload_Offset=str(offset),
            Content_Type=OCTETS,
            Content_Length=str(size),
            **headers,
        )
        self.socket.sendall(head)
        source.send(self.socket, start, size)
        reply = self.reply(f"PATCH {path}")
        if reply.headers.get("upload-offset") != str(offset + size):
            raise Refused(f"PATCH {path}: the offset is {reply.headers.get('upload-offset')}")

    def offset(self, path: str) -> int:
        return int(self.request("HEAD", path).headers["upload-offset"])


def connect(endpoint: Endpoint) -> socket.socket:
    """Blocking, but not for ever. The kernel minds the time, which costs no calls."""
    connection = socket.create_connection((endpoint.host, endpoint.port), timeout=PATIENCE)
    if endpoint.tls is not None:
        return endpoint.tls.wrap_socket(connection, server_hostname="localhost")
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    patience = struct.pack("ll", PATIENCE, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    return connection
