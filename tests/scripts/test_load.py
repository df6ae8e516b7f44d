"""The load test against servers that keep their promises, and servers that do not."""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from aiotus_server import DiskStore, Hooks, Options
from perf import certificate
from scripts.load.options import read
from scripts.load.progress import NoProgress, bar
from scripts.load.runner import run
from scripts.load.tally import Tally
from scripts.load.verify import find_file

from ..http.client import running, serving
from ..processes import free_port, server_process
from .programs import begun, ended, load_test

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ..processes import ServerProcess


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path / "uploads", "--durability=none") as process:
        yield process


async def load(url: str, *arguments: str) -> Tally:
    """In this process."""
    tally = Tally()
    plan, _ = read([url, *arguments])
    async with asyncio.timeout(40):
        await run(plan, tally)
    return tally


# A good server


async def test_every_byte_is_there(server: ServerProcess, tmp_path: Path) -> None:
    result = await load_test(server.url, "--uploads=6", "--size=3MiB", folder=tmp_path)
    assert result.code == 0, result
    assert result.summary["uploads"] == {"ok": 6, "failed": 0, "wrong": 0, "unverified": 0}
    assert result.summary["bytes"] == result.summary["bytes_sent"] == 6 * 3 * 1024**2
    assert result.summary["times"]["patch"]["count"] == 6
    assert result.summary["gb_per_second"] > 0
    assert "uploads    6 ok, 0 failed" in result.out
    assert re.search(r"^patch +6 +\d+\.\d{4}", result.out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--folder=uploads", "--size=uniform:0-3MiB", "--cuts=rst"],
        ["--with-upload", "--checksum=sha1", "--wrong-checksums=.2"],
        ["--parallel=3", "--metadata=filename=täst.bin", "--metadata=empty", "--delete"],
        ["--chunked", "--size=lognormal:300KiB,1,3MiB"],
        ["--defer-length", "--with-upload"],
        ["--trailer", "--chunked", "--checksum=sha1", "--wrong-checksums=.2"],
    ],
    ids=lambda arguments: arguments[0],
)
async def test_cut_connections_are_resumed(
    server: ServerProcess, tmp_path: Path, arguments: list[str]
) -> None:
    options = ["--uploads=10", "--size=1500KiB", "--chunk=512KiB", "--kill-rate=.3", *arguments]
    result = await load_test(server.url, *options, folder=tmp_path)
    assert result.code == 0, result
    assert result.summary["uploads"]["ok"] == 10
    cuts = result.summary["cuts"]
    assert sum(cuts.values()) > 0
    assert "--cuts=rst" not in arguments or cuts["fin"] == cuts["silent"] == 0
    resumed = result.summary["times"]["resume"]["count"]
    assert (resumed > 0) or "--with-upload" in arguments  # then a creation may have been cut
    refused = result.summary["wrong_checksums_refused"]
    assert (refused > 0) == ("--checksum=sha1" in arguments)
    kept = [path for path in server.root.glob("??/*") if path.suffix != ".info"]
    assert kept or "--delete" in arguments


@pytest.mark.parametrize("more", [[], ["--chunked"], ["--kill-rate=0.3", "--seed=3"]])
async def test_large_bodies_go_over_https(tmp_path: Path, more: list[str]) -> None:
    _, files = certificate.make(tmp_path)
    tls = f"--tls-cert={files['cert']}", f"--tls-key={files['key']}"
    async with server_process(tmp_path / "uploads", *tls) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        options = "--insecure", "--uploads=4", "--size=3MiB", "--timeout=5s"
        result = await load_test(url, *options, *more, folder=tmp_path)
    assert result.code == 0, result
    assert result.summary["uploads"]["ok"] == 4
    assert result.summary["timeouts"] == 0


async def test_the_same_seed_sends_the_same_bytes(tmp_path: Path) -> None:
    stored = []
    for number, seed in enumerate((5, 5, 6)):
        store = DiskStore(tmp_path / str(number), durability="none")
        async with serving(store) as site:
            url = f"http://127.0.0.1:{site.port}/files/"
            tally = await load(url, "--uploads=5", "--size=uniform:1-9999", f"--seed={seed}")
            assert tally.counts["ok"] == 5
        files = [path for path in store.root.glob("??/*") if path.suffix != ".info"]
        stored.append({hashlib.sha1(path.read_bytes()).digest() for path in files})
    assert stored[0] == stored[1]
    assert not stored[0] & stored[2]


async def test_interrupted_it_tells_what_was(server: ServerProcess, tmp_path: Path) -> None:
    slow = ["--uploads=1", "--size=1GiB", "--rate=10MiB"]
    process = await begun("load_test.py", server.url, *slow, folder=tmp_path)
    async with asyncio.timeout(30):
        while not any(p.stat().st_size > 100_000 for p in server.root.glob("??/*")):
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    assert (result.code, result.err) == (130, "interrupted\n")
    assert "uploads    0 ok, 0 failed, 0 wrong, 0 unverified" in result.out


