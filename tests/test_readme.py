"""What the README says is so: its blocks run, and its tables are complete."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import inspect
import json
import os
import re
import shlex
import signal
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from logging import ERROR
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import (
    Cors,
    DiskStore,
    Durability,
    Expiry,
    Hooks,
    Options,
    stores,
    sweep,
    tus_routes,
)
from aiotus_server.arguments import Switch, variable_of
from aiotus_server.cli import COMMANDS, main
from aiotus_server.flags import COMMAND_GROUPS, SERVE_GROUPS
from aiotus_server.options import BASES, EXTENSIONS
from aiotus_server.protocol import checksum, errors
from aiotus_server.states import STATES
from aiotus_server.stores.verify import KINDS
from aiotus_server.testing import StoreContract, arrived

from .deployment.readme import README, REPOSITORY, Block, blocks, table
from .http.client import OCTETS, Site, running, serving
from .processes import ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from aiohttp import web

DATA = bytes(range(256)) * 256  # video.mp4
METADATA = "filename " + base64.b64encode(b"video.mp4").decode()
AUTHORIZED = {"Authorization": "Bearer secret"}
PATIENCE = 20  # seconds
WHOLE_SUITE = "scripts/test"


def _is_app(block: Block) -> bool:
    return "web.run_app(app)" in block.text


def _is_test(block: Block) -> bool:
    return "def test_" in block.text or "(StoreContract)" in block.text


def _is_client(block: Block) -> bool:
    return "localhost:1080" in block.text


def _is_server(block: Block) -> bool:
    return bool(
        re.search(
            r"^(gunicorn|(.*&& |[A-Z_=\w ]*)aiotus-server(?! --help|.* --json|"
            rf" ({'|'.join(COMMAND_GROUPS)})\b))",
            block.text,
            re.MULTILINE,
        )
    )


PYTHON = blocks("python")
SHELL = blocks("sh")
APPS = [block for block in PYTHON if _is_app(block)]
TESTS = [block for block in PYTHON if _is_test(block)]
PROGRAMS = [block for block in PYTHON if _is_client(block)]
PARTS = [block for block in PYTHON if block not in [*APPS, *TESTS, *PROGRAMS]]
SERVERS = [block for block in SHELL if _is_server(block)]
COMMAND_LINES = [
    block for block in SHELL if block not in SERVERS and block.text.strip() != WHOLE_SUITE
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where blocks run: with a file to upload, and the modules that the README shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").write_bytes(DATA)
    (tmp_path / "uploads").mkdir()
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    for block in PYTHON:
        if block.file_name:
            (tmp_path / block.file_name).write_text(block.text)
    # A block may register a checksum algorithm.
    monkeypatch.setattr(checksum, "_algorithms", dict(vars(checksum)["_algorithms"]))
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """For shell blocks: the programs that installing would have put on the path."""
    programs = folder / "programs"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    for name, line in (
        ("aiotus-server", f'exec {python} -m aiotus_server "$@"'),
        ("pip", "exit 0"),  # it is installed, or there would be no tests
        ("pytest", f'exec {python} -m pytest -p no:cacheprovider "$@"'),
        ("gunicorn", f'exec {python} -m gunicorn "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return {**kept, "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def execute(block: Block) -> dict[str, Any]:
    """Run a Python block but for serving, which is done here, and give its names."""
    source = "\n" * block.line + block.text.replace("web.run_app(app)", "")
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(source, README, "exec"), namespace)
    return namespace


# Python


@pytest.mark.parametrize("block", APPS, ids=str)
async def test_application_takes_uploads(block: Block) -> None:
    app: web.Application = execute(block)["app"]
    async with running(app) as (runner, port):
        prefixes = list(_prefixes(app))
        assert prefixes
        for prefix in prefixes:
            await upload_to(Site(port, None, prefix, runner))


def _prefixes(app: web.Application) -> Iterator[str]:
    for route in app.router.routes():
        path = route.resource.canonical if route.resource else ""
        if path.endswith("/{upload_id}"):
            yield path.removesuffix("/{upload_id}")


async def upload_to(site: Site) -> None:
    """Create, send a part, ask, send the rest, get it back."""
    fields = {"Upload-Length": str(len(DATA)), "Upload-Metadata": METADATA, **AUTHORIZED}
    created = await site.request("POST", headers=fields)
    assert created.status == 201, created
    path = created.path
    fields = {**OCTETS, **AUTHORIZED}
    reply = await site.request("PATCH", path, {**fields, "Upload-Offset": "0"}, DATA[:1000])
    assert (reply.status, reply.offset) == (204, 1000)
    assert (await site.request("HEAD", path, AUTHORIZED)).offset == 1000
    reply = await site.request("PATCH", path, {**fields, "Upload-Offset": "1000"}, DATA[1000:])
    assert (reply.status, reply.offset) in ((204, len(DATA)), (200, len(DATA)))
    assert (await site.get(path, **AUTHORIZED)).body == DATA


async def test_quick_start_runs_as_a_program(folder: Path) -> None:
    block = next(block for block in APPS if block.heading == "Quick start")
    port = free_port()
    serve = f"web.run_app(app, host='127.0.0.1', port={port})"
    program = block.text.replace("web.run_app(app)", serve)
    command = [sys.executable, "-c", program]
    async with process(command, {**os.environ, "PYTHONPATH": str(REPOSITORY)}):
        await upload_to_port(port)
    assert list((folder / "uploads").glob("*/*.info"))


async def test_options_per_request_of_the_readme() -> None:
    (block,) = [block for block in APPS if block.heading == "Options per request"]
    async with running(execute(block)["app"]) as (runner, port):
        site = Site(port, None, "/files", runner)
        sizes = []
        for headers in ({}, AUTHORIZED):
            reply = await site.request("OPTIONS", headers=headers)
            sizes.append(reply.headers["Tus-Max-Size"])
        assert sizes == [str(10 * 1024**2), str(10 * 1024**3)]
        assert (await site.request("OPTIONS", headers={"X-Blocked": "yes"})).status == 404


async def test_middleware_of_the_readme_refuses() -> None:
    (block,) = [block for block in APPS if block.heading == "Middlewares"]
    async with running(execute(block)["app"]) as (runner, port):
        site = Site(port, None, "/files", runner)
        assert (await site.request("POST", headers={"Upload-Length": "5"})).status == 401
        assert (await site.request("OPTIONS")).status in (200, 204)


async def test_sweep_of_the_readme() -> None:
    (block,) = [block for block in APPS if block.file_name == "mysweep.py"]
    async with running(execute(block)["app"]) as (runner, port):
        reply = await Site(port, None, "/files", runner).request("POST", "/sweep")
        assert (reply.status, reply.body) == (200, b"0 removed\n")


@pytest.mark.parametrize("block", PARTS, ids=str)
async def test_part_of_an_application_works(
    block: Block, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks, options and stores are served, and go through the whole life of uploads."""
    names = execute(block)
    if "make_app" in names:
        async with running(names["make_app"]()) as (runner, port):
            await upload_to(Site(port, None, "/files", runner))
        return
    assert names.keys() & {"hooks", "options", "store"}, "nothing to be tried"
    hooks = names.get("hooks", Hooks())
    ran = _watch(hooks)
    options = names.get("options", Options())
    if "hooks" in names:
        options = Options(expiry=Expiry(timedelta(hours=1)), progress_interval=timedelta(0))
    store = names.get("store") or DiskStore(folder / "uploads", durability="none")
    async with serving(store, hooks=hooks, options=options) as site:
        await upload_to(site)
        if "hooks" in names:
            await _live_and_die(site)
    assert not [record for record in caplog.records if record.levelno >= ERROR]
    assert ran == {moment for moment, hook_list in vars(hooks).items() if len(hook_list) > 1}


