"""What a client does, with as little work as possible: blocking sockets in threads."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

MIB = 1024 * 1024
_block = os.urandom(MIB)

PATCH = (
    "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
    "Content-Type: application/offset+octet-stream\r\n{framing}\r\n\r\n"
)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def reply(connection: socket.socket) -> tuple[int, dict[str, str]]:
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("closed without an answer")
        head += received
    lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    fields = (line.partition(": ") for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value for name, _, value in fields}


def create(connection: socket.socket, length: int, **headers: str) -> str:
    """The path of a new upload of ``length`` bytes, negative for a final."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length >= 0:
        fields["Upload-Length"] = str(length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(
        f"POST /files/ HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Length: 0\r\n{lines}\r\n".encode()
    )
    status, got = reply(connection)
    if status != 201:
        raise RuntimeError(f"creation was answered {status}")
    return "/" + got["location"].split("/", 3)[3] if "://" in got["location"] else got["location"]


def send(connection: socket.socket, path: str, size: int, *, chunked: bool = False) -> float:
    """PATCH ``size`` bytes (whole MiB); seconds from the first byte to the answer."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    begun = time.perf_counter()
    connection.sendall(PATCH.format(path=path, framing=framing).encode())
    for _ in range(size // MIB):
        connection.sendall(b"%x\r\n%b\r\n" % (MIB, _block) if chunked else _block)
    if chunked:
        connection.sendall(b"0\r\n\r\n")
    status, _ = reply(connection)
    if status != 204:
        raise RuntimeError(f"the PATCH was answered {status}")
    return time.perf_counter() - begun


def upload(port: int, size: int, *, chunked: bool = False, **headers: str) -> str:
    with connect(port) as connection:
        path = create(connection, size, **headers)
        send(connection, path, size, chunked=chunked)
        return path


def throughput(port: int, uploads: int, size: int, *, chunked: bool = False) -> float:
    """GB/s of ``uploads`` at once, of ``size`` bytes each."""
    connections = [connect(port) for _ in range(uploads)]
    paths = [create(connection, size) for connection in connections]
    with ThreadPoolExecutor(uploads) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda c, p: send(c, p, size, chunked=chunked), connections, paths))
        seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return uploads * size / seconds / 1e9