async def test_a_server_that_is_started_again_is_waited_for(
    server: ServerProcess, tmp_path: Path
) -> None:
    slow = ["--uploads=1", "--size=8MiB", "--chunk=1MiB", "--rate=4MiB", "--retries=99"]
    process = await begun("load_test.py", server.url, *slow, folder=tmp_path)
    async with asyncio.timeout(30):
        while not any(p.stat().st_size > 100_000 for p in server.root.glob("??/*")):
            await asyncio.sleep(0.02)
    await server.kill()
    await server.start()
    result = await ended(process)
    assert result.code == 0, result
    assert re.search(r"retries    [1-9]", result.out)


# Bad servers


async def flipped(tmp_path: Path, *arguments: str) -> Tally:
    """Against a server that loses a bit of every upload when it is complete."""
    hooks = Hooks()
    store = DiskStore(tmp_path / "uploads", durability="none")

    @hooks.post_finish
    def flip(event: Any) -> None:
        (path,) = store.root.glob(f"*/{event.upload.upload_id}")
        data = bytearray(path.read_bytes())
        data[70_000] ^= 1
        path.write_bytes(data)

    async with serving(store, hooks=hooks) as site:
        url = f"http://127.0.0.1:{site.port}/files/"
        tally = await load(url, "--uploads=2", "--size=100000", *arguments)
    await store.close()
    return tally


async def test_a_wrong_byte_is_found(tmp_path: Path) -> None:
    for arguments in ([], [f"--folder={tmp_path}"]):
        tally = await flipped(tmp_path, *arguments)
        assert tally.failed
        assert (tally.counts["ok"], tally.counts["wrong"]) == (0, 2)
        assert tally.errors[0].endswith("byte 70000 is not what was sent")
    assert not (await flipped(tmp_path, "--no-verify")).failed


async def test_a_wrong_byte_makes_exit_code_1(tmp_path: Path) -> None:
    async with liar(body=b"x" * 10) as url:
        result = await load_test(url, "--uploads=1", "--size=10", folder=tmp_path)
    assert result.code == 1
    assert result.summary["uploads"]["wrong"] == 1
    assert "byte 0 is not what was sent" in result.out


async def test_a_file_too_short_or_too_long_or_missing_is_wrong(tmp_path: Path) -> None:
    async with liar() as url:
        for size in (None, 5, 15):
            if size is not None:
                (tmp_path / "x").write_bytes(b"x" * size)
            tally = await load(url, "--uploads=1", "--size=10", f"--folder={tmp_path}")
            assert tally.counts["wrong"] == 1
    assert find_file(tmp_path, "..") is None


