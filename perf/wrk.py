"""wrk, which counts small requests: https://github.com/wg/wrk."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .client import METADATA
from .running import Missing

if TYPE_CHECKING:
    from .client import Endpoint

SCRIPTS = Path(__file__).with_name("lua")
CONNECTIONS = 32


def is_there() -> bool:
    return shutil.which("wrk") is not None


def count(endpoint: Endpoint, script: str, seconds: float, given: str) -> dict[str, float]:
    """``given`` is the file that the script needs. Requests a second (``rate``), ``requests``, ``p50_ms``, ``p99_ms``, ``errors``: answers of
    400 and above, and requests without an answer."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += [
        "-s",
        str(SCRIPTS / f"{script}.lua"),
        endpoint.url,
        "--",
        endpoint.path,
        given,
        METADATA,
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds * 3 + 60
    )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            result: dict[str, float] = json.loads(line)
            return result
    raise Missing(f"wrk: {done.stdout[-300:]} {done.stderr[-300:]}")
