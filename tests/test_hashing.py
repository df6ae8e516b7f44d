"""Pieces are hashed in their order, whoever hashes them."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time

import pytest

from aiotus_server import hashing
from aiotus_server.hashing import TELLING, Hashing

DATA = random.Random(5).randbytes(3 * TELLING + 17)


class Sleepy:
    """A hasher that is slower than handing over is."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.data = bytearray()

    def update(self, data: bytes | memoryview, /) -> None:
        time.sleep(2 * hashing.WORTH_IT)
        self.threads.append(threading.get_ident())
        self.data += data

    def digest(self) -> bytes:
        return bytes(self.data)


class Failing(Sleepy):
    def update(self, data: bytes | memoryview, /) -> None:
        super().update(data)
        raise MemoryError


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "slow", {})


def fed(work: Hashing, *, size: int = TELLING) -> None:
    """Feed all of DATA out of one buffer, filled anew as soon as it may be."""
    buffers = [memoryview(bytearray(size)) for _ in range(2)]
    for number, start in enumerate(range(0, len(DATA), size)):
        piece = DATA[start : start + size]
        buffer = buffers[number % 2]
        buffer[: len(piece)] = piece
        work.feed([buffer[: len(piece)]])
    work.wait()


@pytest.mark.parametrize("size", [17, TELLING, len(DATA)])
def test_digests_are_those_of_the_whole(size: int) -> None:
    hashers = {name: hashlib.new(name) for name in ("sha1", "sha256")}
    fed(Hashing(hashers), size=size)
    for name, hasher in hashers.items():
        assert hasher.digest() == hashlib.new(name, DATA).digest()


def test_what_is_slow_is_hashed_by_others_once_it_is_known() -> None:
    here = threading.get_ident()
    first, second = Sleepy(), Sleepy()
    fed(Hashing({"sleepy": first}))
    assert first.threads[0] == here
    assert here not in first.threads[1:]
    fed(Hashing({"sleepy": second}))
    assert here not in second.threads
    assert first.data == second.data == DATA


def test_what_is_fast_is_hashed_here() -> None:
    class Fast(Sleepy):
        def update(self, data: bytes | memoryview, /) -> None:
            self.threads.append(threading.get_ident())

    hasher = Fast()
    fed(Hashing({"fast": hasher}))
    assert set(hasher.threads) == {threading.get_ident()}


def test_little_tells_nothing() -> None:
    hasher = Sleepy()
    fed(Hashing({"sleepy": hasher}), size=TELLING // 2)
    assert set(hasher.threads) == {threading.get_ident()}


def test_without_hashers_nothing_is_done() -> None:
    fed(Hashing({}))


def test_an_error_comes_out_of_the_next_call() -> None:
    hashing.slow["failing"] = True
    work = Hashing({"failing": Failing()})
    work.feed([DATA])
    with pytest.raises(MemoryError):
        work.wait()
    work.wait()


def test_a_child_process_has_threads_of_its_own() -> None:
    hashing.slow["sleepy"] = True
    fed(Hashing({"sleepy": Sleepy()}))
    pid = os.fork()
    if pid == 0:
        hasher = Sleepy()
        fed(Hashing({"sleepy": hasher}))
        os._exit(0 if hasher.data == DATA else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
