"""One upload of a load, whole: alone or from partial uploads; then verified, then removed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from .client import Broken
from .content import Content
from .http import Reply
from .plan import Dice
from .transfer import PASSING, Failed, Transfer, Wrong
from .verify import check_bytes, check_head

if TYPE_CHECKING:
    from .client import Client
    from .plan import Plan


class Job:
    """Upload number ``index`` of the plan. What goes wrong is in the tally, and is not raised."""

    def __init__(self, plan: Plan, client: Client, index: int) -> None:
        self.url = ""
        self.ok = False
        self.length = plan.length_of(index)
        self._plan = plan
        self._client = client
        self._tally = client.tally
        self._index = index
        self._content = Content(plan.seed, index)

    async def upload(self) -> None:
        begun = time.perf_counter()
        try:
            if self._plan.parallel > 1:
                await self._in_parallel()
            else:
                await self._alone()
        except (Failed, Wrong) as error:
            self._report(error)
        else:
            self._tally.times["upload"].add(time.perf_counter() - begun)
            self.ok = True

    async def verify(self) -> None:
        """Of an upload that is ``ok``."""
        begun = time.perf_counter()
        plan, client, url = self._plan, self._client, self.url
        try:
            await check_head(plan, client, url, self.length)
            dice = Dice(plan, self._index, -1)
            await check_bytes(plan, client, dice, url, self._content, self.length)
        except (Failed, Wrong) as error:
            self.ok = False
            self._report(error)
        else:
            self._tally.times["verify"].add(time.perf_counter() - begun)
            self._tally.counts["ok"] += 1

    async def remove(self) -> None:
        """DELETE, unless the server does not offer it."""
        reply = await self._client.request("DELETE", self.url)
        if isinstance(reply, Reply) and reply.status not in (200, 204, 404, 405, 410, *PASSING):
            self._report(Failed(f"DELETE was answered {reply.says}"))

    def _report(self, error: Failed | Wrong) -> None:
        self._tally.counts["wrong" if isinstance(error, Wrong) else "failed"] += 1
        place = f" ({self.url})" if self.url else ""
        self._tally.error(f"upload {self._index}{place}: {error}")

    async def _alone(self) -> None:
        transfer = self._transfer(0, 0, self.length)
        try:
            await transfer.run(self._metadata())
        finally:
            self.url = transfer.url

    async def _in_parallel(self) -> None:
        parts = min(self._plan.parallel, max(1, self.length))
        bounds = [self.length * part // parts for part in range(parts + 1)]
        transfers = [self._transfer(part, bounds[part], bounds[part + 1]) for part in range(parts)]
        runs = [transfer.run({"Upload-Concat": "partial"}) for transfer in transfers]
        for outcome in await asyncio.gather(*runs, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await self._join([urlsplit(transfer.url).path for transfer in transfers])

    def _transfer(self, part: int, begin: int, end: int) -> Transfer:
        dice = Dice(self._plan, self._index, part)
        return Transfer(self._plan, self._client, dice, self._content, begin, end)

    async def _join(self, paths: list[str]) -> None:
        fields = {"Upload-Concat": f"final;{' '.join(paths)}", **self._metadata()}
        dice = Dice(self._plan, self._index, len(paths))
        for attempt in range(self._plan.retries + 1):
            outcome = await self._client.request("POST", self._plan.url, fields)
            if isinstance(outcome, Reply) and outcome.status not in PASSING:
                break
            self._tally.counts["retries"] += 1
            await asyncio.sleep(dice.pause(attempt))
        if isinstance(outcome, Broken) or outcome.status != 201:
            why = outcome.why if isinstance(outcome, Broken) else outcome.says
            raise Failed(f"the concatenation was answered {why}")
        self.url = urljoin(self._plan.url, outcome.headers.get("location", ""))

    def _metadata(self) -> dict[str, str]:
        header = self._plan.metadata_header
        return {"Upload-Metadata": header} if header else {}
