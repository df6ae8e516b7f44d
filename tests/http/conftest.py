from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore

from .client import Site, serving

if TYPE_CHECKING:
    from pathlib import Path

Serve = Callable[..., Awaitable[Site]]


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
