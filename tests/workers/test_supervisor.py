"""Workers come, go, and are replaced."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from aiotus_server.stores.writing import PAGE

from ..http.client import OCTETS, TUS, Connection, exchange, head
from .servers import HALF, Program, facts_of, is_alive, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Program]]


@pytest.mark.parametrize(("count", "loop"), [(2, []), (4, []), (2, ["--no-uvloop"])])
async def test_all_workers_receive_uploads_on_one_port(
    start: Start, tmp_path: Path, count: int, loop: list[str]
) -> None:
    server = await start(f"--workers={count}", *loop)
    assert server.line.endswith(f"/files/ are stored in {tmp_path / 'uploads'}\n")
    workers = await server.answering()
    assert len(workers) == count
    path = await server.create(count)
    for offset, pid in enumerate(sorted(workers)):
        connection = await server.connect_to(pid)
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        assert (await exchange(connection, "PATCH", path, fields, b"x")).status == 204
    assert server.stored(path).read_bytes() == b"x" * count
    assert server.workers == workers
    assert await server.stop() == 0
    assert server.log == ""


async def test_a_killed_worker_is_replaced_and_the_others_go_on(start: Start) -> None:
    server = await start("--workers=2")
    first, second = await server.answering()
    path = await server.create(10)
    connection = await server.connect_to(second)
    await begin(connection, path, 10, b"hello")
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(server.workers - {first}) == 2)
    (third,) = server.workers - {first, second}
    await server.connect_to(third)
    await connection.send(b"world")
    assert (await connection.reply()).status == 204
    assert first not in server.workers  # no zombie
    assert f"Worker {first} ended: killed by SIGKILL; another takes its place now" in server.log
    assert await server.stop() == 0


async def begin(connection: Connection, path: str, length: int, data: bytes) -> None:
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(length)}
    await connection.send(head("PATCH", path, fields) + data)


async def test_an_upload_of_a_killed_worker_goes_on_in_another(start: Start) -> None:
    server = await start("--workers=2")
    first, second = await server.answering()
    path = await server.create(2 * PAGE)
    await begin(await server.connect_to(first), path, 2 * PAGE, HALF)
    await until(lambda: server.stored(path).stat().st_size == PAGE)
    other = await server.connect_to(second)
    os.kill(first, signal.SIGKILL)
    assert (await exchange(other, "HEAD", path)).offset == PAGE
    fields = {**OCTETS, "Upload-Offset": str(PAGE)}
    assert (await exchange(other, "PATCH", path, fields, HALF)).status == 204


async def test_a_worker_that_is_told_to_stop_is_replaced_too(start: Start) -> None:
    server = await start("--workers=2")
    first = min(server.workers)
    os.kill(first, signal.SIGINT)  # the terminal's; the supervisor judges it
    os.kill(first, signal.SIGTERM)
    await until(lambda: f"Worker {first} ended: exit code 0" in server.log)
    await until(lambda: len(server.workers - {first}) == 2)
    assert await server.stop() == 0


FAILING_IN_CHILDREN = """
import os, pathlib
from telling import hooks

def fail():
    if pathlib.Path("fail").exists():
        os._exit(3)

os.register_at_fork(after_in_child=fail)
"""


async def test_a_worker_that_cannot_start_is_tried_again(start: Start, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING_IN_CHILDREN)
    server = await start("--workers=2", "--hooks=failing:hooks")
    first, second = await server.answering()
    (tmp_path / "fail").touch()
    os.kill(first, signal.SIGKILL)
    again = re.compile(r"ended: exit code 3; another takes its place in 0\.4 s")
    await until(lambda: again.search(server.log) is not None)
    await server.connect_to(second)
    (tmp_path / "fail").unlink()
    await until(lambda: len(server.workers) == 2 and all(map(is_alive, server.workers)))
    await server.answering()


KILLING = """
import os
import signal

from aiotus_server import Hooks

hooks = Hooks()

