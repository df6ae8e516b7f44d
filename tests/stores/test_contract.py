"""Both stores keep the contract that is published for stores of others."""

from pathlib import Path

import pytest

from aiotus_server import DiskStore, MemoryStore
from aiotus_server.testing import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestDiskStore(StoreContract):
    @pytest.fixture(params=["none", "complete", "always"])
    def store(self, tmp_path: Path, request: pytest.FixtureRequest) -> DiskStore:
        return DiskStore(tmp_path, durability=request.param)
