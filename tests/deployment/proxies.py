"""The README's proxy configurations, made to run on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ..http.client import Connection, Site
from ..processes import free_port
from .readme import blocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

PATIENCE = 20  # seconds


@dataclass
class ProxySite(Site):
    """A server behind a proxy: ``port`` is the proxy's."""

    tls: ssl.SSLContext | None = None

    async def connect(self) -> Connection:
        name = None if self.tls is None else "uploads.example.com"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname=name
        )
        connection = Connection(reader, writer)
        self.connections.append(connection)
        return connection


def program(name: str) -> str:
    """Where it is. In CI it has to be somewhere."""
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


class Nginx:
    scheme = "https"

    def __init__(self, folder: Path, *, port: int, upstream: int) -> None:
        self._folder = folder
        key, self._certificate = _self_signed(folder)
        (block,) = blocks("nginx")
        text = block.text
        for shown, here in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("server 127.0.0.1:1080;", f"server 127.0.0.1:{upstream};"),
            ("/etc/ssl/certs/uploads.example.com.pem", str(self._certificate)),
            ("/etc/ssl/private/uploads.example.com.key", str(key)),
            # What the distribution's own nginx.conf sets, or compiled in.
            ("http {", f"http {{\n{self._paths()}"),
        ):
            text = _replaced(text, shown, here)
        self._config = folder / "nginx.conf"
        self._config.write_text(text)

    def _paths(self) -> str:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        lines = [f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds]
        return "\n".join(["access_log off;", *lines])

    def _command(self) -> list[str]:
        user = "user root;" if os.geteuid() == 0 else ""
        return [
            *(program("nginx"), "-c", str(self._config), "-p", str(self._folder), "-e", "stderr"),
            *("-g", f"{user} daemon off; pid {self._folder}/nginx.pid;"),
        ]

    @property
    def run(self) -> Sequence[str]:
        return self._command()

    @property
    def check(self) -> Sequence[str]:
        return [*self._command(), "-t"]

    @property
    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self._certificate)


class Caddy:
    scheme = "http"  # a certificate would have to come from outside
    tls = None

    def __init__(self, folder: Path, *, port: int, upstream: int) -> None:
        (block,) = blocks("caddyfile")
        text = block.text
        for shown, here in (
            ("uploads.example.com {", f"http://localhost:{port} {{\n\tbind 127.0.0.1"),
            ("127.0.0.1:1080", f"127.0.0.1:{upstream}"),
        ):
            text = _replaced(text, shown, here)
        self._config = folder / "Caddyfile"
        self._config.write_text("{\n\tadmin off\n}\n\n" + text)

    def _command(self, verb: str) -> Sequence[str]:
        return [
            *(program("caddy"), verb, "--config", str(self._config)),
            *("--adapter", "caddyfile"),
        ]

    @property
    def run(self) -> Sequence[str]:
        return self._command("run")

    @property
    def check(self) -> Sequence[str]:
        return self._command("validate")


def _replaced(text: str, shown: str, here: str) -> str:
    assert text.count(shown) == 1, f"{shown!r} is not in the README's configuration, once"
    return text.replace(shown, here)


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-nodes", "-days", "2", "-batch"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(key), "-out", str(certificate)),
            *("-subj", "/CN=uploads.example.com"),
            *("-addext", "subjectAltName=DNS:uploads.example.com"),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


def environment(folder: Path) -> dict[str, str]:
    """Without the user's own settings."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder)}


@asynccontextmanager
async def behind(kind: type[Nginx | Caddy], folder: Path, site: Site) -> AsyncIterator[ProxySite]:
    """A proxy in front of ``site``, with the README's configuration."""
    port = free_port()
    proxy = kind(folder, port=port, upstream=site.port)
    with (folder / "proxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *proxy.run, env=environment(folder), stdout=log, stderr=log
        )
    front = ProxySite(port, site.store, site.prefix, site.runner, site.routes, tls=proxy.tls)
    try:
        await _accepting(port, process)
        yield front
    except BaseException as error:
        error.add_note((folder / "proxy.log").read_text(errors="replace"))
        raise
    finally:
        for connection in front.connections:
            await connection.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _accepting(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            assert process.returncode is None, "the proxy ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
