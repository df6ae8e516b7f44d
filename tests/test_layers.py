"""Imports point inwards: protocol, then server, then aiohttp (see README's "Design notes")."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aiotus_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(aiotus_server.__file__).parent

# The first part of a module's name below the package says in which ring it is. A new module
# has to be put into one of them by hand: that is a decision.
RINGS = {
    1: {"protocol"},
    2: {
        "body",
        "hashing",
        "pump",
        "call",
        "concatenation",
        "cors",
        "damage",
        "disk_errors",
        "events",
        "hooks",
        "ids",
        "locks",
        "metrics",
        "options",
        "owners",
        "pace",
        "reception",
        "recovery",
        "server",
        "slots",
        "states",
        "stores",
        "sweeper",
        "testing",
        "threads",
        "urls",
    },
    3: {
        "__init__",
        "__main__",
        "_aiohttp",
        "app",
        "arguments",
        "cli",
        "commands",
        "downloading",
        "flags",
        "listening",
        "location",
        "routes",
        "serving",
        "starting",
        "web",
        "workers",
    },
}

# The standard library's pure half: nothing that waits, looks at a clock, a file or a socket,
# or writes a log.
PURE = {
    "__future__",
    "abc",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "datetime",
    "email.utils",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "urllib.parse",
    "zlib",
}
HASHES = {"crc32c", "crcmod", "isal", "xxhash"}
# Frozen values: five times as fast to make as the standard library's.
VALUES = {"msgspec"}
HTTP = {"aiohttp", "aiosignal", "gunicorn", "http", "multidict", "yarl"}

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")
)


def ring_of(module: str) -> int:
    top = module.partition(".")[0]
    rings = [ring for ring, names in RINGS.items() if top in names]
    assert len(rings) == 1, f"{module} is in the rings {rings}, not in exactly one"
    return rings[0]


def path_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """The absolute names of all that a module imports, also where only a type checker does."""
    package = ["aiotus_server", *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def inner_module(name: str) -> str | None:
    """The module of this package that an imported name is in, None for foreign ones."""
    parts = name.split(".")
    if parts[0] != "aiotus_server":
        return None
    for end in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[1:end])
        if folder.with_suffix(".py").is_file() and end > 1:
            return ".".join(parts[1:end])
        if (folder / "__init__.py").is_file():
            return ".".join([*parts[1:end], "__init__"])
    raise AssertionError(f"no module has {name}")


def violations(module: str, tree: ast.AST) -> list[str]:
    """What a module imports though its ring may not."""
    ring, found = ring_of(module), []
    for name in imports_of(module, tree):
        inner = inner_module(name)
        if inner is not None:
            if ring_of(inner) > ring:
                found.append(name)
        elif ring == 1:
            prefixes = {".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 2)}
            if not prefixes & (PURE | HASHES | VALUES):
                found.append(name)
        elif ring == 2 and name.partition(".")[0] in HTTP:
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_exactly_one_ring(module: str) -> None:
    assert ring_of(module) in RINGS


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_inwards(module: str) -> None:
    assert violations(module, ast.parse(path_of(module).read_text())) == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.partition(".")[0] != "_aiohttp"]
)
def test_only_one_module_knows_the_inside_of_aiohttp(module: str) -> None:
    tree = ast.parse(path_of(module).read_text())
    inside = ("aiohttp.web_", "aiohttp.http_", "aiohttp.streams", "aiohttp._", "aiohttp.base_")
    assert [name for name in imports_of(module, tree) if name.startswith(inside)] == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("protocol.rules", "import os", ["os"]),
        ("protocol.rules", "import os.path", ["os.path"]),
        ("protocol.rules", "import email", ["email"]),
        ("protocol.rules", "from email.utils import format_datetime", []),
        ("protocol.rules", "def f():\n    from time import time", ["time.time"]),
        ("protocol.rules", "from ..body import Body", ["aiotus_server.body.Body"]),
        ("protocol.rules", "from .. import threads", ["aiotus_server.threads"]),
        ("protocol.rules", "from . import errors", []),
        ("protocol.rules", "import crc32c, xxhash, crcmod", []),
        ("protocol.rules", "import multidict", ["multidict"]),
        ("body", "import asyncio, os", []),
        ("body", "from aiohttp import web", ["aiohttp.web"]),
        ("body", "if TYPE_CHECKING:\n    import yarl", ["yarl"]),
        ("stores.disk", "from ..web import tus_routes", ["aiotus_server.web.tus_routes"]),
        ("stores.disk", "from .. import Refuse", ["aiotus_server.Refuse"]),
        ("stores.disk", "from ..protocol import errors", []),
        ("web", "from aiohttp import web", []),
        ("web", "from . import _aiohttp", []),
    ],
)
def test_an_import_that_points_outwards_is_found(
    module: str, source: str, found: list[str]
) -> None:
    assert violations(module, ast.parse(source)) == found
