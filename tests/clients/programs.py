"""Client programs as processes, and tus-js-client's modules for Node."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
PATIENCE = 60  # seconds that one run of a program may take


def program(name: str) -> str:
    """The path of a program; the test fails, it is not skipped, when there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"the tests in {HERE} need {name}, and it is not installed", pytrace=False)
    return path


def install_modules() -> None:
    """The modules that package-lock.json names, in node_modules; fails the test if they cannot
    be had."""
    program("node")
    npm = program("npm")
    with (HERE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first of the processes that run tests installs
        if _versions(MODULES / ".package-lock.json") != _versions(HERE / "package-lock.json"):
            _install(npm)


def _install(npm: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"npm ci failed in {HERE}:\n{done.stderr}", pytrace=False)


def _versions(lock: Path) -> dict[str, str] | None:
    """Version by module. npm writes such a file into node_modules when it has finished."""
    if not lock.exists():
        return None
    packages: dict[str, dict[str, Any]] = json.loads(lock.read_text())["packages"]
    return {name: package["version"] for name, package in packages.items() if name}


class Program:
    """A running program, which is killed on leaving if it still runs.

    ``output`` is what it prints, when it has ended with success.
    """

    def __init__(self, *command: str | Path) -> None:
        self._command = [str(word) for word in command]

    async def __aenter__(self) -> Program:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.kill()
            await self._process.communicate()

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        async with asyncio.timeout(PATIENCE):
            output, errors = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, output.decode(), errors.decode()

    async def output(self) -> str:
        code, output, errors = await self.ended()
        assert code == 0, f"{self._command[0]} ended with {code}: {errors}"
        return output


def uploading(url: str, path: Path, options: Mapping[str, object]) -> Program:
    """tus-js-client, which prints the upload's URL."""
    return Program(program("node"), HERE / "upload.mjs", url, path, json.dumps(options))
