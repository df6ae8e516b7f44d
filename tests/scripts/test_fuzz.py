"""The fuzz as a program, and that it finds what is wrong: in answers, in bytes, in the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore
from scripts.fuzzing import log
from scripts.fuzzing.answers import NotHttp, parse
from scripts.fuzzing.attacks import Attack
from scripts.fuzzing.delivery import Delivery, Outcome, Way
from scripts.fuzzing.folder import Folder
from scripts.fuzzing.honest import Wrong
from scripts.fuzzing.judging import CANARY, Judgement
from scripts.fuzzing.target import Stretch
from scripts.fuzzing.watch import paths_outside

from ..http.client import serving
from .programs import begun, ended

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_HOOKS = """
import logging

from aiotus_server import Hooks

hooks = Hooks()


@hooks.pre_create
async def create(event):
    if "empty" in str(event.upload.metadata):
        {}
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("flags", [["--workers=2"], ["--", "--no-uvloop"]], ids=" ".join)
async def test_the_server_stands_it(tmp_path: Path, flags: list[str]) -> None:
    report = tmp_path / "report.json"
    options = ["--requests=300", "--dir=.", f"--json={report}", *flags]
    result = await ended(await begun("fuzz.py", *options, folder=tmp_path))
    assert result.code == 0, result.out + result.err
    assert "found: nothing" in result.out
    assert sum(json.loads(report.read_text())["attacks"].values()) == 300
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("harm", "found"),
    [("raise ValueError", "an answer was 500"), ("logging.error('no')", "ERROR root: no")],
)
async def test_a_server_that_does_not_is_found(tmp_path: Path, harm: str, found: str) -> None:
    (tmp_path / "bad.py").write_text(BAD_HOOKS.format(harm))
    options = ["--requests=200", "--seed=1", "--", "--hooks=bad:hooks"]
    result = await ended(await begun("fuzz.py", *options, folder=tmp_path, path=tmp_path))
    assert result.code == 1, result
    assert found in result.out


async def test_a_mistake_ends_it_with_code_2(tmp_path: Path) -> None:
    result = await ended(await begun("fuzz.py", "--requests=some", folder=tmp_path))
    assert result.code == 2


# What comes back.


def answer(status: int, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Said", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OURS = "Tus-Resumable: 1.0.0"
GOOD = answer(200, OURS, "Tus-Version: 1.0.0")
REFUSED = answer(400, OURS, body=b"LENGTH_INVALID: no.\n")


def complaints(received: bytes, *, closed: bool = True, **facts: Any) -> str:
    delivery = Delivery((b"PATCH",), Way.WAIT, 1 + facts.get("probed", False))
    attack = Attack("one", (delivery,), **facts)
    return "; ".join(Judgement(attack, [Outcome(received, closed)]).complaints)


@pytest.mark.parametrize(
    ("received", "facts"),
    [
        (GOOD, {"below": True, "certain": True}),
        (REFUSED, {"below": True, "certain": True}),
        (REFUSED + GOOD, {"probed": True, "certain": True}),
        (answer(409, OURS, "Upload-Offset: 3", body=b"OFFSET_MISMATCH: no.\n"), {}),
        (answer(400, body=b"Bad Request"), {"below": True}),  # by the parser, before any route
        (b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, {"certain": True}),
        (b"", {}),
    ],
)
def test_good_answers_are_left_alone(received: bytes, facts: dict[str, bool]) -> None:
    assert complaints(received, **facts) == ""


@pytest.mark.parametrize(
    ("received", "facts", "found"),
    [
        (answer(500), {}, "an answer was 500"),
        (answer(302, OURS), {}, "an answer was 302"),
        (answer(200, body=CANARY), {}, "from outside of the folder"),
        (answer(204, OURS, "X-Injected: 1"), {}, "a header was injected"),
        (answer(404, body=b"404: Not Found"), {"below": True}, "lacks Tus-Resumable"),
        (answer(400, body=b"Bad Request") + GOOD, {}, "went on behind what the parser refused"),
        (answer(400, OURS, body=b"Traceback"), {}, "has no code"),
        (answer(400, OURS, "Upload-Offset: 3"), {}, "has Upload-Offset"),
        (GOOD + GOOD, {"certain": True}, "2 answers came to 1 requests"),
        (answer(200, OURS, body=b"x"), {"headed": True}, "an answer to HEAD has a body"),
        (GOOD, {"probed": True}, "a request was not answered"),
        (GOOD + REFUSED, {"probed": True}, "answered as if it was another"),
        (b"hello", {}, "what came is not HTTP"),
        (GOOD, {"closed": False}, "not closed in time"),
    ],
)
def test_bad_answers_are_found(received: bytes, facts: dict[str, bool], found: str) -> None:
    assert found in complaints(received, **facts)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        GOOD + b"x",
    ],
)
def test_what_is_no_answer_is_found(received: bytes) -> None:
    with pytest.raises(NotHttp):
        parse(received, heads=False)


