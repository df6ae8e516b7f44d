"""``list``, ``show``, ``rm``, ``gc`` and ``verify`` as processes, beside servers that run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import DiskStore
from aiotus_server.cli import main
from aiotus_server.protocol.uploads import Outcome, Upload
from aiotus_server.stores import infofile
from aiotus_server.stores.layout import Layout, path_of
from aiotus_server.stores.writing import PAGE
from aiotus_server.testing import StoreContract, arrived

from .http.client import OCTETS, TUS, Connection, Reply, exchange, head, sha1
from .processes import REPOSITORY, ServerProcess, server_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

TWO_HOURS = timedelta(hours=2)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run(*arguments: str, cwd: Path | None = None, **environment: str) -> Result:
    """``aiotus-server`` with ``arguments``, to its end."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("AIOTUS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aiotus_server",
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(REPOSITORY), **environment},
    )
    async with asyncio.timeout(40):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


class Client:
    """Of a running server."""

    def __init__(self, server: ServerProcess) -> None:
        self._port = server.port

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self._port))

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        connection = await self.connect()
        try:
            return await exchange(connection, method, path, headers, body)
        finally:
            await connection.close()

    async def create(self, length: int, body: bytes = b"", **headers: str) -> str:
        """The id of a new upload."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {"Upload-Length": str(length), **OCTETS, **fields}
        reply = await self.request("POST", "/files/", fields, body)
        assert reply.status == 201, reply
        return reply.path.rpartition("/")[2]

    async def begin(self, upload_id: str, offset: int, body: bytes, **headers: str) -> Connection:
        """A PATCH of which more is to come than ``body``."""
        fields = {**TUS, **OCTETS, "Upload-Offset": str(offset), "Content-Length": "100000"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = await self.connect()
        await connection.send(head("PATCH", f"/files/{upload_id}", fields) + body)
        return connection

    async def head(self, upload_id: str) -> Reply:
        return await self.request("HEAD", f"/files/{upload_id}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[DiskStore]:
    store = DiskStore(root, durability="none")
    await store.open(shared=False)
    yield store
    await store.close()


async def until_size(file: Path, size: int) -> None:
    async with asyncio.timeout(10):
        while file.stat().st_size < size:
            await asyncio.sleep(0.01)


new = StoreContract.new


def metadata(name: str) -> str:
    return "filename " + base64.b64encode(name.encode()).decode()


# list


async def test_list_has_a_line_for_each_upload_in_the_order_of_creation(root: Path) -> None:
    async with server_process(root, "--expires=1h", "--durability=none") as server:
        client = Client(server)
        one = await client.create(5, b"he", Upload_Metadata=metadata("bild ä\x1b[31m\n.jpg"))
        two = await client.create(5, b"hello")
        part = await client.create(5, Upload_Concat="partial")
        fields = {"Upload-Concat": f"final;/files/{part}"}
        final = (await client.request("POST", "/files/", fields)).path.rpartition("/")[2]
        result = await run("list", "--dir", str(root), PYTHONIOENCODING="utf-8")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [one, "unfinished", "2/5"],
        [two, "complete", "5/5"],
        [part, "unfinished,partial", "0/5"],
        [final, "waiting,final", "0/5"],
    ]
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(rf"  {moment}  {moment}  bild ä\\x1b\[31m\\n\.jpg$", lines[0])
    assert re.search(rf"  {moment}  - +-$", lines[1])  # what is complete does not expire


async def test_list_as_json_for_those_that_are_asked_for(root: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    due = {"expires": now - TWO_HOURS}
    async with opened(root) as store:
        await store.create(new("due", 5, **due), arrived(b"he"))
        await store.create(new("done", 5, **due), arrived(b"hello"))
        path = str(root.parent / "published")
        published = await store.create(new("published", 5, path=path), arrived(b"hello"))
        await store.finish(published, Outcome())
        refused = await store.create(new("refused", 5), arrived(b"hello"))
        await store.finish(refused, Outcome(422))
        await store.create(new("deferred", None, metadata="name YQ=="), arrived(b"he"))
        (root / "unverified" / "deferred").symlink_to("1")

    async def ids(*states: str) -> set[str]:
        result = await run("list", "--json", "--state", ",".join(states), AIOTUS_DIR=str(root))
        assert (result.code, result.err) == (0, "")
        return {json.loads(line)["id"] for line in result.out.splitlines()}

    assert await ids("expired") == {"due"}
    assert await ids("complete") == {"done", "published", "refused"}
    assert await ids("complete", "published") == {"published"}
    assert await ids("refused") == {"refused"}
    assert await ids("partial") == set()
    (line,) = (
        await run(
            "list", AIOTUS_DIR=str(root), AIOTUS_JSON="yes", AIOTUS_STATE="unfinished,unverified"
        )
    ).out.splitlines()
    row = json.loads(line)
    assert row.pop("created")
    assert row == {
        "id": "deferred",
        "states": ["unfinished", "unverified"],
        "offset": 1,
        "length": None,
        "expires": None,
        "name": "a",
        "owner": None,
    }


async def test_list_leaves_out_what_is_damaged_and_says_so(root: Path) -> None:
    async with opened(root) as store:
        await store.create(new("whole"), arrived(b"he"))
        await store.create(new("broken"), arrived(b"he"))
    path_of(root, "broken").with_name("broken.info").write_text("{")
    result = await run("list", "--dir", str(root))
    assert (result.code, result.out.split()[0]) == (0, "whole")
    assert result.err == (
        "aiotus-server: left out 1 that cannot be read; see aiotus-server verify\n"
    )


async def test_list_keeps_no_rows_in_memory(root: Path) -> None:
    """Of 5,000 uploads, whose names take 50 MB."""
    layout = Layout(root, shared=False)
    created = datetime.now(UTC)
    text = metadata("x" * 7_500)
    for number in range(5_000):
        upload = Upload(f"u{number}", 0, 5, created + timedelta(seconds=number % 77), text)
        layout.make_shard(upload.upload_id)
        path = layout.path(upload.upload_id)
        path.touch()
        path.with_name(f"{upload.upload_id}.info").write_bytes(infofile.encode(upload))
    layout.close()
    script = (
        "import resource, sys\n"
        "from aiotus_server.cli import main\n"
        "main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    peaks = []
    for state in ("complete", "unfinished"):
        command = [sys.executable, "-c", script, "list", "--dir", str(root), "--state", state]
        listed = subprocess.run(command, capture_output=True, cwd=REPOSITORY, check=True)
        peaks.append(int(listed.stderr))
    lines = listed.stdout.splitlines()
    assert len(lines) == 5_000
    times = [re.findall(rb"T(\d\d:\d\d:\d\d)Z", line)[0] for line in lines]
    assert times == sorted(times)
    assert peaks[1] - peaks[0] < 15_000, "KiB"


async def test_list_stops_when_nobody_reads(root: Path) -> None:
    async with opened(root) as store:
        for number in range(3_000):
            await store.create(new(f"u{number}"), arrived(b"he"))
    command = f"{sys.executable} -m aiotus_server list --dir {root} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=REPOSITORY, check=False
    )
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(done.stdout.splitlines()) == 1


# show


async def test_show_tells_all(root: Path) -> None:
    hour = timedelta(hours=1)
    async with opened(root) as store:
        facts = {"metadata": f"{metadata('a.txt')},raw /w==,flag", "lifetime": hour, "owner": "bob"}
        await store.create(new("mine", 5, **facts), arrived(b"he"))
        path = str(root.parent / "published")
        app = {"owner": b"ada"}
        published = new("published", 5, path=path, app_metadata=app)
        published = await store.create(published, arrived(b"hello"))
        await store.finish(published, Outcome(200, {"X-Job": "7"}, b"\x00\xff"))
    (root / "unverified" / "mine").symlink_to("1")
    (root / "waiting" / "mine").mkdir()
    (root / "waiting" / "mine" / "final").touch()
    (root / "quarantine" / "mine.20250101T000000.000000Z").mkdir(parents=True)
    shown = (await run("show", "mine", "--json", "--dir", str(root))).json
    assert shown["states"] == ["unfinished", "unverified"]
    assert (shown["offset"], shown["length"], shown["lifetime"]) == (1, 5, 3600.0)
    assert shown["owner"] == "bob"
    assert shown["metadata"] == {"filename": "a.txt", "raw": {"base64": "/w=="}, "flag": None}
    assert shown["metadata_header"] == facts["metadata"]
    assert shown["waited_for_by"] == ["final"]
    assert shown["quarantined"] == [str(root / "quarantine" / "mine.20250101T000000.000000Z")]
    data = path_of(root, "mine")
    places = [data, data.with_name("mine.info"), root / "unverified" / "mine"]
    assert [file["path"] for file in shown["files"]] == [str(place) for place in places]
    assert shown["files"][0]["bytes"] == 2
    shown = (await run("show", "published", "--json", "--dir", str(root))).json
    assert shown["states"] == ["complete", "published"]
    assert shown["app_metadata"] == {"owner": "ada"}
    body = {"base64": base64.b64encode(b"\x00\xff").decode()}
    assert shown["outcome"] == {"status": 200, "headers": {"X-Job": "7"}, "body": body}
    assert [file["path"] for file in shown["files"]][-1] == path
    text = (await run("show", "mine", "--dir", str(root))).out
    assert "id: mine\nstates: unfinished, unverified\noffset: 1\nlength: 5\n" in text
    assert "\nmetadata:\n  filename: a.txt\n" in text


async def test_show_of_what_is_damaged_and_of_what_is_not_there(root: Path) -> None:
    async with opened(root) as store:
        await store.create(new("broken"), arrived(b"he"))
    path_of(root, "broken").with_name("broken.info").write_text("{")
    shown = (await run("show", "broken", "--json", "--dir", str(root))).json
    assert shown["states"] == ["damaged"]
    assert shown["damage"]["code"] == "info-unreadable"
    assert len(shown["files"]) == 2
    result = await run("show", "other", "--dir", str(root))
    assert (result.code, result.out) == (1, "")
    assert result.err == f"aiotus-server: there is no upload other in {root}\n"


# rm


REMOVAL = """
from aiotus_server import Hooks, Refuse

