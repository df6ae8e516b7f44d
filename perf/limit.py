"""The limit: bare system calls on the same bytes, without HTTP, in a process of its own.

``receive``: ``recv_into`` a buffer of 1 MiB, ``pwrite``; to one file for each connection, as a
server has one for each upload. Each ``size`` bytes are acknowledged with one byte. One thread for
each connection: for 8 of them that gave 3.1 GB/s on 2 cores, one thread with epoll for all 2.3.
``tls``: the same over TLS. ``send``: one ``sendfile`` of a whole file for each byte that comes.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .source import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 128
_numbers = itertools.count()


@dataclass
class Receiver:
    """What comes on one connection, to a file of its own."""

    connection: socket.socket
    folder: str
    size: int
    fd: int = -1
    offset: int = 0
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(MIB)))

    def step(self) -> bool:
        """Take what is there. False at the end of the connection."""
        received = self.connection.recv_into(self.buffer)
        if not received:
            return False
        if self.fd < 0:
            name = f"{self.folder}/{next(_numbers)}"
            self.fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o666)
        self.offset += os.pwrite(self.fd, self.buffer[:received], self.offset)
        if self.offset % self.size == 0:
            self.connection.sendall(b"k")
        return True

    def run(self) -> None:
        with self.connection:
            while self.step():
                pass
        if self.fd >= 0:
            os.close(self.fd)


def receive(listening: socket.socket, folder: str, size: int) -> None:
    """A thread for each connection."""
    while True:
        connection, _ = listening.accept()
        receiver = Receiver(connection, folder, size)
        threading.Thread(target=receiver.run, daemon=True).start()


def over_tls(listening: socket.socket, folder: str, size: int, cert: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    while True:
        connection, _ = listening.accept()
        with suppress(OSError):  # somebody looked whether we listen
            Receiver(context.wrap_socket(connection, server_side=True), folder, size).run()


def send(listening: socket.socket, folder: str, size: int) -> None:
    """The file ``0`` of the folder, to whoever asks."""
    with open(f"{folder}/0", "rb") as file:
        while True:
            connection, _ = listening.accept()
            with connection:
                while connection.recv(1):
                    offset = 0
                    while offset < size:
                        sent = os.sendfile(connection.fileno(), file.fileno(), offset, size)
                        offset += sent


KINDS: dict[str, Callable[..., None]] = {
    "receive": receive,
    "tls": over_tls,
    "send": send,
}


def main(kind: str, port: str, folder: str, size: str, *more: str) -> None:
    os.makedirs(folder, exist_ok=True)
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=BACKLOG)
    KINDS[kind](listening, folder, int(size), *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
