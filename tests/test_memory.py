"""Memory does not grow with the size of an upload."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore

from .http.client import OCTETS, TUS, Connection, chunked, head
from .processes import ServerProcess, server_process

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
SIZE = 1024 * MIB
LIMIT = 120 * MIB  # bytes of peak RSS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
    pytest.mark.timeout(180),
]


def peak_rss(server: ServerProcess) -> int:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process is gone")


def coded(framing: str) -> Iterator[bytes]:
    block = bytes(range(256)) * (MIB // 256)
    for _ in range(SIZE // MIB):
        yield block if framing == "counted" else chunked(block).removesuffix(b"0\r\n\r\n")
    if framing != "counted":
        yield b"0\r\n\r\n"


@pytest.mark.parametrize("checksum", ["", "sha1"], ids=["plain", "checksummed"])
@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_gibibyte_takes_little_memory(tmp_path: Path, framing: str, checksum: str) -> None:
    root = tmp_path / "uploads"
    async with server_process(root, "--durability", "none") as server:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
        fields = {**TUS, "Upload-Length": str(SIZE), "Content-Length": "0"}
        await connection.send(head("POST", "/files/", fields))
        path = (await connection.reply()).path
        fields = {**TUS, **OCTETS, "Upload-Offset": "0"}
        if framing == "counted":
            fields["Content-Length"] = str(SIZE)
        else:
            fields["Transfer-Encoding"] = "chunked"
        if checksum:
            fields["Upload-Checksum"] = "sha1 " + "A" * 27 + "="  # wrong: all is hashed, then cut
        await connection.send(head("PATCH", path, fields))
        for data in coded(framing):
            await connection.send(data)
        reply = await connection.reply()
        assert reply.status == (460 if checksum else 204), reply
        assert peak_rss(server) < LIMIT
        await connection.close()
        await server.terminate()
    store = DiskStore(root)
    await store.open(shared=False)
    upload = await store.get(path.rpartition("/")[2])
    assert upload.offset == (0 if checksum else SIZE)
    await store.terminate(upload)  # a gibibyte need not wait for pytest to tidy up
    await store.close()
