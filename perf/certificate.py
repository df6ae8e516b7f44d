"""A certificate for the run, made by openssl and trusted by nobody else."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from .install import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make(folder: Path) -> tuple[ssl.SSLContext, Mapping[str, str]]:
    """What a client needs, and the files that a server does: ``cert`` and ``key``."""
    files = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", files["key"], "-out", files["cert"]),
    )
    return ssl.create_default_context(cafile=files["cert"]), files