def _watch(hooks: Hooks) -> set[str]:
    """The moments whose hooks have all run without an error."""
    ran: set[str] = set()
    for moment, hook_list in vars(hooks).items():
        if hook_list:
            hook_list.append(lambda event, moment=moment: ran.add(moment))
    return ran


async def _live_and_die(site: Site) -> None:
    """An interruption, a termination, an expiry."""
    fields = {"Upload-Length": "5", "Upload-Metadata": METADATA, **AUTHORIZED}
    path = (await site.request("POST", headers=fields)).path
    connection = await site.connect()
    fields = {**OCTETS, **AUTHORIZED, "Tus-Resumable": "1.0.0", "Upload-Offset": "0"}
    await connection.send_head("PATCH", path, {**fields, "Content-Length": "5"})
    await connection.send(b"he")
    async with asyncio.timeout(PATIENCE):
        while (await site.request("HEAD", path, AUTHORIZED)).offset != 2:
            await asyncio.sleep(0.01)
    assert (await connection.reply()).status == 423
    assert (await site.request("DELETE", path, AUTHORIZED)).status == 204
    fields = {"Upload-Length": "5", "Upload-Metadata": METADATA, **AUTHORIZED}
    await site.request("POST", headers=fields)
    site.routes.server.clock = lambda: datetime.now(UTC) + timedelta(hours=2)
    assert await sweep(site.routes.server) == 1


