"""Many slow connections: what each costs, and whether others notice them."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from .. import usage
from ..client import OCTETS, Client
from ..source import MIB
from .base import Bench, Scenario, Subject, Unsupported, Values, costs, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from ..client import Endpoint
    from ..running import Server

LENGTH = 64 * MIB  # of a slow upload: it never ends in time
NORMAL = 64 * MIB
UPLOADS = 7  # normal ones, of which the median counts
PACE = 0.01  # seconds between two HEADs


def measured(count: int, piece: int, pause: float) -> Callable[[Subject, Path, Bench], Values]:
    """``count`` connections that send ``piece`` bytes every ``pause`` seconds."""

    def measure(subject: Subject, folder: Path, bench: Bench) -> Values:
        with warm(subject, folder) as server:
            if server.pid is None:
                raise Unsupported("its memory cannot be seen")
            _meanwhile(server, bench)  # whatever it takes for good
            cpu, idle, without = server.cpu, usage.rss(server.pid), _meanwhile(server, bench)
            with slow(server.endpoint, bench.count(count), piece, pause) as dropped:
                time.sleep(bench.seconds)
                rss = usage.rss(server.pid)
                beside = _meanwhile(server, bench)
                rss = max(rss, usage.rss(server.pid))
            return {
                "kib_each": (rss - idle) / 1024 / bench.count(count),
                "head_p99_ms": beside["head_p99_ms"],
                "head_ratio": beside["head_p99_ms"] / without["head_p99_ms"],
                "upload_ms": beside["upload_ms"],
                "upload_ratio": beside["upload_ms"] / without["upload_ms"],
                "errors": sum(dropped),
                **costs(server, cpu),
            }

    return measure


def _meanwhile(server: Server, bench: Bench) -> Values:
    """The 99th percentile of HEAD, and the time of a normal upload, in milliseconds."""
    with Client(server.endpoint) as client:
        path = client.create(1)
        heads = sorted(_times(lambda: client.offset(path), int(bench.seconds / PACE), PACE))
        uploads = _times(lambda: _upload(client, bench), UPLOADS, 0)
    return {
        "head_p99_ms": heads[int(len(heads) * 0.99)] * 1000,
        "upload_ms": statistics.median(uploads) * 1000,
    }


def _upload(client: Client, bench: Bench) -> None:
    size = bench.size(NORMAL)
    client.append(client.create(size), 0, bench.source, 0, size)


def _times(work: Callable[[], object], count: int, pace: float) -> list[float]:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
        time.sleep(max(0.0, pace - times[-1]))
    return times


@contextmanager
def slow(endpoint: Endpoint, count: int, piece: int, pause: float) -> Iterator[list[int]]:
    """Such connections, from a process of their own, until the block ends; then the list has
    how many the server had ended."""
    context = multiprocessing.get_context("fork")
    ready, stop, dropped = context.Event(), context.Event(), context.SimpleQueue()
    arguments = (endpoint, count, piece, pause, ready, stop, dropped)
    process = context.Process(target=_send_slowly, args=arguments, daemon=True)
    process.start()
    result: list[int] = []
    try:
        if not ready.wait(60):
            raise Unsupported(f"{count} connections were not accepted in a minute")
        yield result
    finally:
        stop.set()
        if ready.is_set():
            result.append(dropped.get())
        process.join(5)
        process.kill()


def _send_slowly(
    endpoint: Endpoint,
    count: int,
    piece: int,
    pause: float,
    ready: Event,
    stop: Event,
    dropped: multiprocessing.SimpleQueue[int],
) -> None:
    clients = []
    for _ in range(count):
        client = Client(endpoint)
        path = client.create(LENGTH)
        fields = {"Upload_Offset": "0", "Content_Type": OCTETS, "Content_Length": str(LENGTH)}
        client.socket.sendall(client.head("PATCH", path, **fields))
        client.socket.setblocking(False)
        clients.append(client)
    ready.set()
    body = b"s" * piece
    begun, sent = time.perf_counter(), 0
    while not stop.is_set():
        # Evenly over the pause, not all at once.
        due = int((time.perf_counter() - begun) / pause * count)
        for number in range(sent, due):
            with suppress(OSError):
                clients[number % count].socket.send(body)
        sent = due
        stop.wait(0.005)
    dropped.put(sum(map(_is_ended, clients)))


def _is_ended(client: Client) -> bool:
    """A server has nothing to say before the body is over."""
    try:
        client.socket.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


_scenario = partial(
    Scenario,
    unit="",
    group="slow",
    extra={
        "kib_each": "RSS each, KiB",
        "head_p99_ms": "HEAD p99, ms",
        "head_ratio": "of that without them",
        "upload_ms": "upload of 64 MiB, ms",
        "upload_ratio": "of that without them",
    },
)

SCENARIOS = (
    _scenario(
        name="slow",
        title="beside 1,000 connections at 10 KiB/s each",
        measure=measured(1000, 2560, 0.25),
    ),
    _scenario(
        name="trickle",
        title="beside 500 connections that send a byte a second",
        measure=measured(500, 1, 1.0),
    ),
)
