"""Installs the other servers below one folder, each once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .running import Missing

HERE = Path(__file__).parent
PATIENCE = 900  # seconds


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """What it printed. Raises Missing, with the end of what it complained of, if it fails."""
    words = list(map(str, command))
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{words[0]}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise Missing(f"{' '.join(words)}: {error.stderr[-500:]}") from error
    return done.stdout


def tusd(cache: Path) -> str:
    binary = cache / "bin" / "tusd"
    if not binary.exists():
        run("go", "install", "github.com/tus/tusd/v2/cmd/tusd@latest", GOBIN=str(binary.parent))
    return str(binary)


def go_version(binary: str) -> str:
    """Of the module that a Go program was built from, as the program tells if it can."""
    try:
        lines = run("go", "version", "-m", binary).splitlines()
    except Missing:
        lines = run(binary, "-version").splitlines()
        return lines[0].removeprefix("Version: ") if lines else "unknown"
    built_by = lines[0].rpartition(": ")[2]
    versions = [line.split()[2] for line in lines if line.split()[:1] == ["mod"]]
    return f"{versions[0] if versions else 'unknown'}, {built_by}"


def node(cache: Path) -> tuple[Path, str]:
    """The script of the server, and its version."""
    folder = cache / "node"
    folder.mkdir(parents=True, exist_ok=True)
    packages = folder / "node_modules" / "@tus"
    if not (packages / "file-store").exists():
        (folder / "package.json").write_text('{"private": true}')
        run(
            "npm",
            "install",
            "--no-fund",
            "--no-audit",
            "@tus/server",
            "@tus/file-store",
            cwd=folder,
        )
    script = folder / "server.mjs"
    shutil.copy(HERE / "hosts" / "server.mjs", script)
    about = json.loads((packages / "server" / "package.json").read_text())
    return script, f"{about['version']}, node {run('node', '--version').strip()}"


def python(
    cache: Path, package: str, *requirements: str, at_least: tuple[int, int] = (3, 11)
) -> tuple[Path, str]:
    """The interpreter of an environment that has ``requirements``, and ``package``'s version."""
    folder = cache / package
    interpreter = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        run(find_python(at_least), "-m", "venv", "--clear", folder)
        run(interpreter, "-m", "pip", "install", "--quiet", package, *requirements)
        ready.touch()
    question = (
        "import sys, importlib.metadata as m; "
        f"print(m.version({package!r}), 'Python', sys.version.split()[0], sep=', ')"
    )
    return interpreter, run(interpreter, "-c", question).strip().replace("Python, ", "Python ")


def find_python(at_least: tuple[int, int]) -> str:
    """An interpreter of that version or a later one, this one if it will do."""
    if sys.version_info[:2] >= at_least:
        return sys.executable
    names = [f"python{at_least[0]}.{minor}" for minor in range(at_least[1], at_least[1] + 4)]
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{at_least[0]}.*/bin/python"))
    for candidate in [*names, *map(str, pyenv)]:
        try:
            minor = run(candidate, "-c", "import sys; print(sys.version_info[1])")
        except Missing:
            continue
        if int(minor) >= at_least[1]:
            return candidate
    raise Missing(f"there is no Python {at_least[0]}.{at_least[1]} or newer")
