from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from aiotus_server import DiskStore

from .client import Site, serving

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


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a server: ``await serve(options=…, hooks=…)``; a disk store unless one is given."""
    async with AsyncExitStack() as stack:

        async def start(store: Any = None, **kwargs: Any) -> Site:
            if store is None:
                store = DiskStore(tmp_path / "uploads", durability="none")
            return await stack.enter_async_context(serving(store, **kwargs))

        yield start


@pytest.fixture
async def site(serve: Serve) -> Site:
    """A server with default options."""
    return await serve()
