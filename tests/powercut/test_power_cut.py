"""Power cuts under load: what every level of durability promises is there afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

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

pytestmark = pytest.mark.timeout(600)  # others may have their turn before


@pytest.mark.parametrize("level", LEVELS)
async def test_twenty_power_cuts_on_ext4(power_cut: PowerCut, level: str) -> None:
    result = await power_cut("--cuts=20", f"--durability={level}")
    assert result.code == 0, result.out
    assert_all_was_looked_at(result, cuts=20)


def assert_all_was_looked_at(result: Result, *, cuts: int) -> None:
    """All kinds were there, bytes were compared, and some uploads were unfinished."""
    uploads = result.summary["uploads"]
    assert set(uploads) == KINDS | {"new"}
    assert all(uploads[kind].get("there") for kind in KINDS), uploads
    assert uploads["new"]["downloaded"] == result.summary["cuts"] == cuts
    for what, least in (("read", 20), ("downloaded", 10), ("resumed", 1)):
        assert sum(found.get(what, 0) for found in uploads.values()) >= least * cuts
    assert len(result.summary["moments"]) > cuts // 2


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("system", ["btrfs", "xfs"])
async def test_power_cuts_on_other_file_systems(
    power_cut: PowerCut, system: str, level: str
) -> None:
    result = await power_cut("--cuts=3", f"--file-system={system}", f"--durability={level}")
    assert result.code == 0, result.out
    assert result.summary["uploads"]["new"]["downloaded"] == 3


async def test_nothing_is_found_where_nothing_is_forgotten(power_cut: PowerCut) -> None:
    """The control: a file system that writes everything at once and in its order."""
    options = ["--cuts=20", "--file-system=ext4-sync", "--durability=none", "--promise=always"]
    result = await power_cut(*options)
    assert result.code == 0, result.out
    assert_all_was_looked_at(result, cuts=20)


async def test_a_server_that_does_not_flush_is_found(power_cut: PowerCut) -> None:
    result = await power_cut("--cuts=8", "--durability=none", "--promise=always")
    assert result.code == 1, result.out
    found = {violation["what"] for violation in result.summary["violations"]}
    assert "an upload is gone though its end was acknowledged" in found
    assert "an upload is gone though it was acknowledged" in found
    # And only for the power cuts: the same questions were asked without one.
    assert 0 not in {violation["cut"] for violation in result.summary["violations"]}


async def test_another_server(power_cut: PowerCut) -> None:
    command = f"{sys.executable} -m aiotus_server --port {{port}} --dir={{dir}} --durability none"
    result = await power_cut("--cuts=6", f"--server-command={command}", "--promise=always")
    assert result.code == 1, result.out
    assert result.summary["run"] == f"ext4, {command}, checked for always"
