"""Mends what a verification finds, as far as that is safe."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ... import threads
from ...locks import Locker, Purpose
from ...protocol.errors import TusError, UploadLocked
from ..durability import Durability
from ..files import Files
from ..layout import Layout
from .findings import Finding, Repair
from .folders import Folders
from .mending import Mender
from .verification import Verification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ..owner import Owner
    from .survey import Counts, Look

LOCK_WAIT = 3  # seconds
PASSES = 3  # what was moved is looked at in its new place, and so on


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a finding: ``done``, or ``why`` not."""

    finding: Finding
    done: bool
    why: str = ""


async def repair(root: Path, locker: Locker, owner: Owner) -> tuple[Counts, list[Mended]]:
    """Mend the store in ``root``: what there is afterwards, and what was found.

    ``locker`` says whether others may use it meanwhile; what they use is left alone. Raises
    StoreInUse or OSError.
    """
    layout = Layout(root, shared=locker.spans_processes, make=False)
    try:
        return await _Repairer(layout, locker, owner).run()
    finally:
        layout.close()


class _Repairer:
    def __init__(self, layout: Layout, locker: Locker, owner: Owner) -> None:
        self._layout = layout
        self._locker = locker
        self._mender = Mender(Files(layout, Durability.COMPLETE), layout, owner)

    async def run(self) -> tuple[Counts, list[Mended]]:
        """The last pass tells what is left."""
        mended: list[Mended] = []
        for _ in range(PASSES):
            verification = Verification(self._layout)
            outcomes = [outcome async for outcome in self._pass(verification)]
            mended += [outcome for outcome in outcomes if outcome.done]
            if not any(outcome.done for outcome in outcomes):
                break
        return verification.counts, mended + [o for o in outcomes if not o.done]

    async def _pass(self, verification: Verification) -> AsyncIterator[Mended]:
        for look in verification.looks:
            for subject in await threads.slow.run(verification.suspects, look):
                for outcome in await self._look_at(look, subject):
                    yield outcome
            if isinstance(look, Folders):
                with suppress(OSError):  # then it has a finding that could not be mended
                    self._layout.make_all()

    async def _look_at(self, look: Look, subject: str) -> list[Mended]:
        try:
            async with self._holding(look.upload_id(subject)):
                return await threads.slow.run(self._mend, look, subject)
        except UploadLocked:
            return await threads.slow.run(_left_alone, look, subject)

    @asynccontextmanager
    async def _holding(self, upload_id: str | None) -> AsyncIterator[None]:
        if upload_id is None:
            yield
            return
        async with self._locker.lock(upload_id, Purpose.EXPIRE, wait=LOCK_WAIT):
            yield

    def _mend(self, look: Look, subject: str) -> list[Mended]:
        """Looks again after each: what mends one finding may mend another."""
        outcomes: dict[tuple[str, str], Mended] = {}
        while True:
            new = [f for f in look.findings(subject) if (f.code, f.path) not in outcomes]
            if not new:
                return list(outcomes.values())
            outcomes[new[0].code, new[0].path] = self._mend_one(new[0])

    def _mend_one(self, finding: Finding) -> Mended:
        if finding.kind.repair is Repair.NONE:
            return Mended(finding, done=False)
        try:
            self._mender.mend(finding)
        except (OSError, TusError) as error:
            return Mended(finding, done=False, why=_reason_of(error))
        return Mended(finding, done=True)


def _left_alone(look: Look, subject: str) -> list[Mended]:
    return [Mended(finding, done=False, why="it is in use") for finding in look.findings(subject)]


def _reason_of(error: OSError | TusError) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
