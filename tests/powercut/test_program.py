"""The script as a program: how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.powercut.main import UNABLE

from ..processes import REPOSITORY
from ..scripts.programs import begun, ended

if TYPE_CHECKING:
    from asyncio.subprocess import Process

SCRIPT = "power_cut.py"


async def until_it_cuts(process: Process, folder: Path) -> None:
    """Until a copy of the disk is mounted. Skips where that never happens."""
    mounts = Path(f"/proc/{process.pid}/mounts")
    for _ in range(2000):
        if process.returncode == UNABLE:
            assert process.stderr is not None
            why = (await process.stderr.read()).decode()
            pytest.skip(f"NOT TESTED: that nothing is left after power cuts, since {why}")
        assert process.returncode is None
        if "/cut-" in mounts.read_text():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no cut")


def loop_devices(folder: Path) -> list[str]:
    """Those whose blocks are in files below ``folder``."""
    listed = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]


def processes(folder: Path) -> list[str]:
    """Command lines of those that were told of ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has just ended
            continue
    return [line for line in found if str(folder) in line]


async def gone(folder: Path) -> None:
    """The kernel takes the mounts of a process away a moment after the process."""
    for _ in range(250):
        if not loop_devices(folder) and not processes(folder):
            return
        await asyncio.sleep(0.02)
    raise AssertionError([*loop_devices(folder), *processes(folder)])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_left_whatever_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    options = ["--durability=none", f"--dir={tmp_path}"]
    process = await begun(SCRIPT, *options, folder=tmp_path)
    try:
        await until_it_cuts(process, tmp_path)
        assert loop_devices(tmp_path)
    finally:
        if process.returncode is None:
            process.send_signal(number)
        result = await ended(process)
    await gone(tmp_path)
    if number is signal.SIGKILL:
        assert not list(tmp_path.rglob("*.img"))
    else:
        assert result.code in (1, 130), result
        assert result.err == "interrupted\n"
        assert "cuts       " in result.out
        assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(120)
async def test_a_server_that_does_not_start_ends_it_with_code_2(tmp_path: Path) -> None:
    options = ["--durability=none", f"--dir={tmp_path}", "--", "--no-such-flag"]
    result = await ended(await begun(SCRIPT, *options, folder=tmp_path))
    if result.code == UNABLE:
        pytest.skip(f"NOT TESTED: power cuts, since {result.err.strip()}")
    assert result.code == 2
    assert "the server ended by itself with 2" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuts=0"], "argument --cuts: '0' is not a number from 1 on"),
        (["--file-system=fat"], "argument --file-system: invalid choice: 'fat'"),
        (["--server-command=x", "--durability=none"], "--durability is for aiotus-server"),
    ],
)
async def test_a_mistake_ends_it_with_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = await ended(await begun(SCRIPT, *arguments, folder=tmp_path))
    assert result.code == 2
    assert message in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="user namespaces are Linux's")
async def test_a_machine_that_cannot_do_it_is_told_apart(tmp_path: Path) -> None:
    """And the tests say so, at the end, where it is seen."""
    if subprocess.run(["unshare", "--user", "true"], check=False).returncode != 0:
        pytest.skip("nobody may be somebody else here")
    script = str(REPOSITORY / "scripts" / SCRIPT)
    command = ["unshare", "--user", sys.executable, script, "--cuts=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (UNABLE, "")
    assert done.stderr == "power_cut.py: only root can mount\n"


@pytest.mark.timeout(120)
async def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root comes so far")
    programs = tmp_path / "programs"
    programs.mkdir()
    mount = shutil.which("mount")
    assert mount is not None
    (programs / "mount").symlink_to(mount)
    monkeypatch.setenv("PATH", str(programs))
    result = await ended(await begun(SCRIPT, f"--dir={tmp_path}", folder=tmp_path))
    assert result.code == UNABLE
    assert "there is no mkfs.xfs (package xfsprogs)" in result.err or "mounts" in result.err


async def test_what_is_not_tested_is_said_loudly(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\ndef test_it():\n    pytest.skip('NOT TESTED: this (and that)')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert "!!!! NOT TESTED !!!!" in done.stdout
    assert "\nNOT TESTED: this (and that)\n" in done.stdout
