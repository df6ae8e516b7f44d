"""The other lockers on the same lock file: how they are found, and what they want.

Each live locker holds a slot of the lock file and listens on a Unix socket named after it, in
the abstract namespace. A slot is a random number that is never used again: the kernel frees it
when its process dies, and nothing is left to clean up. Whoever joins renews the file's token,
so that others see with one read that there is somebody whom they have not met.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from .channel import Channel, Decline, Forget, Free, Message, Want, is_friend
from .lockfile import LockFile, wait_until_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

RETRY = 1.0  # seconds without accepting when there is no descriptor left


class Listener(Protocol):
    """Who is told what the neighbours say."""

    def wanted(self, channel: Channel, want: Want) -> None:
        """A neighbour wants a lock. It has been noted."""

    def news(self, offset: int | None) -> None:
        """The lock at ``offset``, or with None any, may be free, or somebody gave it up."""

    def declined(self, number: int) -> None:
        """The holder does not let go for our want ``number``."""


class Neighbours:
    """A place among the lockers of the file at ``path``, on the running event loop.

    ``file`` is its open description, ``wanted`` who wants which lock. Nothing may be locked in
    the file before this has been made: from then on others find us. Raises OSError.
    """

    def __init__(self, path: Path, listener: Listener) -> None:
        self._path = path
        self._listener = listener
        self._sockets: set[socket.socket] = set()
        self.file = LockFile(path)
        self.close = weakref.finalize(self, _close, self.file, self._sockets)
        self.wanted: dict[int, list[tuple[Channel, Want]]] = {}
        self._outgoing: dict[int, Channel] = {}
        try:
            self._join()
        except BaseException:
            self.close()
            raise
        _all.add(self)

    def _join(self) -> None:
        entrance = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._sockets.add(entrance)
        entrance.bind(_name(self.file.take_slot()))
        entrance.listen(1024)
        self._entrance = entrance
        self._open_entrance()
        self.file.renew_token()

    def leave(self) -> None:
        """``close`` while the loop runs on. Our locks go with it."""
        loop = asyncio.get_running_loop()
        for connection in self._sockets:
            loop.remove_reader(connection.fileno())
            loop.remove_writer(connection.fileno())
        self.close()

    # Outwards

    def tell(self, want: Want) -> None:
        for channel in self._outgoing.values():
            channel.send(want)

    def forget(self, want: Want) -> None:
        for channel in self._outgoing.values():
            channel.forget(want)

    def meet(self, wants: Iterable[Want]) -> None:
        """Find those whom we have not met, and tell them what we want.

        Those that cannot be reached, in another network namespace say, are left out.
        """
        wants = list(wants)
        for slot in self.file.other_slots():
            if slot not in self._outgoing and (channel := self._connect(slot)):
                self._outgoing[slot] = channel
                for want in wants:
                    channel.send(want)

    def _connect(self, slot: int) -> Channel | None:
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            connection.connect(_name(slot))  # does not wait: it is there, or it is not
            if not is_friend(connection, self.file.owner):
                raise PermissionError
        except OSError:
            connection.close()
            return None
        return self._channel(connection, lambda channel: self._left(slot, channel))

    def _left(self, slot: int, channel: Channel) -> None:
        """The kernel may close a dying process's connections before it drops its locks."""
        self._outgoing.pop(slot, None)
        with suppress(OSError):  # then it is waited for
            if self.file.is_free(slot):
                self._listener.news(None)
                return
        args = (self._path, slot, asyncio.get_running_loop(), weakref.ref(self))
        threading.Thread(target=_watch, args=args, name="tus-locks", daemon=True).start()

    def slot_is_free(self) -> None:
        """Somebody who left is dead: his locks are free."""
        if self.close.alive:
            self._listener.news(None)

    # Inwards

    def _open_entrance(self) -> None:
        if self.close.alive:
            asyncio.get_running_loop().add_reader(self._entrance.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._entrance.accept()
                connection.setblocking(False)
                if is_friend(connection, self.file.owner):
                    self._channel(connection, self._quit)
                else:
                    connection.close()
        except BlockingIOError:
            pass
        except OSError:  # no descriptor left
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._entrance.fileno())
            loop.call_later(RETRY, self._open_entrance)

    def _quit(self, channel: Channel) -> None:
        for want in list(channel.wants.values()):
            self._drop(channel, want)

    # Both ways

    def _channel(self, connection: socket.socket, lost: Callable[[Channel], None]) -> Channel:
        self._sockets.add(connection)

        def gone(channel: Channel) -> None:
            self._sockets.discard(connection)
            lost(channel)

        return Channel(connection, self._received, gone)

    def _received(self, channel: Channel, message: Message) -> None:
        match message:
            case Want(number) if number not in channel.wants:
                channel.wants[number] = message
                self.wanted.setdefault(message.offset, []).append((channel, message))
                self._listener.wanted(channel, message)
            case Forget(number):
                if want := channel.wants.get(number):
                    self._drop(channel, want)
            case Free(offset):
                self._listener.news(offset)
            case Decline(number):
                self._listener.declined(number)

    def _drop(self, channel: Channel, want: Want) -> None:
        del channel.wants[want.number]
        wants = self.wanted[want.offset]
        wants.remove((channel, want))
        if not wants:
            del self.wanted[want.offset]
        self._listener.news(want.offset)

    def wanting(self, offset: int) -> Iterator[tuple[Channel, Want]]:
        return iter(list(self.wanted.get(offset, ())))


def _name(slot: int) -> str:
    return f"\0aiotus-lock-{slot:016x}"


def _watch(
    path: Path, slot: int, loop: asyncio.AbstractEventLoop, place: weakref.ref[Neighbours]
) -> None:
    with suppress(OSError):
        wait_until_free(path, slot)
    if neighbours := place():
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(neighbours.slot_is_free)


def _close(file: LockFile, sockets: set[socket.socket]) -> None:
    """The locks first: who sees a connection end tries them."""
    file.close()
    while sockets:
        sockets.pop().close()


# A child process must not keep its parent's locks and connections alive.
_all: weakref.WeakSet[Neighbours] = weakref.WeakSet()


def _forked() -> None:
    for neighbours in list(_all):
        neighbours.close()


os.register_at_fork(after_in_child=_forked)
