"""Counts small requests where there is no wrk: blocking sockets in several processes.

It takes more of the cores than wrk does, so that rates are lower.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import selectors
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from .client import METADATA, OCTETS, Client, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .client import Endpoint

CONNECTIONS = 32
TUS = "HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"


class Script:
    """The next request, given the answers before: the scripts of wrk, in Python."""

    def __init__(self, name: str, endpoint: Endpoint, given: bytes) -> None:
        self._made: list[str] = []
        self._url, self._path, self._given = endpoint.url, endpoint.path, given
        self._paths = given.decode().split("\n") if name == "head" else []
        kinds: dict[str, Callable[[], bytes]] = {
            "small": self._create_whole,
            "post_patch": self._create_or_append,
            "head": self._inspect,
        }
        self.request = kinds[name]

    def answered(self, head: str) -> None:
        for line in head.split("\r\n"):
            if line.lower().startswith("location:"):
                url = urljoin(self._url, line.partition(":")[2].strip())
                self._made.append(urlsplit(url).path)

    def _create_whole(self) -> bytes:
        self._made.clear()
        return self._post(f"Content-Type: {OCTETS}\r\n", self._given)

    def _create_or_append(self) -> bytes:
        if not self._made:
            return self._post("", b"")
        fields = f"Upload-Offset: 0\r\nContent-Type: {OCTETS}\r\n"
        length = f"Content-Length: {len(self._given)}\r\n"
        return f"PATCH {self._made.pop(0)} {TUS}{fields}{length}\r\n".encode() + self._given

    def _post(self, fields: str, body: bytes) -> bytes:
        lengths = f"Upload-Length: {len(self._given)}\r\nContent-Length: {len(body)}\r\n"
        fields += f"Upload-Metadata: {METADATA}\r\n"
        return f"POST {self._path} {TUS}{fields}{lengths}\r\n".encode() + body

    def _inspect(self) -> bytes:
        return f"HEAD {random.choice(self._paths)} {TUS}\r\n".encode()


def count(endpoint: Endpoint, script: str, seconds: float, given: str) -> dict[str, float]:
    """As ``wrk.count``; ``given`` is the file that the script needs."""
    processes = min(4, os.cpu_count() or 1)
    body = Path(given).read_bytes()
    jobs = [(endpoint, script, seconds, body, CONNECTIONS // processes)] * processes
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        results = pool.starmap(_work, jobs)
    times = sorted(time for good, _, _ in results for time in good)
    if not times:
        raise Refused(f"none of {sum(bad for _, bad, _ in results)} answers was a success")
    return {
        "requests": len(times),
        "rate": sum(len(good) / elapsed for good, _, elapsed in results),
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "errors": sum(bad for _, bad, _ in results),
    }


def _work(
    endpoint: Endpoint, name: str, seconds: float, given: bytes, connections: int
) -> tuple[list[float], int, float]:
    """Times of good answers, number of others, and how long it took."""
    script = Script(name, endpoint, given)
    good: list[float] = []
    bad = 0
    begun = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for client in [Client(endpoint) for _ in range(connections)]:
            client.socket.sendall(script.request())
            selector.register(client.socket, selectors.EVENT_READ, [time.perf_counter()])
        while time.perf_counter() - begun < seconds:
            for key, succeeded, answer in _answers(selector):
                if succeeded:
                    good.append(time.perf_counter() - key.data[0])
                    script.answered(answer)
                else:
                    bad += 1
                key.data[0] = time.perf_counter()
                key.fileobj.sendall(script.request())  # type: ignore[union-attr]
    return good, bad, time.perf_counter() - begun


def _answers(
    selector: selectors.BaseSelector,
) -> Iterator[tuple[selectors.SelectorKey, bool, str]]:
    """Connections on which a whole answer has come; small ones come in one segment."""
    for key, _ in selector.select(0.1):
        text = key.fileobj.recv(65536).decode("latin-1")  # type: ignore[union-attr]
        if not text:
            raise ConnectionError("closed without an answer")
        yield key, text.startswith("HTTP/1.1 2"), text
