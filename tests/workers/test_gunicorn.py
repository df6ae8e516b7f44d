"""gunicorn with several of aiohttp's workers, as README shows it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from aiotus_server.stores.writing import PAGE

from ..http.client import OCTETS, TUS, Connection, exchange, head
from ..processes import free_port
from .servers import HALF, PATIENCE, REPOSITORY, children_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

APP = """
import json, os
from aiohttp import web
from aiotus_server import DiskStore, FileLocker, setup


async def who(request):
    return web.Response(text=json.dumps(os.getpid()))


def make_app():
    app = web.Application()
    setup(app, DiskStore("uploads"), locker=FileLocker("uploads"))
    app.router.add_get("/who", who)
    return app
"""


@asynccontextmanager
async def gunicorn(folder: Path, worker_class: str, app: str) -> AsyncIterator[tuple[int, int]]:
    """Its port and process id."""
    (folder / "myapp.py").write_text(APP)
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--workers=2", "--worker-class", worker_class]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", *options, *app.split()),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield port, process.pid
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            _, log = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in log, log.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def connect_to_each(port: int, pid: int) -> dict[int, Connection]:
    """A connection to each worker."""
    found: dict[int, Connection] = {}
    async with asyncio.timeout(PATIENCE):
        while len(found) < 2 or found.keys() != children_of(pid):
            try:
                connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
            except OSError:
                await asyncio.sleep(0.05)
                continue
            worker = await worker_behind(connection)
            if worker is None or worker in found:
                await connection.close()
            else:
                found[worker] = connection
    return found


async def worker_behind(connection: Connection) -> int | None:
    """Its process id, None if it was still to be started."""
    try:
        worker: int = json.loads((await exchange(connection, "GET", "/who")).body)
    except (OSError, EOFError):
        return None
    return worker


@pytest.mark.parametrize(
    ("worker_class", "app"),
    [
        ("aiohttp.GunicornWebWorker", "myapp:make_app()"),
        ("aiohttp.GunicornUVLoopWebWorker", "myapp:make_app()"),
        ("aiohttp.GunicornUVLoopWebWorker", "--preload myapp:make_app()"),
    ],
)
async def test_a_client_comes_back_through_another_worker(
    tmp_path: Path, worker_class: str, app: str
) -> None:
    async with gunicorn(tmp_path, worker_class, app) as (port, pid):
        one, two = (await connect_to_each(port, pid)).values()
        path = (await exchange(one, "POST", "/files", {"Upload-Length": str(2 * PAGE)})).path
        fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(2 * PAGE)}
        await one.send(head("PATCH", path, fields) + HALF)
        (file,) = tmp_path.glob(f"uploads/??/{path.rpartition('/')[2]}")
        await until(lambda: file.stat().st_size == PAGE)
        assert (await exchange(two, "HEAD", path)).offset == PAGE
        assert (await one.reply()).status == 423
        fields = {**OCTETS, "Upload-Offset": str(PAGE)}
        assert (await exchange(two, "PATCH", path, fields, HALF)).status == 204
        assert (await exchange(two, "GET", path)).body == 2 * HALF
        for connection in (one, two):
            await connection.close()


async def test_a_worker_that_dies_is_made_up_for(tmp_path: Path) -> None:
    async with gunicorn(tmp_path, "aiohttp.GunicornUVLoopWebWorker", "myapp:make_app()") as (
        port,
        pid,
    ):
        workers = await connect_to_each(port, pid)
        (first, one), (_, two) = workers.items()
        path = (await exchange(one, "POST", "/files", {"Upload-Length": str(2 * PAGE)})).path
        fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(2 * PAGE)}
        await one.send(head("PATCH", path, fields) + HALF)
        (file,) = tmp_path.glob(f"uploads/??/{path.rpartition('/')[2]}")
        await until(lambda: file.stat().st_size == PAGE)
        os.kill(first, signal.SIGKILL)
        fields = {**OCTETS, "Upload-Offset": str(PAGE)}
        assert (await exchange(two, "PATCH", path, fields, HALF)).status == 204
        await until(lambda: len(children_of(pid) - {first}) == 2)
        again = await connect_to_each(port, pid)
        for connection in (one, two, *again.values()):
            await connection.close()