async def test_publication_of_the_readme(folder: Path) -> None:
    block, names = [block for block in PARTS if block.heading == "pre_create and post_create"]
    hooks = execute(names)["hooks"]
    async with serving(DiskStore(folder / "elsewhere"), hooks=hooks) as site:
        for filename in (b"../../x.mp4", b".."):
            encoded = base64.b64encode(filename).decode()
            path = await site.upload(DATA, Upload_Metadata=f"filename {encoded}")
        assert len(list((folder / "published").iterdir())) == 2
    hooks = execute(block)["hooks"]
    async with serving(DiskStore(folder / "uploads"), hooks=hooks) as site:
        path = await site.upload(DATA, Upload_Metadata=METADATA)
        (published,) = (folder / "videos").iterdir()
        assert published.name == path.rpartition("/")[2] + ".mp4"
        assert published.read_bytes() == DATA
        reply = await site.request("POST", headers={"Upload-Length": "1"})
        assert (reply.status, reply.body) == (422, b"tell a filename in Upload-Metadata")
        part = await site.upload(b"piece", Upload_Concat="partial")
        assert part.startswith("/files/")


async def test_authorize_of_the_readme(folder: Path) -> None:
    (block,) = [block for block in PARTS if block.heading == "authorize"]
    hooks = execute(block)["hooks"]
    async with serving(DiskStore(folder / "uploads"), hooks=hooks) as site:
        reply = await site.request("POST", headers={"Upload-Length": "1"})
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        reply = await site.request("DELETE", "/files/x", {**AUTHORIZED, "X-Role": "guest"})
        assert reply.status == 403


async def test_finish_of_the_readme(folder: Path) -> None:
    (block,) = [block for block in PARTS if block.heading == "pre_finish and post_finish"]
    hooks = execute(block)["hooks"]
    async with serving(DiskStore(folder / "uploads"), hooks=hooks) as site:
        path = await site.create(2)
        assert (await site.patch(path, 0, b"MZ")).status == 415
        path = await site.create(5)
        reply = await site.patch(path, 0, b"hello")
        assert reply.body.startswith(b'{"id": ')
        assert reply.headers["Content-Type"] == "application/json"


async def test_registered_checksum_of_the_readme(folder: Path) -> None:
    (block,) = [block for block in PARTS if "register_checksum" in block.text]
    options = execute(block)["options"]
    async with serving(DiskStore(folder / "uploads"), options=options) as site:
        path = await site.create(9)
        # The check value of CRC-64/XZ.
        digest = base64.b64encode(0x995DC9BBDF1939FA.to_bytes(8, "big")).decode()
        reply = await site.patch(path, 0, b"123456789", Upload_Checksum=f"crc64xz {digest}")
        assert reply.status == 204


@pytest.mark.parametrize("block", TESTS, ids=str)
async def test_test_passes(block: Block, environment: dict[str, str]) -> None:
    assert block.file_name
    command = ["pytest", "-q", "-o", "asyncio_mode=auto", block.file_name]
    assert re.search(rb"\d passed", await output_of(command, environment))


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
async def test_client_uploads(block: Block, environment: dict[str, str], folder: Path) -> None:
    async with bundled(folder / "served") as server:
        program = block.text.replace("localhost:1080", f"127.0.0.1:{server.port}")
        await output_of([sys.executable, "-c", program], environment)
    (info,) = (folder / "served").glob("*/*.info")
    assert info.with_suffix("").read_bytes() == DATA