hooks = Hooks()

@hooks.pre_terminate
def protect(event):
    if event.upload.upload_id == "kept":
        raise Refuse(403, "this one stays")

@hooks.post_finish
def end(event):
    print("end of", event.upload.upload_id, flush=True)

@hooks.post_terminate
def tell(event):
    print("told of", event.upload.upload_id, flush=True)
"""


async def test_rm_removes_as_delete_does(root: Path, tmp_path: Path) -> None:
    past = datetime.now(UTC) - TWO_HOURS
    async with opened(root) as store:
        await store.create(new("half"), arrived(b"he"))
        await store.create(new("done"), arrived(b"hello"))
        await store.create(new("due", expires=past), arrived(b"he"))
        await store.create(new("kept"), arrived(b"he"))
        await store.create(new("broken"), arrived(b"he"))
        await store.create(new("-dash"), arrived(b"he"))
    path_of(root, "broken").with_name("broken.info").write_text("{")
    (tmp_path / "mine.py").write_text(REMOVAL)
    ids = ["half", "done", "due", "kept", "broken", "none", "half", "-dash"]
    result = await run("rm", "--dir", str(root), "--hooks=mine:hooks", "--", *ids, cwd=tmp_path)
    assert result.code == 1
    removed = ("half", "done", "due", "-dash")
    assert result.out == "".join(f"told of {name}\n{name} removed\n" for name in removed)
    why = [line for line in result.err.splitlines() if line.startswith("aiotus-server:")]
    assert why == [
        "aiotus-server: kept is not removed: A hook refused the request with 403. this one stays",
        "aiotus-server: broken is not removed: There is no such upload.",
        "aiotus-server: none is not removed: There is no such upload.",
    ]
    assert {path.name for path in root.glob("??/*")} == {"kept", "kept.info"}
    assert len(list(root.glob("quarantine/broken.*/*"))) == 2
    assert (await run("rm", "kept", AIOTUS_DIR=str(root))).out == "kept removed\n"


async def test_rm_tells_of_an_end_that_was_not_told(root: Path, tmp_path: Path) -> None:
    """A crash came between: nobody could tell of it later."""
    async with opened(root) as store:
        upload = await store.create(new("done", finish_due=True), arrived(b"hello"))
        await store.finish(upload, Outcome())
        upload = await store.create(new("other", finish_due=True), arrived(b"hello"))
        await store.finish(upload, Outcome())
    result = await run("rm", "--dir", str(root), "other")
    assert (result.code, result.out) == (0, "other removed\n")
    assert result.err == "aiotus-server: no hook was told of the end of other\n"
    (tmp_path / "mine.py").write_text(REMOVAL)
    result = await run("rm", "--dir", str(root), "--hooks=mine:hooks", "done", cwd=tmp_path)
    assert (result.code, result.out) == (0, "end of done\ntold of done\ndone removed\n")


async def test_rm_takes_no_paths(root: Path) -> None:
    async with opened(root):
        pass
    result = await run("rm", "../x", "--dir", str(root))
    assert result.code == 2
    assert "'../x' cannot be the id of an upload" in result.err


HOLDING = {
    "rm": ["rm", "x"],
    "gc": ["gc"],
    "verify": ["verify", "--repair"],
}


@pytest.mark.parametrize("command", HOLDING)
async def test_commands_that_change_something_are_refused_beside_a_server_alone(
    root: Path, command: str
) -> None:
    code = 2 if command == "verify" else 1
    async with server_process(root) as server:
        upload_id = await Client(server).create(5, b"he")
        for shared, advice in (
            ([], "say --shared here too"),
            (["--shared"], "stop it first"),
        ):
            result = await run(*HOLDING[command], *shared, "--dir", str(root))
            assert (result.code, result.out) == (code, "")
            message = rf"aiotus-server: another server.* is using {root}; .*{advice}\n"
            assert re.fullmatch(message, result.err), result.err
        assert (await Client(server).head(upload_id)).offset == 2


@pytest.mark.parametrize("arguments", [["--shared"], ["--workers=2"]])
async def test_rm_ends_a_body_that_is_being_received_by_a_shared_server(
    root: Path, arguments: list[str]
) -> None:
    async with server_process(root, *arguments) as server:
        client = Client(server)
        upload_id = await client.create(100_000)
        connection = await client.begin(upload_id, 0, b"x" * PAGE)
        await until_size(path_of(root, upload_id), PAGE)
        refused = await run("rm", upload_id, "--dir", str(root))
        assert refused.code == 1
        assert "say --shared here too" in refused.err
        result = await run("rm", upload_id, "--dir", str(root), AIOTUS_SHARED="yes")
        assert (result.code, result.out) == (0, f"{upload_id} removed\n")
        assert (await connection.reply()).status == 410
        await connection.close()
        assert (await client.head(upload_id)).status == 404
    assert not list(root.glob("??/*"))


# gc


async def test_gc_sweeps_beside_a_shared_server(root: Path) -> None:
    async with server_process(root, "--shared", "--expires=1ms") as server:
        client = Client(server)
        for _ in range(3):
            await client.create(5, b"he")
        done = await client.create(5, b"hello")
        result = await run("gc", "--shared", "--dir", str(root))
        assert (result.code, result.out) == (0, f"3 expired uploads removed from {root}\n")
        assert (await client.head(done)).offset == 5
    assert {path.name for path in root.glob("??/*")} == {done, f"{done}.info"}


# verify


async def test_verify_tells_in_lines_and_by_its_code(root: Path) -> None:
    async with opened(root) as store:
        await store.create(new("whole"), arrived(b"hello"))
        await store.create(new("broken"), arrived(b"he"))
    result = await run("verify", "--dir", str(root))
    assert (result.code, result.err) == (0, "")
    sound = f"{root}: 2 uploads (1 complete), 7 bytes, 0 in quarantine; 0 errors, 0 notes, 0 mended"
    assert result.out == f"{sound}\n"
    info = path_of(root, "broken").with_name("broken.info")
    info.write_text("{")
    (root / "evil\x1b[2J").touch()
    result = await run("verify", "--dir", str(root))
    assert result.code == 1
    stray, error, summary = result.out.splitlines()
    assert stray == ("note: stray: evil\\x1b[2J: it is not the store's (nothing to be done)")
    place = f"error: info-unreadable: {info.relative_to(root)}: "
    assert error.startswith(place)
    assert error.endswith(" (--repair: quarantine)")
    assert summary.endswith("1 errors, 1 notes, 0 mended")
    result = await run("verify", "--dir", str(root), AIOTUS_REPAIR="yes")
    assert (result.code, result.err) == (0, "")
    error, stray, summary = result.out.splitlines()
    assert error.startswith(place)
    assert error.endswith(" (mended: quarantine)")
    assert summary == (
        f"{root}: 1 uploads (1 complete), 5 bytes, 1 in quarantine; 0 errors, 1 notes, 1 mended"
    )


def test_verify_cannot_check_what_is_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("none", "there is no directory {}"),
        ("empty", "no server has ever stored uploads in {}: it has no file .lock"),
        ("file", "{} cannot be read: Not a directory"),
    ):
        for command, code in (("verify", 2), ("list", 1)):
            assert main([command, "--dir", str(tmp_path / name)], {}) == code
            out, err = capsys.readouterr()
            assert (out, err) == ("", f"aiotus-server: {message.format(tmp_path / name)}\n")
    assert list((tmp_path / "empty").iterdir()) == []


async def test_verify_finds_nothing_beside_a_busy_server(root: Path) -> None:
    """Creations, appends with checksums, concatenations, terminations and sweeps, all the time."""
    done = False

    async def live_and_die(client: Client) -> None:
        while not done:
            upload_id = await client.create(10)
            for offset in (0, 5):
                fields = {**OCTETS, "Upload-Offset": str(offset), "Upload-Checksum": sha1(b"hello")}
                path = f"/files/{upload_id}"
                assert (await client.request("PATCH", path, fields, b"hello")).status == 204
            part = await client.create(5, b"hello", Upload_Concat="partial")
            later = await client.create(5, Upload_Concat="partial")
            fields = {"Upload-Concat": f"final;/files/{part} /files/{later}"}
            final = (await client.request("POST", "/files/", fields)).path
            fields = {**OCTETS, "Upload-Offset": "0"}
            await client.request("PATCH", f"/files/{later}", fields, b"later")
            for path in (f"/files/{upload_id}", f"/files/{part}", f"/files/{later}", final):
                assert (await client.request("DELETE", path)).status == 204
            await client.create(5)

    async def verify() -> None:
        nonlocal done
        for _ in range(2):
            result = await run("verify", "--json", "--dir", str(root))
            assert result.err == ""
            assert result.json["findings"] == []
        done = True

    arguments = ("--shared", "--expires=2s", "--durability=always")
    async with server_process(root, *arguments) as server:
        client = Client(server)
        await asyncio.gather(verify(), *(live_and_die(client) for _ in range(3)))


async def test_repair_beside_a_shared_server(root: Path) -> None:
    """What is damaged goes, and what is just being received is left alone."""
    async with server_process(root, "--shared", "--durability=none") as server:
        client = Client(server)
        broken = await client.create(5, b"he")
        path_of(root, broken).with_name(f"{broken}.info").write_text("{")
        busy = await client.create(100_000)
        body = bytes(100_000)
        connection = await client.begin(busy, 0, body[:PAGE], Upload_Checksum=sha1(body))
        await until_size(path_of(root, busy), PAGE)
        result = await run("verify", "--repair", "--shared", "--json", "--dir", str(root))
        assert (result.code, result.err) == (0, "")
        outcomes = {(f["code"], f["mended"], f["why_not"]) for f in result.json["findings"]}
        assert outcomes == {
            ("info-unreadable", True, None),
            ("unverified-bytes", False, "it is in use"),
        }
        await connection.send(body[PAGE:])
        assert (await connection.reply()).status == 204
        await connection.close()
        assert (await client.head(busy)).offset == 100_000
        assert (await client.head(broken)).status == 404
    assert len(list(root.glob(f"quarantine/{broken}.*/*"))) == 2


# As whom


@pytest.fixture
def others() -> Iterator[Path]:
    """A directory of another user's, in a place where he gets at it."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    folder = Path(tempfile.mkdtemp(prefix="aiotus-others-"))
    folder.chmod(0o755)
    yield folder / "uploads"
    shutil.rmtree(folder)


