"""What was measured on, without naming the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path


def describe(folders: list[Path]) -> dict[str, str]:
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _field("/proc/cpuinfo", "model name"),
        "memory": f"{_memory() / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load generator": _wrk_version(),
        "file systems": ", ".join(map(file_system, folders)),
    }


def file_system(folder: Path) -> str:
    """The type of the one that ``folder`` is on."""
    best = ("", "unknown")
    place = f"{folder.resolve()}/"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind = line.split()[:3]
        if place.startswith(f"{mounted.rstrip('/')}/") and len(mounted) >= len(best[0]):
            best = (mounted, kind)
    return best[1]


def _field(file: str, name: str) -> str:
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return "unknown"


def _memory() -> int:
    return int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024


def _wrk_version() -> str:
    try:
        told = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout
    except OSError:
        return "perf.generator"
    return f"{' '.join(told.split()[:2])}, for HEAD perf.generator"
