from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

BOTH = {"test_contract.py", "test_file.py"}  # what depends on the loop it runs on

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    if item.path.name in BOTH:
        factories["uvloop"] = uvloop.new_event_loop
    return factories
