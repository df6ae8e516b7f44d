from __future__ import annotations

import pytest

from ..http.conftest import serve as serve  # noqa: PLC0414 - a fixture
from .disk import Disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)
