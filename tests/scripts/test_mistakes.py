"""What the scripts say to a wrong command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .programs import begun, ended

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = ("crash_test.py", "fuzz.py", "power_cut.py", "soak.py")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("folder", ["nowhere", "file", ""])
async def test_a_folder_that_is_none_is_a_mistake_and_no_finding(
    tmp_path: Path, script: str, folder: str
) -> None:
    (tmp_path / "file").touch()
    result = await ended(await begun(script, f"--dir={folder}", folder=tmp_path))
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("script", SCRIPTS)
async def test_where_the_server_listens_is_not_for_the_user_to_say(
    tmp_path: Path, script: str
) -> None:
    result = await ended(await begun(script, "--dir=.", "--", "--port", "1", folder=tmp_path))
    assert result.code == 2, result
    assert "--port cannot be passed on" in result.err
