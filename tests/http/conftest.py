from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from aiotus_server import DiskStore

from .client import DataPath, Site, serving

if TYPE_CHECKING:
    from pathlib import Path

Serve = Callable[..., Awaitable[Site]]
Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Factories:
    """asyncio's own loop; uvloop too where ``@pytest.mark.asyncio(loop_factories=…)`` names it."""
    marker = item.get_closest_marker("asyncio")
    named = marker.kwargs.get("loop_factories", ()) if marker else ()
    factories: Factories = {"asyncio": asyncio.new_event_loop}
    if "uvloop" in named:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that serves is made over the fast path and over the portable one, if
    ``@pytest.mark.data_paths(…)`` does not name others. Bodies in chunks take neither."""
    if "data_path" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("data_paths")
        paths = marker.args if marker else (DataPath.FAST, DataPath.PORTABLE)
        metafunc.parametrize("data_path", paths, ids=lambda path: path.name.lower())


@pytest.fixture
async def serve(tmp_path: Path, data_path: DataPath) -> AsyncIterator[Serve]:
    """Start a server: ``await serve(options=…, hooks=…)``; a disk store unless one is given."""
    async with AsyncExitStack() as stack:

        async def start(store: Any = None, **kwargs: Any) -> Site:
            if store is None:
                store = DiskStore(tmp_path / "uploads", durability="none")
            return await stack.enter_async_context(serving(store, data_path=data_path, **kwargs))

        yield start


@pytest.fixture
async def site(serve: Serve) -> Site:
    """A server with default options."""
    return await serve()
