"""The servers that can be compared, and how each is started.

On equal terms: no access log, nothing flushed to the disk, one machine. Each in the
configuration that its own documentation gives for production.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import install
from .running import REPOSITORY, Launch, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """``prepare`` installs it if need be, below that folder, and raises Missing if it cannot.
    One that is to be ``asked_for`` is only measured by name."""

    name: str
    title: str
    note: str
    prepare: Callable[[Path], Launch]
    ours: bool = False
    asked_for: bool = False


# Ours

PLACE = ("--host", "127.0.0.1", "--port", "{port}", "--dir", "{folder}")


def _ours(folder: Path, *more: str, durability: str = "none") -> Launch:
    command = (sys.executable, "-m", "aiotus_server", "--durability", durability, *PLACE, *more)
    tls = ("--tls-cert", "{cert}", "--tls-key", "{key}")
    return Launch(argv=command, version=_our_version(), tls=tls)


def _two_workers(folder: Path) -> Launch:
    if "--workers" not in output_of(sys.executable, "-m", "aiotus_server", "--help"):
        raise Missing("this version has no --workers")
    return _ours(folder, "--workers", "2")


def _flushing(durability: str) -> Peer:
    return Peer(
        f"aiotus-{durability}",
        f"aiotus-server, durability {durability}",
        "one process",
        partial(_ours, durability=durability),
        ours=True,
        asked_for=True,
    )


@cache
def _our_version() -> str:
    commit = output_of("git", "rev-parse", "--short", "HEAD").strip()
    parts = [f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "uvloop")]
    return ", ".join(
        [output_of(sys.executable, "-m", "aiotus_server", "--version").strip()]
        + ([f"commit {commit}"] if commit else [])
        + parts
    )


# Others


def _tusd(folder: Path) -> Launch:
    """That on PATH or in $TUSD, else the newest that ``go install`` builds."""
    binary = os.environ.get("TUSD") or shutil.which("tusd") or install.tusd(folder)
    command = (binary, "-host", "127.0.0.1", "-port", "{port}", "-upload-dir", "{folder}")
    # Without this it writes a line for each request.
    return Launch(argv=(*command, "-verbose=false"), version=install.go_version(binary))


def _rustus(folder: Path) -> Launch:
    binary = os.environ.get("RUSTUS") or shutil.which("rustus")
    if binary is None:
        raise Missing("rustus is not on PATH, and $RUSTUS does not name it")
    command = (binary, "--host", "127.0.0.1", "--port", "{port}", "--log-level", "ERROR")
    folders = ("--data-dir", "{folder}", "--info-dir", "{folder}")
    # It takes a body whole into memory, and refuses those that are larger than this.
    size = ("--max-body-size", str(2**32))
    version = output_of(binary, "--version").strip().removeprefix("Rustus ")
    return Launch(argv=(*command, *folders, *size), version=version, path="/files")


def _node(folder: Path) -> Launch:
    script, version = install.node(folder)
    return Launch(
        argv=("node", str(script), "{port}", "{folder}"),
        version=version,
        path="/files",
        env={"NODE_ENV": "production"},
    )


UVICORN = ("--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning")


def _tuspyserver(folder: Path) -> Launch:
    python, version = install.python(folder, "tuspyserver", "fastapi", "uvicorn[standard]")
    app = ("--app-dir", str(HERE / "hosts"), "tuspyserver_app:app")
    return Launch(
        argv=(str(python), "-m", "uvicorn", *app, *UVICORN),
        version=version,
        env={"TUS_FOLDER": "{folder}"},
    )


def _litestar(folder: Path) -> Launch:
    python, version = install.python(
        folder, "litestar-tus", "litestar-tus[server]", "uvicorn[standard]", at_least=(3, 13)
    )
    app = ("--factory", "litestar_tus.server:create_app")
    return Launch(
        argv=(str(python), "-m", "uvicorn", *app, *UVICORN),
        version=version,
        path="/files",
        env={"TUS_UPLOAD_DIR": "{folder}"},
    )


PEERS = {
    peer.name: peer
    for peer in (
        Peer("aiotus", "aiotus-server", "one process", _ours, ours=True),
        Peer("aiotus-2", "aiotus-server, 2 workers", "--workers 2", _two_workers, ours=True),
        _flushing("complete"),
        _flushing("always"),
        Peer("tusd", "tusd", "Go, all cores", _tusd),
        Peer("rustus", "rustus", "Rust, a worker for each core, bodies whole in memory", _rustus),
        Peer("node", "@tus/server", "Node.js, one process, @tus/file-store", _node),
        Peer(
            "tuspyserver", "tuspyserver", "FastAPI, uvicorn with uvloop, one process", _tuspyserver
        ),
        Peer("litestar-tus", "litestar-tus", "uvicorn with uvloop, one process", _litestar),
    )
}


def output_of(*command: str) -> str:
    """Empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
    except OSError:
        return ""
    return done.stdout


def names(given: Sequence[str]) -> list[str]:
    """Those known; raises ValueError for others without a URL."""
    unknown = [name for name in given if name not in PEERS and "=http" not in name]
    if unknown:
        raise ValueError(f"no server is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return list(given)
