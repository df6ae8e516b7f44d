"""Ids that nobody has had before, whichever process or thread makes them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from aiotus_server import random_id
from aiotus_server.protocol.uploads import UPLOAD_ID


def test_they_are_all_different() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: random_id(), range(5000)))
    assert len(set(made)) == len(made)
    assert {len(it) for it in made} == {32}
    assert all(map(UPLOAD_ID.fullmatch, made))


def test_a_child_process_makes_others() -> None:
    random_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(random_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read().split()
    os.waitpid(child, 0)
    ours = [random_id() for _ in range(600)]
    assert len(theirs) == 100
    assert not set(ours) & set(theirs)
