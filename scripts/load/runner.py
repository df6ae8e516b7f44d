"""Runs a plan: so many uploads at once until all are done, then compares what was stored.

Uploads are done in batches, each verified when it is through, so that memory stays bounded and
verification does not count as time of uploading.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .client import Client
from .http import Reply
from .job import Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from .plan import Plan
    from .tally import Tally

BATCH = 10_000  # uploads

T = TypeVar("T")


class Unusable(Exception):
    """The server cannot be asked for this load; nothing was tried."""


def client_of(plan: Plan, tally: Tally) -> Client:
    return Client(
        tally,
        timeout=plan.timeout,
        rate=plan.rate,
        headers=plan.headers,
        verify_tls=plan.verify_tls,
        chunked=plan.chunked,
    )


async def run(plan: Plan, tally: Tally) -> None:
    """Raises Unusable before anything is uploaded. Cancelled, it leaves the tally as it is."""
    client = client_of(plan, tally)
    try:
        await check_offer(plan, client)
        for begin in range(0, plan.uploads, BATCH):
            await _batch(plan, client, range(begin, min(begin + BATCH, plan.uploads)))
    finally:
        client.close()


async def _batch(plan: Plan, client: Client, indices: Iterable[int]) -> None:
    jobs: list[Job] = []
    tally = client.tally

    async def upload(index: int) -> None:
        job = Job(plan, client, index)
        await job.upload()
        if job.ok:
            jobs.append(job)
            tally.counts["unverified"] += 1

    async def verify(job: Job) -> None:
        if plan.verify:
            await job.verify()
        else:
            tally.counts["ok"] += 1
        tally.counts["unverified"] -= plan.verify
        if plan.delete and job.ok:
            await job.remove()

    with _clock(tally):
        await at_once(plan.concurrency, upload, indices)
    await at_once(plan.concurrency, verify, jobs)


@contextmanager
def _clock(tally: Tally) -> Iterator[None]:
    begun = time.perf_counter()
    before = tally.seconds
    try:
        yield
    finally:
        tally.seconds = before + time.perf_counter() - begun


async def at_once(workers: int, do: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """``do`` all items, so many at a time."""
    left = iter(items)

    async def work() -> None:
        for item in left:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())


async def check_offer(plan: Plan, client: Client) -> None:
    """Ask by OPTIONS what the server can. Raises Unusable."""
    outcome = await client.request("OPTIONS", plan.url)
    if not isinstance(outcome, Reply):
        raise Unusable(f"{plan.url}: {outcome.why}")
    if outcome.status not in (200, 204) or "tus-version" not in outcome.headers:
        raise Unusable(f"{plan.url} is no tus server: OPTIONS was answered {outcome.says}")
    offered = _list(outcome.headers.get("tus-extension", ""))
    needed = {
        "creation": True,
        "creation-with-upload": plan.with_upload,
        "creation-defer-length": plan.defer_length,
        "checksum": plan.checksum is not None,
        "checksum-trailer": plan.trailer,
        "concatenation": plan.parallel > 1,
        "termination": plan.delete,
    }
    missing = [name for name, wanted in needed.items() if wanted and name not in offered]
    if missing:
        raise Unusable(f"the server does not offer {', '.join(missing)}")
    algorithms = _list(outcome.headers.get("tus-checksum-algorithm", ""))
    if plan.checksum is not None and plan.checksum not in algorithms:
        raise Unusable(f"the server offers no {plan.checksum}, but {', '.join(algorithms)}")


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