# Shell


@pytest.mark.parametrize("block", COMMAND_LINES, ids=str)
async def test_commands_succeed(block: Block, environment: dict[str, str], folder: Path) -> None:
    store = DiskStore(folder / "uploads", durability="none")
    await store.open(shared=False)
    for upload_id in ("eldest", "other"):
        await store.create(StoreContract.new(upload_id), arrived(b"he"))
    await store.close()
    async with bundled(folder / "served") as server:
        script = block.text.replace("localhost:1080", f"127.0.0.1:{server.port}")
        await output_of(["bash", "-euo", "pipefail", "-c", script], environment)


@pytest.mark.parametrize("block", SERVERS, ids=str)
async def test_server_takes_uploads(
    block: Block, environment: dict[str, str], folder: Path
) -> None:
    port = free_port()
    script = re.sub(r"(localhost|127\.0\.0\.1):1080", f"127.0.0.1:{port}", block.text)
    command = ["bash", "-euo", "pipefail", "-c", script]
    async with process(command, {**environment, "AIOTUS_PORT": str(port)}):
        await upload_to_port(port)
    assert list((folder / "uploads").glob("*/*.info"))


def test_command_for_the_tests_is_the_one_that_is_checked_in() -> None:
    assert [block.text.strip() for block in SHELL].count(WHOLE_SUITE) == 1
    assert os.access(REPOSITORY / WHOLE_SUITE, os.X_OK)
    assert f"\n{WHOLE_SUITE}\n" in (REPOSITORY / ".ci/run").read_text()


class _Bundled(ServerProcess):
    def _command(self) -> Sequence[str]:
        options = ["--port", str(self.port), "--dir", str(self.root)]
        return [sys.executable, "-m", "aiotus_server", *options]


@asynccontextmanager
async def bundled(root: Path) -> AsyncIterator[ServerProcess]:
    server = _Bundled(root)
    await server.start()
    try:
        yield server
    finally:
        await server.terminate()


@asynccontextmanager
async def process(command: Sequence[str], environment: dict[str, str]) -> AsyncIterator[None]:
    """A program with its children, stopped by SIGTERM on leaving."""
    running = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        start_new_session=True,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = asyncio.ensure_future(running.communicate())
    try:
        yield
    except BaseException as error:
        os.killpg(running.pid, signal.SIGTERM)
        output, _ = await printed
        error.add_note(f"{shlex.join(command)} printed:\n{output.decode()}")
        raise
    finally:
        async with asyncio.timeout(PATIENCE):
            # Again and again: a worker of gunicorn's that is just starting does not hear it.
            while not printed.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGTERM)
                await asyncio.wait([printed], timeout=1)


async def output_of(command: Sequence[str], environment: dict[str, str]) -> bytes:
    """Run a program to its end, which must be a success."""
    running = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
    assert running.returncode == 0, output.decode()
    return output


