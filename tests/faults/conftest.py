from __future__ import annotations

import gc

import pytest

from ..http.conftest import serve as serve  # noqa: PLC0414 - a fixture
from .disk import Disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What tests before have left to be closed is closed while closing still works."""
    gc.collect()
    return Disk(monkeypatch)