# What is stored.


@pytest.mark.parametrize(
    ("stretch", "stored", "right"),
    [
        (Stretch(1, 0, 3, b"abcdef"), b"bcd", True),
        (Stretch(1, 0, 3, b"abcdef"), b"bce", False),
        (Stretch(1, 0, 3, b"abcdef", chunks=True), b"bce", True),
        (Stretch(1, 0, 3, b"abcdef", chunks=True), b"bcb", False),
        (Stretch(-1, 0, 3, b"abc", exact=True), b"abc", True),
        (Stretch(-1, 0, 3, b"abcd", exact=True), b"abc", False),
    ],
)
def test_bytes_that_nobody_sent_are_found(stretch: Stretch, stored: bytes, right: bool) -> None:
    if right:
        stretch.check(stored)
    else:
        with pytest.raises(Wrong):
            stretch.check(stored)


async def test_what_must_not_lie_in_the_folder_is_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "uploads")
    folder.lay()
    async with serving(DiskStore(folder.root)) as site:
        path = await site.create(5)
    assert list(folder.complaints()) == []
    bytes_of = next(folder.root.glob(f"??/{path.rpartition('/')[2]}"))
    bytes_of.write_bytes(b"too long")
    (folder.root / "stray").touch()
    folder.canary.write_bytes(b"")
    found = " ".join(folder.complaints())
    assert "has 8 bytes, and a length of 5" in found
    assert "there is a stray file stray" in found
    assert "the canary was changed" in found
    bytes_of.unlink()
    assert "has no bytes" in " ".join(folder.complaints())


@pytest.mark.parametrize(
    ("event", "arguments", "outside"),
    [
        ("open", ("/srv/up/ab/x", None, 1), False),
        ("open", ("/srv/up/../x", None, 0), True),
        ("open", ("/srv/up2/x", None, 1), True),
        ("open", ("ab/x", None, 1), False),
        ("open", ("ab/../../x", None, 0), True),
        ("open", ("/etc/passwd", None, 0), True),
        ("os.rename", ("ab/x.info.new", "/tmp/x", 3, 3), True),
        ("os.symlink", ("100", "unverified/x", -1), False),
        ("os.symlink", ("100", "../x", -1), True),
        ("socket.connect", ("/etc/passwd",), False),
    ],
)
def test_files_outside_of_the_folder_are_seen(
    event: str, arguments: tuple[object, ...], outside: bool
) -> None:
    assert bool(paths_outside(event, arguments, Path("/srv/up"))) is outside


# The log.

ANNOUNCEMENT = "aiotus-server 0.1.0: uploads to http://127.0.0.1:1/files/ are stored in /up"
HEAD = "2026-01-01 00:00:00,000"
OF_PARSER = f"{HEAD} INFO aiohttp.server: Error handling request from 127.0.0.1: BadHttpMessage"
IN_A_ROUTE = [
    f"{HEAD} ERROR aiohttp.server: Error handling request from 127.0.0.1",
    "Traceback (most recent call last):",
    '  File "/lib/aiotus_server/web.py", line 9, in append',
    "aiohttp.http_exceptions.BadHttpMessage: 400, message:",
]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([f"{HEAD} INFO aiotus_server: started"], 0),
        ([OF_PARSER], 0),
        ([OF_PARSER, ANNOUNCEMENT], 0),
        ([*IN_A_ROUTE, ANNOUNCEMENT], 1),
        (IN_A_ROUTE, 1),
        ([OF_PARSER, *IN_A_ROUTE], 1),
        ([OF_PARSER, *IN_A_ROUTE[1:]], 1),
        ([f"{HEAD} ERROR asyncio: Task exception was never retrieved"], 1),
        ([f"{HEAD} WARNING aiotus_server: no"], 1),
        (["touched outside of the folder: open '/etc/passwd'"], 1),
    ],
)
def test_errors_in_the_log_are_found(lines: Sequence[str], found: int) -> None:
    assert sum(log.complaints(lines).values()) == found
