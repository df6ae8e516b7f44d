"""One connection between two lockers, and the four messages that pass on it.

Connections and not datagrams: the kernel ends them when a process dies, so that whoever
waits for it hears of its death; a frozen process fills only its own queue; and each end knows
the other's user. SOCK_SEQPACKET keeps the messages apart.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Purpose

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 64  # bytes of a message
AT_ONCE = 64  # messages taken from one connection before others have their turn

_HEAD = struct.Struct("!cQ")
_WANT = struct.Struct("!cQQd")


@dataclass(frozen=True, slots=True)
class Want:
    """Somebody wants the lock at ``offset`` since ``since``, a time of the monotonic clock,
    which all processes share."""

    number: int
    offset: int
    since: float
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Forget:
    """Want ``number`` is over: it was granted, or given up."""

    number: int


@dataclass(frozen=True, slots=True)
class Free:
    """The sender does not hold the lock at ``offset``, or no more: try it."""

    offset: int


@dataclass(frozen=True, slots=True)
class Decline:
    """The sender holds what want ``number`` is about, and will not let go for it."""

    number: int


Message = Want | Forget | Free | Decline
_SHORT: dict[bytes, type[Forget | Free | Decline]] = {b"F": Forget, b"R": Free, b"D": Decline}


def encode(message: Message) -> bytes:
    match message:
        case Want(number, offset, since, purpose):
            return _WANT.pack(b"W", number, offset, since) + purpose.value.encode()
        case Forget(number):
            return _HEAD.pack(b"F", number)
        case Free(offset):
            return _HEAD.pack(b"R", offset)
        case Decline(number):
            return _HEAD.pack(b"D", number)


def decode(data: bytes) -> Message:
    """Raises ValueError for what no locker sends."""
    kind = data[:1]
    try:
        if kind == b"W" and len(data) <= LARGEST:
            _, number, offset, since = _WANT.unpack_from(data)
            return Want(number, offset, since, Purpose(data[_WANT.size :].decode()))
        return _SHORT[kind](_HEAD.unpack(data)[1])
    except (struct.error, KeyError) as error:
        raise ValueError("no message of a locker") from error


class Channel:
    """Sends and receives on the running event loop.

    ``received`` is called with each message, ``lost`` once when the other end is gone or talks
    nonsense; not after ``close``. What cannot be sent yet waits, each message once: a peer that
    is frozen costs no more than what is asked of it.
    """

    def __init__(
        self,
        connection: socket.socket,
        received: Callable[[Channel, Message], None],
        lost: Callable[[Channel], None],
    ) -> None:
        self._socket = connection
        self._received = received
        self._lost = lost
        self._outbox: dict[Message, None] = {}
        # Its wants are not deferred to, since it did not take its turn; until it is heard again.
        self.quiet = False
        self.wants: dict[int, Want] = {}
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)

    def send(self, message: Message) -> None:
        if self._outbox:
            self._outbox[message] = None
        elif not self._sent(message):
            self._outbox[message] = None
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._flush)

    def forget(self, want: Want) -> None:
        """Take back a want that was sent."""
        if want in self._outbox:
            del self._outbox[want]
        else:
            self.send(Forget(want.number))

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _sent(self, message: Message) -> bool:
        try:
            self._socket.send(encode(message), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            pass  # the other end is gone: the next read says so
        return True

    def _flush(self) -> None:
        while self._outbox:
            message = next(iter(self._outbox))
            if not self._sent(message):
                return
            del self._outbox[message]
        asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _read(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data = self._socket.recv(LARGEST + 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            try:
                message = decode(data)  # none of them is empty, which is the end
            except ValueError:
                self.close()
                self._lost(self)
                return
            self.quiet = False
            self._received(self, message)
            if self._socket.fileno() < 0:
                return


def user_of(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    size = struct.calcsize("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", peer)[1])


def is_friend(connection: socket.socket, owner: int) -> bool:
    """Whether the other end is ours, root's or the owner's of the lock file."""
    return user_of(connection) in (os.geteuid(), 0, owner)