async def upload_to_port(port: int) -> None:
    """As soon as somebody listens there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.02)
    writer.close()
    await upload_to(Site(port, None, "/files", None))  # type: ignore[arg-type]


# Every block belongs somewhere


def test_no_block_is_left_out() -> None:
    runs = [*APPS, *TESTS, *PROGRAMS, *PARTS, *SERVERS, *COMMAND_LINES]
    assert len(runs) + 1 == len(PYTHON) + len(SHELL)
    known = {"python", "sh", "js", "nginx", "caddyfile", "yaml", "text"}
    assert {block.language for block in blocks()} <= known


# Claims


async def test_sweeper_does_not_read_what_is_not_due(folder: Path) -> None:
    hour = timedelta(hours=1)
    for after in (hour, 3 * hour):
        options = Options(expiry=Expiry(after))
        store = DiskStore(folder / "uploads", durability="none")
        async with serving(store, options=options) as site:
            path = await site.create(5)
        await store.close()
    (last,) = (folder / "uploads").glob(f"*/{path.rpartition('/')[2]}.info")
    last.write_text("whoever reads this fails")
    async with serving(DiskStore(folder / "uploads"), options=options) as site:
        site.routes.server.clock = lambda: datetime.now(UTC) + 2 * hour
        assert await sweep(site.routes.server) == 1
    assert list((folder / "uploads").glob("*/*.info")) == [last]


# Tables


@pytest.mark.parametrize(
    ("first_column", "heading", "kind"),
    [
        ("option", "Options", Options),
        ("field", "Options", Expiry),
        ("field", "Cors", Cors),
    ],
)
def test_every_option_is_in_the_readme(first_column: str, heading: str, kind: Any) -> None:
    rows = _cors_table() if heading == "Cors" else table(first_column, heading)
    fields = dataclasses.fields(kind)
    assert [row[0] for row in rows] == [field.name for field in fields]
    for (name, shown, *_), field in zip(rows, fields, strict=True):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        assert shown == _shown(default), name


def _cors_table() -> list[list[str]]:
    """The second table of fields."""
    text = README.read_text()
    lines = text[text.index("`Cors` has five:") :].splitlines()[4:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.split("|")[1:-1]])
    return rows


def _shown(default: Any) -> str:
    if default is dataclasses.MISSING:
        return ""
    if default == EXTENSIONS:
        return "all"
    if isinstance(default, Cors):
        return "Cors()"
    if isinstance(default, timedelta):
        return repr(default).removeprefix("datetime.")
    if callable(default):
        return str(default.__name__)
    return f'"{default}"' if isinstance(default, str) else repr(default)


def test_every_flag_and_variable_is_in_the_readme() -> None:
    options = [option for group in SERVE_GROUPS for option in group.options]
    expected = []
    for option in options:
        if isinstance(option, Switch):
            expected.append([f"--{option.name}", variable_of(option.name), ""])
        else:
            flag = f"--{option.name} {option.metavar}"
            expected.append([flag, variable_of(option.name), option.shown])
    assert sorted(row[:3] for row in table("flag")) == sorted(expected)


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text()
    assert COMMANDS.keys() == {"serve", *COMMAND_GROUPS}
    flags: dict[str, set[str]] = {}
    for command, _, _, told in table("command"):
        flags.setdefault(command.split()[0], set()).update(told.split(", "))
    flags["verify"].add("--repair")
    for command, groups in COMMAND_GROUPS.items():
        options = {option.name for group in groups for option in group.options}
        assert flags[command] == {f"--{name}" for name in options}
    for state in STATES:
        assert f"`{state}`" in text


def test_every_finding_is_in_the_readme() -> None:
    rows = table("finding")
    assert [row[0] for row in rows] == list(KINDS)
    for code, severity, _, mended in rows:
        kind = KINDS[code]
        assert severity == kind.severity.value
        assert re.match(r"\w+", mended) is not None
        assert mended.split()[0].rstrip(":,") == kind.repair.value


def test_every_field_of_a_verification_is_in_the_readme(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "uploads" / ".lock").touch()
    (folder / "uploads" / "stray").touch()
    assert main(["verify", "--json"], {}) == 0
    report = json.loads(capsys.readouterr().out)
    text = README.read_text()
    paragraph = text[text.index("`--json` prints one object.") :].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", paragraph)) - {"null"}
    assert named == {*report, *report["findings"][0]}


def test_every_argument_is_in_the_readme() -> None:
    parameters = inspect.signature(tus_routes).parameters
    rows = table("argument")
    assert [row[0] for row in rows] == list(parameters)
    assert rows[1][1] == f'"{parameters["prefix"].default}"'


def test_every_hook_is_in_the_readme_with_an_example() -> None:
    moments = list(vars(Hooks()))
    assert [row[0] for row in table("hook")] == moments
    code = "".join(block.text for block in PYTHON)
    for moment in moments:
        assert f"@hooks.{moment}\n" in code


def test_codes_of_interruptions_exist() -> None:
    text = README.read_text()
    paragraph = text[text.index("### on_expired and on_interrupted") :].partition("```")[0]
    codes = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", paragraph))
    known = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.TusError)
    }
    assert len(codes) >= 8
    assert codes <= known


def test_every_extension_is_in_the_readme() -> None:
    rows = table("extension")
    assert {row[0] for row in rows} == EXTENSIONS
    for extension, _, base in rows:
        if extension != "expiration":
            assert base == BASES.get(extension, "")


def test_every_checksum_algorithm_is_in_the_readme() -> None:
    rows = table("algorithm")
    assert [row[0] for row in rows] == list(checksum.algorithms())
    for name, size, order, vector, digest in rows:
        algorithm = checksum.algorithm(name)
        hasher = algorithm.new()
        hasher.update(vector.encode())
        computed = hasher.digest()
        assert int(size) == algorithm.digest_size == len(computed)
        assert computed.hex().upper().startswith(digest.rstrip("…"))
        assert digest.endswith("…") or len(digest) == 2 * len(computed)
        assert order == ("big-endian" if "crc" in name or "xx" in name else "as specified")
    hasher = checksum.algorithm("crc32").new()
    hasher.update(b"123456789")
    encoded = base64.b64encode(hasher.digest()).decode()
    assert f"Upload-Checksum: crc32 {encoded}" in README.read_text()


def test_every_capability_is_in_the_readme_with_its_methods() -> None:
    rows = table("capability")
    assert {row[0] for row in rows} == {
        name for name in stores.__all__ if name.endswith("Store")
    } - {"DiskStore", "MemoryStore"}
    for name, methods, extensions in rows:
        capability: Any = getattr(stores, name)
        inherited: set[str] = set().union(
            *(getattr(base, "__abstractmethods__", ()) for base in capability.__bases__)
        )
        needed = set(methods.partition(";")[0].split(", "))
        assert needed == set(capability.__abstractmethods__) - inherited
        for method in re.findall(r"\w+", methods.partition("may have")[2]):
            assert method in vars(capability)
        offered = set(re.findall(r"[a-z-]+", extensions)) & EXTENSIONS
        store = type(name, (capability,), dict.fromkeys(capability.__abstractmethods__))()
        base_store = stores.extensions_of(store)
        assert offered <= base_store
        parents = {"creation", "creation-with-upload", "termination"}
        assert base_store - offered <= parents


def test_durability_levels_are_in_the_readme() -> None:
    assert [row[0] for row in table("level")] == [level.value for level in Durability]


def test_everything_of_tusdotnet_and_litestar_tus_is_mapped() -> None:
    tusdotnet = " ".join(row[0] for row in table("tusdotnet"))
    for name in [
        "Store",
        "UrlPath",
        "MaxAllowedUploadSizeInBytes",
        "MaxAllowedUploadSizeInBytesLong",
        "Expiration",
        "OnAuthorizeAsync",
        "OnBeforeCreateAsync",
        "OnCreateCompleteAsync",
        "OnBeforeWriteAsync",
        "OnFileCompleteAsync",
        "OnBeforeDeleteAsync",
        "OnDeleteCompleteAsync",
        "AllowedExtensions",
        "ClientReadTimeout",
        "FileLockProvider",
        "MetadataParsingStrategy",
        "UsePipelinesIfAvailable",
        "TusDiskBufferSize",
        "FileIdProvider",
        "deletePartialFilesOnConcat",
    ]:
        assert re.search(rf"\b{name}\b", tusdotnet), name
    litestar = " ".join(row[0] for row in table("litestar-tus"))
    for name in [
        "path_prefix",
        "upload_dir",
        "max_size",
        "expiration_seconds",
        "extensions",
        "metadata_override",
        "storage_backend",
        "PRE_CREATE",
        "POST_CREATE",
        "POST_RECEIVE",
        "PRE_FINISH",
        "POST_FINISH",
        "PRE_TERMINATE",
        "POST_TERMINATE",
    ]:
        assert re.search(rf"\b{name}\b", litestar), name
    ours = " ".join(row[1] for row in table("tusdotnet") + table("litestar-tus"))
    fields = {field.name for field in dataclasses.fields(Options)}
    assert set(re.findall(r"Options\((\w+)=", ours)) <= fields
    assert set(re.findall(r"hooks\.(\w+)", ours)) <= set(vars(Hooks()))


# Links


def test_links_lead_somewhere() -> None:
    text = README.read_text()
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert links
    assert set(links) <= anchors
    for path in re.findall(r"`((?:tests|aiotus_server|scripts|perf)/[\w./]*)`", text):
        assert (REPOSITORY / path).exists(), path
