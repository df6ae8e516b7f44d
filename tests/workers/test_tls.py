"""Every worker speaks TLS, with the certificate that was loaded before it was forked."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from ..http.client import OCTETS, exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .servers import Program

    Start = Callable[..., Awaitable[Program]]


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]])
async def test_https_of_several_workers(start: Start, tmp_path: Path, loop: list[str]) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None, "this test needs the openssl command"
    command = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run([openssl, *command.split()], cwd=tmp_path, check=True, capture_output=True)
    server = await start("--workers=2", "--tls-cert=cert.pem", "--tls-key=key.pem", *loop)
    assert "https://127.0.0.1" in server.line
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    await server.answering(trusted)
    one, two = [await server.connect_to(pid, trusted) for pid in server.workers]
    path = (await exchange(one, "POST", "/files/", {"Upload-Length": "10"})).path
    for connection, offset, data in ((one, "0", b"hello"), (two, "5", b"world")):
        fields = {**OCTETS, "Upload-Offset": offset}
        assert (await exchange(connection, "PATCH", path, fields, data)).status == 204
    assert (await exchange(one, "GET", path)).body == b"helloworld"
    for connection in (one, two):
        await connection.close()
    assert await server.stop() == 0
