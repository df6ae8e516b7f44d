"""What a client sends stands in no log and on no terminal as it came."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING

from aiotus_server import CreateEvent, DiskStore, Hooks, Options
from aiotus_server.cli import main

from .http.client import Site, serving

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# A line that would pass for another, and what has a terminal turn red.
EVIL = "a\nERROR forged\x1b[31m\r"
METADATA = "filename " + base64.b64encode(EVIL.encode()).decode()


def published_by_name(folder: Path) -> Hooks:
    hooks = Hooks()

    @hooks.pre_create
    def publish(event: CreateEvent) -> None:
        name = event.metadata["filename"]
        assert name is not None
        event.path = str(folder / name.decode())

    return hooks


async def uploaded(site: Site) -> str:
    path = await site.create(5, Upload_Metadata=METADATA)
    assert (await site.patch(path, 0, b"hello")).status == 204
    await site.routes.server.stop()
    return path.rpartition("/")[2]


def assert_harmless(text: str) -> None:
    assert "forged" in text, "it was to be told"
    assert not any(line.startswith("ERROR forged") for line in text.splitlines())
    assert "\x1b" not in text
    assert "\r" not in text


async def test_the_path_of_a_publication_that_failed_is_logged_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = published_by_name(tmp_path)
    async with serving(DiskStore(tmp_path / "uploads"), hooks=hooks) as site:
        path = await site.create(5, Upload_Metadata=METADATA)
        (tmp_path / EVIL).write_text("somebody was quicker")
        with caplog.at_level(logging.DEBUG):
            assert (await site.patch(path, 0, b"hello")).status == 409
    told = [record.getMessage() for record in caplog.records]
    assert_harmless("\n".join(told))
    assert not any("\n" in line for line in told)


async def test_operators_see_no_bytes_of_a_client_on_their_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "uploads"
    async with serving(DiskStore(root), hooks=published_by_name(tmp_path)) as site:
        upload_id = await uploaded(site)
    for arguments in (["show", upload_id], ["show", "--json", upload_id]):
        assert main([*arguments, "--dir", str(root)], {}) == 0
        assert_harmless(capsys.readouterr().out)
    (tmp_path / EVIL).unlink()
    for arguments in (["verify"], ["verify", "--json"], ["list"]):
        main([*arguments, "--dir", str(root)], {})
        out = capsys.readouterr().out
        if arguments != ["list"]:
            assert_harmless(out)
        assert "\x1b" not in out


async def test_what_is_no_http_is_logged_on_one_line_without_its_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(DiskStore(tmp_path / "uploads")) as site:
        for evil in (b"forged\x1b[31m\r\n\r\n", b"GET / HTTP/1.1\r\nforged\x1b[31m\r\n\r\n"):
            caplog.clear()
            with caplog.at_level(logging.DEBUG):
                connection = await site.connect()
                await connection.send(evil)
                assert (await connection.reply()).status == 400
            (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
            assert record.levelno <= logging.INFO
            assert "\n" not in record.getMessage()
            assert "forged" not in record.getMessage()


async def test_an_error_of_the_application_is_logged_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: object) -> Options:
        raise ZeroDivisionError

    async with serving(DiskStore(tmp_path / "uploads"), options=fail) as site:
        assert (await site.request("POST")).status == 500
    assert "ZeroDivisionError" in caplog.text
