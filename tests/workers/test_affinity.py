"""Each worker on a core of its own, but for the threads that move large bodies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..http.client import OCTETS, exchange
from .servers import Program, facts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Program]]

CORES = os.sched_getaffinity(0)
LARGE = 4 * 1024 * 1024
several_cores = pytest.mark.skipif(len(CORES) == 1, reason="there is one core only")


async def threads_of(server: Program, pid: int) -> dict[str, set[int]]:
    """The cores of a process's threads, by the names of their pools, once all have worked."""
    connection = await server.connect_to(pid)
    fields = {**OCTETS, "Upload-Length": str(LARGE)}
    reply = await exchange(connection, "POST", "/files/", fields, bytes(LARGE))
    assert reply.status == 201
    assert (await exchange(connection, "HEAD", reply.path)).offset == LARGE
    assert (await exchange(connection, "GET", reply.path, {"Range": "bytes=0-0"})).status == 206
    facts = await facts_of(connection)
    cores: dict[str, set[int]] = {"executor": set(facts["executor"])}
    for thread, name in facts["threads"].items():
        # A forked process's Python may take its first thread for its parent's.
        number = pid if name == "MainThread" else int(thread)
        pool = name.rpartition("-")[0] or name
        cores.setdefault(pool, set()).update(cores_of(pid, number))
    return cores


def cores_of(pid: int, thread: int) -> set[int]:
    status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
    cores: set[int] = set()
    for part in line.split()[1].split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def check(threads: dict[str, set[int]]) -> int:
    """The one core of the loop and the small operations, when the rest may run anywhere."""
    assert {"MainThread", "tus-quick", "tus-pump"} <= threads.keys()
    (core,) = threads["MainThread"]
    assert threads["tus-quick"] == {core}
    assert threads["tus-pump"] == threads["executor"] == CORES
    return core


@several_cores
@pytest.mark.parametrize("count", [2, 4])
async def test_workers_take_the_cores_in_turn(start: Start, count: int) -> None:
    server = await start(f"--workers={count}")
    used = [check(await threads_of(server, pid)) for pid in server.workers]
    for core in CORES:
        assert abs(used.count(core) - count / len(CORES)) < 1


@several_cores
async def test_one_worker_keeps_to_a_core_too(start: Start) -> None:
    server = await start()
    check(await threads_of(server, server.pid))


@several_cores
async def test_two_servers_do_not_always_begin_with_the_same_core(start: Start) -> None:
    cores = set()
    for _ in range(20):
        server = await start()
        cores |= cores_of(server.pid, server.pid)
        await server.stop()
        if len(cores) > 1:
            return
    raise AssertionError(f"all were on {cores}")


@pytest.mark.parametrize("count", [1, 2])
async def test_affinity_can_be_turned_off(start: Start, count: int) -> None:
    server = await start(f"--workers={count}", "--no-affinity")
    for pid in server.workers or {server.pid}:
        assert all(cores == CORES for cores in (await threads_of(server, pid)).values())


@pytest.mark.parametrize("count", [1, 2])
async def test_where_one_core_is_allowed_all_run_there(start: Start, count: int) -> None:
    only = max(CORES)
    server = await start(f"--workers={count}", under=("taskset", "-c", str(only)))
    for pid in server.workers or {server.pid}:
        assert all(cores == {only} for cores in (await threads_of(server, pid)).values())
