"""What a process and all of its children have used, from ``/proc``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    pids = [pid]
    for process in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{process}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def cpu(pid: int) -> float:
    """Seconds, in user and kernel mode, with those of children that have ended."""
    return sum(map(_cpu_of, tree(pid)))


def _cpu_of(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS
    return 0.0


def peak_rss(pid: int) -> int:
    """Bytes: the largest that each process ever had, added up."""
    return _memory(pid, "VmHWM:")


def rss(pid: int) -> int:
    return _memory(pid, "VmRSS:")


def _memory(pid: int, field: str) -> int:
    return sum(_memory_of(process, field) for process in tree(pid))


def _memory_of(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0
