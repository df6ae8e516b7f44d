"""Power cuts under load: what every level of durability promises is there afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from scripts.powercut.disks import FILE_SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..scripts.programs import Result

    PowerCut = Callable[..., Awaitable[Result]]

LEVELS = ("none", "complete", "always")
KINDS = {
    "small appends",
    "large",
    "chunked",
    "checksum",
    "with upload",
    "deferred length",
    "empty",
    "partial",
    "final",
    "unfinished final",
}

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("level", LEVELS)
async def test_twenty_power_cuts_on_ext4(power_cut: PowerCut, level: str) -> None:
    result = await power_cut("--cuts=20", f"--durability={level}")
    assert result.code == 0, result.out
    assert result.summary["cuts"] == 20
    uploads = result.summary["uploads"]
    assert set(uploads) == KINDS | {"new"}
    assert uploads["new"]["downloaded"] == 20
    # The test tests something: of every kind, bytes were looked at, and some were unfinished.
    for kind in KINDS - {"empty"}:
        assert uploads[kind]["read"] > 0
        assert uploads[kind]["downloaded"] > 0
    for kind in KINDS - {"empty", "final", "unfinished final"}:
        assert uploads[kind]["resumed"] > 0 or level == "none"
    assert len(result.summary["moments"]) > 10


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("system", sorted(set(FILE_SYSTEMS) - {"ext4"}))
async def test_power_cuts_on_other_file_systems(
    power_cut: PowerCut, system: str, level: str
) -> None:
    result = await power_cut("--cuts=3", f"--file-system={system}", f"--durability={level}")
    assert result.code == 0, result.out
    assert result.summary["uploads"]["new"]["downloaded"] == 3


async def test_a_server_that_does_not_flush_is_found(power_cut: PowerCut) -> None:
    result = await power_cut("--cuts=6", "--durability=none", "--promise=always")
    assert result.code == 1, result.out
    found = {violation["what"] for violation in result.summary["violations"]}
    assert "an upload is gone though its end was acknowledged" in found
    assert "an upload is gone though it was acknowledged" in found
    # And only for the power cuts: the same questions were asked without one.
    assert 0 not in {violation["cut"] for violation in result.summary["violations"]}


async def test_another_server(power_cut: PowerCut) -> None:
    command = f"{sys.executable} -m aiotus_server --port {{port}} --dir={{dir}} --durability none"
    result = await power_cut("--cuts=2", f"--server-command={command}", "--promise=complete")
    assert result.code == 1, result.out
    assert result.summary["run"] == f"ext4, {command}, checked for complete"