@hooks.post_finish
def end(event):
    if os.path.exists("fail"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_workers_that_die_young_are_replaced_more_and_more_slowly(
    start: Start, tmp_path: Path
) -> None:
    """Each of them is told of the end that a hook did not survive."""
    (tmp_path / "killing.py").write_text(KILLING)
    server = await start("--workers=2", "--hooks=killing:hooks")
    (tmp_path / "fail").touch()
    connection = await server.connect()
    fields = {**TUS, **OCTETS, "Upload-Length": "5", "Content-Length": "5"}
    await connection.send(head("POST", "/files/", fields) + b"hello")
    again = re.compile(r"killed by SIGKILL; another takes its place in [0-9.]+ s")
    await until(lambda: len(again.findall(server.log)) >= 2)
    (tmp_path / "fail").unlink()
    await until(lambda: len(server.workers) == 2 and all(map(is_alive, server.workers)))
    await until(lambda: not os.listdir(tmp_path / "uploads" / "finishing"))


async def test_when_a_worker_cannot_even_start_once_all_end(launch: Start, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING_IN_CHILDREN)
    (tmp_path / "fail").touch()
    server = await launch("--workers=2", "--hooks=failing:hooks")
    assert await server.ended() == 1
    assert server.log == "aiotus-server: a worker ended before it could serve: exit code 3\n"


# What stands in the way


async def test_a_directory_that_another_server_has_to_itself_is_refused(
    start: Start, launch: Start, tmp_path: Path
) -> None:
    await start()
    server = await launch("--workers=2")
    assert await server.ended() == 1
    assert re.fullmatch(
        rf"aiotus-server: another server.* is using {tmp_path / 'uploads'}\n", server.log
    )


@pytest.mark.parametrize("share", [False, True])
async def test_a_port_of_another_server_is_refused_even_if_that_would_share_it(
    launch: Start, share: bool
) -> None:
    with socket.socket() as other:
        if share:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = await launch("--workers=2", f"--port={port}")
        assert await server.ended() == 1
    assert server.log == (
        f"aiotus-server: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


async def test_servers_share_a_port_and_a_directory_when_asked_to(start: Start) -> None:
    one = await start("--workers=2", "--reuse-port")
    alone = await start("--reuse-port", f"--port={one.port}")
    assert one.port == alone.port
    path = await one.create(2)
    for offset, pid in enumerate((min(one.workers), alone.pid)):
        connection = await one.connect_to(pid)
        fields = {**OCTETS, "Upload-Offset": str(offset)}
        assert (await exchange(connection, "PATCH", path, fields, b"x")).status == 204


async def test_servers_on_two_ports_share_a_directory_when_told_so(start: Start) -> None:
    servers = [await start("--shared"), await start("--shared")]
    path = await servers[0].create(2 * PAGE)
    connection = await servers[0].connect()
    await begin(connection, path, 2 * PAGE, HALF)
    await until(lambda: servers[0].stored(path).stat().st_size == PAGE)
    assert (await servers[1].request("HEAD", path)).offset == PAGE
    assert (await connection.reply()).status == 423


@pytest.mark.parametrize("count", [1, 2])
async def test_the_garbage_collector_leaves_alone_what_was_loaded(start: Start, count: int) -> None:
    server = await start(f"--workers={count}")
    for pid in server.workers or {server.pid}:
        assert (await facts_of(await server.connect_to(pid)))["frozen"] > 10_000


# Other sockets


async def test_a_unix_socket_is_one_for_all(start: Start, tmp_path: Path) -> None:
    dead = await start("--workers=2", "--unix-socket=s")
    workers = dead.workers
    os.kill(dead.pid, signal.SIGKILL)
    await until(lambda: not any(map(is_alive, workers)))
    assert (tmp_path / "s").is_socket()
    server = await start("--workers=2", "--unix-socket=s")
    first, _ = await server.answering()
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(server.workers - {first}) == 2)
    await server.answering()
    assert (tmp_path / "s").is_socket()
    assert await server.stop() == 0
    assert not (tmp_path / "s").exists()


async def test_a_unix_socket_of_workers_that_run_is_not_taken(
    start: Start, launch: Start, tmp_path: Path
) -> None:
    server = await start("--workers=2", "--unix-socket=s", "--no-uvloop")
    second = await launch("--workers=2", "--unix-socket=s")
    assert await second.ended() == 1
    assert second.log == f"aiotus-server: cannot listen on {tmp_path / 's'}: another server does\n"
    await server.answering()


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_bodies_at_once_and_keeps_their_bytes(
    start: Start, number: int
) -> None:
    server = await start("--workers=2", "--grace=15s")
    workers = await server.answering()
    path = await server.create(1_000_000)
    connections = [await server.connect_to(pid) for pid in workers]
    await begin(connections[0], path, 1_000_000, b"x" * (150 * PAGE))
    await until(lambda: server.stored(path).stat().st_size == 150 * PAGE)
    began = asyncio.get_running_loop().time()
    assert await server.stop(number) == 0
    assert asyncio.get_running_loop().time() - began < 10
    reply = await connections[0].reply()
    assert reply.status == 503
    assert reply.headers["Retry-After"]
    assert await connections[1].closed()
    assert not any(map(is_alive, workers))
    again = await start("--workers=2")
    assert (await again.request("HEAD", path)).offset == 150 * PAGE


async def test_a_signal_to_the_whole_group_is_one_signal(start: Start) -> None:
    """So does the terminal send SIGINT, and a service manager SIGTERM."""
    server = await start("--workers=2", under=("setsid",))
    os.killpg(server.pid, signal.SIGINT)
    assert await server.ended() == 0
    server = await start("--workers=2", under=("setsid",))
    os.killpg(server.pid, signal.SIGTERM)
    assert await server.ended() == 0


async def test_nohup_is_heeded(start: Start) -> None:
    server = await start("--workers=2", under=("nohup",))
    server.process.send_signal(signal.SIGHUP)
    for pid in await server.answering():
        os.kill(pid, signal.SIGHUP)
    await server.answering()
    assert await server.stop() == 0


async def test_when_the_supervisor_is_killed_the_workers_end_cleanly(start: Start) -> None:
    server = await start("--workers=2", "--grace=15s")
    workers = await server.answering()
    path = await server.create(2 * PAGE)
    connection = await server.connect_to(min(workers))
    await begin(connection, path, 2 * PAGE, HALF)
    await until(lambda: server.stored(path).stat().st_size == PAGE)
    os.kill(server.pid, signal.SIGKILL)
    assert (await connection.reply()).status == 503
    await until(lambda: not any(map(is_alive, workers)))
    alone = await start(f"--port={server.port}")  # needs the directory for itself
    assert (await alone.request("HEAD", path)).offset == PAGE


HANGING = """
import asyncio, time
from telling import hooks

@hooks.pre_create
async def hang(event):
    open("hangs", "w").close()
    {how}
"""


@pytest.mark.parametrize("how", ["await asyncio.sleep(60)", "time.sleep(60)"])
async def test_a_request_that_hangs_does_not_outlast_the_grace_time(
    start: Start, tmp_path: Path, how: str
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING.format(how=how))
    server = await start("--workers=2", "--hooks=hanging:hooks", "--grace=500ms")
    connection = await server.connect()
    await connection.send(head("POST", "/files/", {**TUS, "Upload-Length": "5"}))
    await until((tmp_path / "hangs").exists)
    began = asyncio.get_running_loop().time()
    assert await server.stop() == 0
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_worker_that_hears_no_signal_is_killed(start: Start) -> None:
    server = await start("--workers=2", "--grace=200ms")
    workers = server.workers
    os.kill(min(workers), signal.SIGSTOP)
    assert await server.stop() == 0
    assert not any(map(is_alive, workers))
    assert "Killing the workers that did not end within the grace time" in server.log


async def test_a_second_interrupt_ends_all_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING.format(how="await asyncio.sleep(60)"))
    server = await start("--workers=2", "--hooks=hanging:hooks", "--grace=60s")
    workers = await server.answering()
    connection = await server.connect()
    pid = (await facts_of(connection))["pid"]
    await connection.send(head("POST", "/files/", {**TUS, "Upload-Length": "5"}))
    await until((tmp_path / "hangs").exists)
    server.process.send_signal(signal.SIGINT)
    (other,) = workers - {pid}
    await until(lambda: not is_alive(other))
    assert await server.stop(signal.SIGINT) == -signal.SIGINT
    await until(lambda: not is_alive(pid))


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]])
async def test_the_root_is_removed_and_all_workers_meet_again_in_a_new_one(
    start: Start, tmp_path: Path, loop: list[str]
) -> None:
    server = await start("--workers=2", *loop)
    pids = await server.answering()
    await server.create(2 * PAGE)
    connections = [await server.connect_to(pid) for pid in pids]
    shutil.rmtree(tmp_path / "uploads")
    created = await exchange(connections[0], "POST", "/files/", {"Upload-Length": str(3 * PAGE)})
    path = created.path
    assert (await exchange(connections[1], "HEAD", path)).offset == 0
    # They still exclude each other, and one that comes now.
    await begin(connections[0], path, 3 * PAGE, HALF)
    await until(lambda: server.stored(path).stat().st_size == PAGE)
    assert (await exchange(connections[1], "HEAD", path)).offset == PAGE
    assert (await connections[0].reply()).status == 423
    killed = min(pids)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: len(server.workers - {killed}) == 2)
    first, second = [await server.connect_to(pid) for pid in server.workers]
    fields = {**TUS, **OCTETS, "Upload-Offset": str(PAGE), "Content-Length": str(2 * PAGE)}
    await first.send(head("PATCH", path, fields) + HALF)
    await until(lambda: server.stored(path).stat().st_size == 2 * PAGE)
    assert (await exchange(second, "HEAD", path)).offset == 2 * PAGE
    assert (await first.reply()).status == 423
    assert await server.stop() == 0


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]])
async def test_the_log_does_not_fill_up_when_there_are_more_clients_than_descriptors(
    start: Start, loop: list[str]
) -> None:
    server = await start(*loop, under=("prlimit", "--nofile=48:48"))
    before = len(server.log)
    clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
    for _, writer in clients:
        writer.write(b"GET /")
    await asyncio.sleep(2.5)
    assert len(server.log) - before < 20_000
    for _, writer in clients:
        writer.close()
    async with asyncio.timeout(10):
        while True:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await server.create(5)
                return
            await asyncio.sleep(0.05)
