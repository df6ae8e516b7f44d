"""What a scenario is, and what all of them need."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..client import Client, Refused
from ..running import Launch, Server, started
from ..source import GIB, MIB, start_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ..source import Source

Values = dict[str, float]
Tls = tuple["ssl.SSLContext", "Mapping[str, str]"]


class Unsupported(Exception):
    """The server does not offer what the scenario needs."""


class Wrong(Exception):
    """The server stored something else than it was sent."""


@dataclass
class Bench:
    """What the measurements of a run share. ``scale`` shortens all of them, ``seconds`` is how
    long rates of requests are counted, ``uploads`` how many make a full store."""

    source: Source
    scale: float = 1.0
    seconds: float = 4.0
    uploads: int = 1_000_000
    tls: Tls | None = None

    def size(self, size: int, least: int = MIB) -> int:
        """In whole MiB."""
        return max(least, int(size * self.scale) // MIB * MIB)

    def count(self, count: int) -> int:
        return max(1, int(count * self.scale))


@dataclass
class Subject:
    """A server that a scenario may start, on fresh folders, as often as it needs."""

    launch: Launch | None
    running: Server | None = None  # one that is known by its URL
    ours: bool = False

    def start(self, folder: Path, tls: Tls | None = None) -> AbstractContextManager[Server]:
        if self.running is not None:
            return nullcontext(self.running)
        assert self.launch is not None
        if tls is not None and not self.launch.tls:
            raise Unsupported("no TLS")
        return started(self.launch, folder, tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``measure`` gives a ``value`` in ``unit``, the more the better, and whatever else it found.

    Scenarios of one ``group`` are measured in the same rounds. ``limit`` measures what the
    values are held against, said in ``limit_title``; or ``beside`` names another scenario.
    ``kept``: many files, to be removed at the end of the run only; ``everywhere``: measured on
    all folders. ``extra`` has titles of further values that the report shows; a scenario without
    a unit has only these. ``charted``: has a panel in the chart, if it has a unit.
    """

    name: str
    title: str
    unit: str
    group: str
    measure: Callable[[Subject, Path, Bench], Values]
    limit: Callable[[Path, Bench], Values] | None = None
    limit_title: str = ""
    beside: str | None = None
    kept: bool = False
    charted: bool = True
    everywhere: bool = False
    ours_only: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def warm(subject: Subject, folder: Path, tls: Tls | None = None) -> Iterator[Server]:
    """A server that has had its first uploads. Raises Unsupported or Refused."""
    folder.mkdir(exist_ok=True)
    with subject.start(folder, tls) as server:
        for _ in range(4):
            with Client(server.endpoint) as client:
                path = client.create(5)
                client.request(
                    "PATCH",
                    path,
                    b"12345",
                    Upload_Offset="0",
                    Content_Type="application/offset+octet-stream",
                )
        yield server


def settle() -> None:
    """Write to the disk what is still to be written, so that it does not disturb."""
    os.sync()


def offers(server: Server, header: str) -> list[str]:
    """What the server lists in that header of its answer to OPTIONS."""
    with Client(server.endpoint) as client:
        reply = client.request("OPTIONS", server.endpoint.path)
    return [word.strip() for word in reply.headers.get(header, "").split(",")]


def costs(server: Server, cpu: float | None) -> Values:
    """CPU seconds since it was ``cpu``, and the peak of the memory."""
    now, peak = server.cpu, server.peak_rss
    if cpu is None or now is None or peak is None:
        return {}
    return {"cpu": now - cpu, "rss_mib": peak / MIB}


def throughput(server: Server, work: Callable[[], object], size: int) -> Values:
    """GB/s and costs of ``work``, which moves ``size`` bytes."""
    cpu = server.cpu
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    return {
        "value": size / seconds / 1e9,
        "seconds": seconds,
        "gib": size / GIB,
        **costs(server, cpu),
    }


def at_once(works: Sequence[Callable[[], object]]) -> None:
    """Each in a thread of its own. Raises the first error that one of them raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def check(server: Server, source: Source, paths: Sequence[str], size: int) -> None:
    """That the server stored uploads 0, 1, … of the source, ``size`` bytes each.

    From its folder where there is one, else by GET, else the offsets only. Raises Wrong.
    """
    if server.folder is None:
        for number, path in enumerate(paths):
            check_by_get(server, source, path, start_of(number), size)
        return
    wanted = {
        bytes(next(source.pieces(start_of(number), 64))): number for number in range(len(paths))
    }
    for file in server.folder.rglob("*"):
        if file.is_file() and file.stat().st_size == size:
            with file.open("rb") as stored:
                number = wanted.pop(stored.read(64), -1)
            if number >= 0 and not source.is_in(file, start_of(number), size):
                raise Wrong(f"{file.name} has other bytes than were sent")
    if wanted:
        raise Wrong(f"{len(wanted)} of {len(paths)} uploads are not in the folder")


def check_by_get(server: Server, source: Source, path: str, start: int, size: int) -> None:
    with Client(server.endpoint) as client:
        if client.offset(path) != size:
            raise Wrong(f"{path} is not complete")
    with Client(server.endpoint) as client:
        client.socket.sendall(client.head("GET", path))
        try:
            got = client.reply(f"GET {path}").rest
        except Refused:
            return
        for piece in source.pieces(start, size):
            while len(got) < len(piece):
                received = client.socket.recv(MIB)
                if not received:
                    raise Wrong(f"{path} is short")
                got += received
            if got[: len(piece)] != bytes(piece):
                raise Wrong(f"{path} has other bytes than were sent")
            got = got[len(piece) :]