class Lies:
    """A server that stores nothing; its answers are set from outside."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.length = self.offset = self.patches = 0

    async def handle(self, request: web.Request) -> web.Response:
        respond = getattr(self, f"on_{request.method.lower()}")
        response: web.Response = respond(request, await request.read())
        response.headers["Tus-Resumable"] = "1.0.0"
        return response

    def on_options(self, request: web.Request, body: bytes) -> web.Response:
        extensions = self.answers.get("extensions", "creation,checksum,creation-with-upload")
        version = {"Tus-Version": "1.0.0", "Tus-Checksum-Algorithm": "sha1"}
        return web.Response(status=204, headers={**version, "Tus-Extension": extensions})

    def on_post(self, request: web.Request, body: bytes) -> web.Response:
        self.length, self.offset = int(request.headers["Upload-Length"]), 0
        return web.Response(status=201, headers={"Location": "x"})

    def on_patch(self, request: web.Request, body: bytes) -> web.Response:
        self.patches += 1
        statuses = self.answers.get("patch", [])
        if len(statuses) >= self.patches:
            return web.Response(status=statuses[self.patches - 1])
        self.offset += len(body) + self.answers.get("too_much", 0)
        return web.Response(status=204, headers={"Upload-Offset": str(self.offset)})

    def on_head(self, request: web.Request, body: bytes) -> web.Response:
        offset = self.answers.get("head", self.offset)
        fields = {"Upload-Offset": str(offset), "Upload-Length": str(self.length)}
        return web.Response(status=200, headers=fields)

    def on_get(self, request: web.Request, body: bytes) -> web.Response:
        return web.Response(body=self.answers.get("body", b""))


@asynccontextmanager
async def liar(**answers: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/files/{id:.*}", Lies(**answers).handle)
    async with running(app) as (_, port):
        yield f"http://127.0.0.1:{port}/files/"


SMALL = ("--uploads=1", "--size=10", "--no-verify", "--retries=2")


@pytest.mark.parametrize(
    ("answers", "arguments", "kind", "message"),
    [
        ({}, [], "ok", ""),
        ({"patch": [423, 500]}, [], "ok", ""),
        ({"patch": [423] * 9}, [], "failed", "gave up after 3 attempts; the last: 423"),
        ({"patch": [403]}, [], "failed", "PATCH was answered 403"),
        ({"too_much": 5}, [], "wrong", "PATCH up to 10 was answered with Upload-Offset 15"),
        ({"patch": [500], "head": 11}, [], "wrong", "the offset is 11, but only 10 bytes were"),
        (
            {"patch": [204], "head": 0},
            [],
            "failed",
            "PATCH was answered without Upload-Offset",
        ),
        (
            {},
            ["--checksum=sha1", "--wrong-checksums=.9"],
            "wrong",
            "a wrong checksum was accepted",
        ),
        ({"head": 5}, ["--verify"], "wrong", "says upload-offset: 5 instead of 10"),
    ],
    ids=str,
)
async def test_what_a_server_must_not_answer(
    answers: dict[str, Any], arguments: list[str], kind: str, message: str
) -> None:
    options = [*SMALL, *arguments]
    if "--verify" in options:
        options = [option for option in options if not option.endswith("verify")]
    async with liar(**answers) as url:
        tally = await load(url, *options)
    assert tally.counts[kind] == 1, tally.errors
    assert not message or message in tally.errors[0]


async def test_an_offset_that_goes_back_is_wrong() -> None:
    async with liar(patch=[], head=3) as url:
        # The second PATCH is refused, and HEAD then knows less than was acknowledged.
        Lies.on_patch, kept = _second_is_refused(Lies.on_patch), Lies.on_patch  # type: ignore[method-assign]
        try:
            tally = await load(url, *SMALL, "--chunk=5")
        finally:
            Lies.on_patch = kept  # type: ignore[method-assign]
    assert "the offset went back from 5 to 3" in tally.errors[0]


def _second_is_refused(answer: Any) -> Any:
    def respond(self: Lies, request: web.Request, body: bytes) -> web.Response:
        if self.patches == 1:
            self.patches += 1
            return web.Response(status=503)
        response: web.Response = answer(self, request, body)
        return response

    return respond


async def test_a_server_that_answers_before_the_body_is_heard(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "uploads", durability="none")
    async with serving(store, options=Options(max_size=1000)) as site:
        url = f"http://127.0.0.1:{site.port}/files/"
        tally = await load(url, "--uploads=2", "--size=50MiB", "--with-upload")
    assert tally.statuses[413] == 2
    assert tally.counts["failed"] == 2
    assert "creation was answered 413" in tally.errors[0]


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: url"),
        (["localhost:1080"], "argument url: 'localhost:1080' is not a URL such as"),
        (["http://x/", "--uploads=0"], "argument --uploads: '0' is not a number from 1 on"),
        (["http://x/", "--size=big"], "argument --size: 'big' is not a size such as"),
        (["http://x/", "--kill-rate=1"], "argument --kill-rate: '1' is not a probability"),
        (["http://x/", "--cuts=axe"], "argument --cuts: 'axe' is not a valid Cut"),
        (["http://x/", "--checksum=rot13"], "argument --checksum: invalid choice: 'rot13'"),
        (["http://x/", "--wrong-checksums=.1"], "--wrong-checksums needs --checksum"),
        (["http://x/", "--folder=/no/such"], "--folder: /no/such is not a folder"),
        (["http://x/", "--metadata==v"], "argument --metadata: '' is no key"),
        (["http://x/", "--header=novalue"], "argument --header: 'novalue' is not a header"),
    ],
)
def test_a_mistake_is_told_on_one_line_and_ends_with_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read(arguments)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"load_test\.py: {re.escape(message)}.*\n", err), err


async def test_what_cannot_be_tried_ends_with_code_2(tmp_path: Path) -> None:
    async with liar(extensions="creation") as url:
        result = await load_test(url, "--parallel=2", folder=tmp_path)
        assert (result.code, result.summary) == (2, {})
        assert result.err == "load_test.py: the server does not offer concatenation\n"
        result = await load_test(url.replace("files", "other"), folder=tmp_path)
        assert result.code == 2
        assert "is no tus server: OPTIONS was answered 404" in result.err
    result = await load_test(f"http://127.0.0.1:{free_port()}/files/", folder=tmp_path)
    assert result.code == 2
    assert "no connection" in result.err


def test_without_rich_there_is_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bar() is not None
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(NoProgress, match="needs rich: pip install rich, or --no-progress"):
        bar()