NOBODY = 65534


async def hand_over(root: Path) -> None:
    async with opened(root) as store:
        past = datetime.now(UTC) - TWO_HOURS
        later = datetime.now(UTC) + TWO_HOURS
        await store.create(new("due", expires=past), arrived(b"he"))
        await store.create(new("half", expires=later), arrived(b"he"))
        await store.create(new("broken"), arrived(b"he"))
    path_of(root, "broken").with_name("broken.info").write_text("{")
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


async def test_root_acts_as_the_owner(others: Path) -> None:
    """So that the server may go on with what a command has made."""
    await hand_over(others)
    for minute in (others / "expiry").iterdir():
        minute.unlink()
    shared = ("--shared", "--dir", str(others))
    assert (await run("verify", "--repair", *shared)).code == 0
    result = await run("gc", *shared)
    assert result.out == f"1 expired upload removed from {others}\n", result.err
    assert (await run("rm", "half", *shared)).code == 0
    assert {path.lstat().st_uid for path in others.rglob("*")} == {NOBODY}
    assert len(list(others.glob("quarantine/*"))) == 1
    assert (others / ".locks").exists()


async def test_what_the_server_may_not_read_is_found_and_permitted(others: Path) -> None:
    """As after a restoration by root."""
    await hand_over(others)
    info = path_of(others, "half").with_name("half.info")
    os.chown(info, 0, 0)
    info.chmod(0o600)
    folder = path_of(others, "due").parent
    folder.chmod(0o555)
    found = (await run("verify", "--json", "--dir", str(others))).json["findings"]
    expected = [folder, info, path_of(others, "broken").with_name("broken.info")]
    names = [str(path.relative_to(others)) for path in expected]
    codes = ("not-permitted", "not-permitted", "info-unreadable")
    assert {(f["code"], f["path"]) for f in found} == set(zip(codes, names, strict=True))
    assert (await run("verify", "--repair", "--dir", str(others))).code == 0
    assert (info.stat().st_uid, info.stat().st_gid) == (NOBODY, NOBODY)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (await run("verify", "--dir", str(others))).code == 0
