"""``aiotus-server``: its options in this process, its life as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiotus_server import Cors, Durability, Expiry, Options, __version__
from aiotus_server.app import Settings
from aiotus_server.arguments import (
    Option,
    parse_duration,
    parse_lifetime,
    parse_limit,
    parse_size,
    variable_of,
)
from aiotus_server.cli import COMMANDS, listening_of, main, serve_parser, settings_of
from aiotus_server.flags import COMMAND_GROUPS, SERVE_GROUPS
from aiotus_server.listening import Listening
from aiotus_server.options import EXTENSIONS
from aiotus_server.server import utc_now
from aiotus_server.stores.writing import PAGE

from .http.client import OCTETS, TUS, Connection, Reply, exchange, head
from .processes import free_port

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parent.parent


# From text to values, without a process


def read(*arguments: str, **environment: str) -> argparse.Namespace:
    return serve_parser().read(arguments, environment)


def options(*arguments: str, **environment: str) -> Options:
    return settings_of(read(*arguments, **environment)).options


def as_environment(arguments: Sequence[str]) -> dict[str, str]:
    """The same settings as variables."""
    environment = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        environment[variable_of(name)] = value or "yes"
    return environment


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("7B", 7),
        ("500MB", 500_000_000),
        ("500mb", 500_000_000),
        ("500 MB", 500_000_000),
        ("10GiB", 10 * 1024**3),
        ("10gib", 10 * 1024**3),
        ("1.5KiB", 1536),
        ("1kB", 1000),
        ("2TB", 2 * 10**12),
        ("1PiB", 1024**5),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_limit(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "MB",
        "-1",
        "+1",
        "1e3",
        "10G",
        "1iB",
        "1.5",
        "0.1KB1",
        "1,5MB",
        "1 2",
        "\u0661",
        "1XB",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", timedelta(seconds=90)),
        ("0.5", timedelta(milliseconds=500)),
        ("500ms", timedelta(milliseconds=500)),
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("24H", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("0", timedelta()),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration
    assert parse_lifetime(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "h", "-1h", "+1h", "1y", "1h30", "30 m", "1h,30m", "1e3", "99999999999d", "\u0661h"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time|is longer than"):
        parse_duration(text)


def test_an_expiry_as_late_as_can_be_asked_for_is_a_date() -> None:
    assert utc_now() + parse_duration("36500d")


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_none_stands_for_no_limit_and_no_expiry(text: str) -> None:
    assert parse_limit(text) is None
    assert parse_lifetime(text) is None


def one_id() -> str:
    return "one"


OPTIONS: dict[str, tuple[list[str], Any]] = {
    "max_size": (["--max-size=10GiB"], 10 * 1024**3),
    "expiry": (
        ["--expires=24h", "--expires-sliding"],
        Expiry(timedelta(hours=24), sliding=True),
    ),
    "extensions": (
        ["--extensions=creation,termination,checksum", "--disable-extension=checksum"],
        frozenset({"creation", "termination"}),
    ),
    "algorithms": (["--checksum-algorithms=sha1, md5"], ("sha1", "md5")),
    "lenient_metadata": (["--lenient-metadata"], True),
    "location": (["--location=https://up.example/f"], "https://up.example/f"),
    "trust_forwarded": (["--trust-forwarded"], True),
    "public_prefixes": (["--public-prefix=/a,/b"], ("/a", "/b")),
    "terminate_complete": (["--no-terminate-complete"], False),
    "delete_partials": (["--delete-partials"], True),
    "read": (["--no-download"], False),
    "cors": (
        [
            "--cors-origin=https://a.example,https://b.example:8443",
            "--cors-credentials",
            "--cors-allow-header=X-Mine",
            "--cors-expose-header=X-Yours",
            "--cors-max-age=1h",
        ],
        Cors(
            ("https://a.example", "https://b.example:8443"),
            credentials=True,
            allow_headers=("X-Mine",),
            expose_headers=("X-Yours",),
            max_age=timedelta(hours=1),
        ),
    ),
    "max_request_size": (["--max-request-size=64MiB"], 64 * 1024**2),
    "max_bodies": (["--max-bodies=100"], 100),
    "min_rate": (["--min-rate=1KiB"], 1024),
    "min_rate_window": (["--min-rate-window=1m"], timedelta(minutes=1)),
    "read_timeout": (["--read-timeout=5m"], timedelta(minutes=5)),
    "lock_timeout": (["--lock-timeout=500ms"], timedelta(milliseconds=500)),
    "direct_from": (["--direct-from=2MiB"], 2 * 1024 * 1024),
    "progress_interval": (["--progress-interval=10s"], timedelta(seconds=10)),
    "reserve": (["--reserve=1GiB"], 1024**3),
    "new_id": ([f"--new-id={__name__}:one_id"], one_id),
}

SETTINGS: dict[str, tuple[list[str], Any]] = {
    "directory": (["--dir=/srv/uploads"], Path("/srv/uploads")),
    "prefix": (["--prefix=/up/"], "/up/"),
    "durability": (["--durability=always"], Durability.ALWAYS),
    "shared": (["--shared"], True),
}

LISTENING: dict[str, tuple[list[str], Any]] = {
    "host": (["--host=::1"], "::1"),
    "port": (["--port=0"], 0),
    "unix_socket": (["--unix-socket=/run/aiotus.sock"], Path("/run/aiotus.sock")),
    "reuse_port": (["--reuse-port"], True),
    "access_log": (["--access-log"], True),
    "grace": (["--grace=1m"], 60.0),
    "keepalive_timeout": (["--keepalive-timeout=1m"], 60.0),
    "header_timeout": (["--header-timeout=5s"], 5.0),
    "workers": (["--workers=4"], 4),
    "affinity": (["--no-affinity"], False),
    "uvloop": (["--no-uvloop"], False),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_flags_and_variables_set_the_options(name: str) -> None:
    arguments, value = OPTIONS[name]
    assert getattr(Options(), name) != value
    assert getattr(options(*arguments), name) == value
    assert getattr(options(**as_environment(arguments)), name) == value


@pytest.mark.parametrize("name", SETTINGS)
def test_flags_and_variables_set_the_store(name: str) -> None:
    arguments, value = SETTINGS[name]
    assert getattr(Settings(), name) != value
    assert getattr(settings_of(read(*arguments)), name) == value
    assert getattr(settings_of(read(**as_environment(arguments))), name) == value


@pytest.mark.parametrize("name", LISTENING)
def test_flags_and_variables_set_where_to_listen(name: str) -> None:
    arguments, value = LISTENING[name]
    assert getattr(Listening(), name) != value
    assert getattr(listening_of(read(*arguments)), name) == value
    assert getattr(listening_of(read(**as_environment(arguments))), name) == value


def test_everything_that_can_be_set_in_code_can_be_set_here() -> None:
    assert {option.name for option in fields(Options)} == set(OPTIONS)
    assert {setting.name for setting in fields(Settings)} == {*SETTINGS, "options", "hooks"}
    assert {setting.name for setting in fields(Listening)} == {*LISTENING, "tls"}


def test_without_options_the_defaults_are_those_of_the_library() -> None:
    settings = settings_of(read())
    assert settings == Settings(directory=Path("uploads").absolute())
    assert settings.options == Options()
    assert listening_of(read()) == Listening()


def test_the_flag_wins_over_the_variable() -> None:
    assert options("--max-size=5", AIOTUS_MAX_SIZE="7").max_size == 5
    assert options("--max-size=none", AIOTUS_MAX_SIZE="7").max_size is None
    assert options("--expires=none", AIOTUS_EXPIRES="7d").expiry is None


def test_a_flag_wins_even_over_a_variable_that_makes_no_sense() -> None:
    assert options("--max-size=5", AIOTUS_MAX_SIZE="huge").max_size == 5


def test_a_repeated_flag_adds_up_but_not_to_the_variable() -> None:
    given = ("--cors-origin=https://a.example", "--cors-origin=https://b.example")
    cors = options(*given, AIOTUS_CORS_ORIGIN="https://c.example").cors
    assert cors is not None
    assert cors.origins == {"https://a.example", "https://b.example"}


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_a_variable_turns_a_switch_on_and_the_opposite_flag_off(text: str) -> None:
    assert options(AIOTUS_NO_DOWNLOAD=text).read is False
    assert options("--download", AIOTUS_NO_DOWNLOAD=text).read is True
    assert options(AIOTUS_LENIENT_METADATA=text).lenient_metadata is True
    assert options("--no-lenient-metadata", AIOTUS_LENIENT_METADATA=text).lenient_metadata is False


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF", ""])
def test_a_variable_may_leave_a_switch_off(text: str) -> None:
    assert options(AIOTUS_NO_DOWNLOAD=text).read is True


def test_an_empty_variable_is_none() -> None:
    empty = {variable_of(option.name): "" for group in SERVE_GROUPS for option in group.options}
    assert settings_of(read(**empty)) == settings_of(read())


@pytest.mark.parametrize("flag", ["--workers=2", "--reuse-port", "--shared"])
def test_the_directory_is_shared_when_other_processes_may_use_it(flag: str) -> None:
    assert settings_of(read(flag)).shared
    assert not settings_of(read("--workers=1")).shared


def test_no_cors_is_no_cors_whatever_else_is_said_of_it() -> None:
    assert options("--no-cors").cors is None
    assert options("--no-cors", AIOTUS_CORS_ORIGIN="https://a.example").cors is None


def test_a_star_is_any_origin() -> None:
    assert options("--cors-origin=*").cors == Cors()


def test_all_extensions_but_one() -> None:
    assert options("--disable-extension=termination").extensions == EXTENSIONS - {"termination"}


def test_no_extension_at_all() -> None:
    assert options("--extensions=").extensions == frozenset()


MISTAKES = [
    (["--port=http"], "argument --port: 'http' is not a port: 0 to 65535"),
    (["--port=65536"], "argument --port: '65536' is not a port: 0 to 65535"),
    (["--max-size=10G"], "argument --max-size: '10G' is not a size such as 500MB"),
    (["--expires=soon"], "argument --expires: 'soon' is not a time such as 30m"),
    (["--expires=0"], "Expiry.after must be longer than nothing"),
    (["--expires-sliding"], "--expires-sliding needs --expires"),
    (["--header-timeout=0"], "--header-timeout must be longer than nothing"),
    (["--keepalive-timeout=0"], "--keepalive-timeout must be longer than nothing"),
    (["--read-timeout=0"], "read_timeout must be longer than nothing"),
    (["--durability=some"], "argument --durability: 'some' is none of none, complete, always"),
    (["--extensions=creation,magic"], "argument --extensions: 'magic' is none of checksum,"),
    (["--disable-extension=magic"], "argument --disable-extension: 'magic' is none of"),
    (["--checksum-algorithms=md5"], "the protocol demands sha1 among the algorithms"),
    (["--checksum-algorithms=sha1,rot13"], "no checksum algorithm rot13 is registered"),
    (["--prefix=files"], "the prefix 'files' is not a path such as /files/"),
    (["--location=nowhere"], "location must be auto, path, absolute or a URL"),
    (["--public-prefix=files"], "argument --public-prefix: 'files' does not start with a slash"),
    (["--cors-origin=a.example"], "argument --cors-origin: 'a.example' is not an origin such as"),
    (["--cors-origin=https://a.example/"], "argument --cors-origin: 'https://a.example/' is not"),
    (["--cors-credentials"], "credentials for any origin would let every page act as the user"),
    (["--owner-header=X User"], "argument --owner-header: 'X User' cannot be the name of a header"),
    (["--hooks=module"], "argument --hooks: 'module' is not module:name"),
    (["--log-level=loud"], "argument --log-level: 'loud' is none of debug, info,"),
    (["--tls-key=key.pem"], "--tls-key needs --tls-cert"),
    (["--dir="], "argument --dir: must not be empty"),
    (["--workers=0"], "argument --workers: '0' is not a number of processes: 1 to 999"),
    (["--workers=x"], "argument --workers: 'x' is not a number of processes: 1 to 999"),
    (["--workers=1000"], "argument --workers: '1000' is not a number of processes: 1 to 999"),
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--max"], "unrecognized arguments: --max"),
    (["no-such-command"], "unrecognized arguments: no-such-command"),
    (["gc", "--port=1"], "unrecognized arguments: --port=1"),
    (["list", "--state=gone"], "argument --state: 'gone' is none of complete, unfinished,"),
    (["list", "--repair"], "unrecognized arguments: --repair"),
    (["show"], "the following arguments are required: ID"),
    (["show", "a", "b"], "unrecognized arguments: b"),
    (["show", "a.info"], "'a.info' cannot be the id of an upload"),
    (["rm"], "the following arguments are required: ID"),
    (["rm", "a", "../b"], "'../b' cannot be the id of an upload"),
    (["verify", "a"], "unrecognized arguments: a"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_told_on_one_line_and_ends_with_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments, {})
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"aiotus-server( [a-z]+)?: {re.escape(message)}.*\n", err), err


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        # What Kubernetes sets when a service is called aiotus.
        ("AIOTUS_PORT", "tcp://10.0.0.1:1080", "'tcp://10.0.0.1:1080' is not a port: 0 to 65535"),
        ("AIOTUS_MAX_SIZE", "-1", "'-1' is not a size such as"),
        ("AIOTUS_ACCESS_LOG", "perhaps", "'perhaps' is neither yes nor no"),
        ("AIOTUS_EXTENSIONS", "magic", "'magic' is none of"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(
    variable: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([], {variable: text})
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert re.fullmatch(rf"aiotus-server: {variable}: {re.escape(message)}.*\n", err), err


@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        ([], SERVE_GROUPS),
        (["serve"], SERVE_GROUPS),
        *(([command], groups) for command, groups in COMMAND_GROUPS.items()),
    ],
)
def test_help_names_every_flag_with_its_variable(
    arguments: list[str], groups: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--help"], {})
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for group in groups:
        assert f"{group.title}:" in text
        for option in group.options:
            assert re.search(rf"--{option.name}\b[^\[]*\[{variable_of(option.name)}[;\]]", text)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    named = re.findall(r"^  ([a-z]+) .* {2,}", serve_parser().format_help(), re.MULTILINE)
    assert set(named) == set(COMMANDS)
    assert set(COMMAND_GROUPS) == set(COMMANDS) - {"serve"}


def test_help_does_not_show_the_opposites_of_switches_as_options() -> None:
    shown = set(re.findall(r"^  (--[a-z-]+)", serve_parser().format_help(), re.MULTILINE))
    every = [option for group in SERVE_GROUPS for option in group.options]
    assert shown == {f"--{option.name}" for option in every} | {"--version"}


@pytest.mark.parametrize(
    "option",
    [
        option
        for group in SERVE_GROUPS
        for option in group.options
        if isinstance(option, Option)
        and option.shown not in ("", "all", "any", "128 random bits", "./uploads")
    ],
    ids=lambda option: option.name,
)
def test_the_default_that_help_shows_is_the_one_that_counts(option: Option) -> None:
    assert option.parse(option.shown) == option.default


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"], {})
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"aiotus-server {__version__}\n"


def test_the_command_that_is_installed_is_this_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["aiotus-server"] == f"{main.__module__}:{main.__name__}"


# As a process


@dataclass
class Process:
    """A running server, or one that has ended."""

    process: asyncio.subprocess.Process
    line: str = ""
    connections: list[Connection] = field(default_factory=list)

    @property
    def port(self) -> int:
        match = re.search(r"https?://127\.0\.0\.1:(\d+)/", self.line)
        assert match is not None, self.line
        return int(match[1])

    async def connect(self, tls: ssl.SSLContext | None = None) -> Connection:
        streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        self.connections.append(Connection(*streams))
        return self.connections[-1]

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        return await exchange(await self.connect(), method, path, headers, body)

    async def create(self, length: int) -> str:
        reply = await self.request("POST", "/files/", {"Upload-Length": str(length)})
        assert reply.status == 201, reply
        return reply.path

    async def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; exit code and standard error."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(20):
            _, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Start]:
    """Run the command in ``tmp_path``, and do not wait for anything."""
    processes: list[Process] = []

    async def launch(*arguments: str, **environment: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aiotus_server",
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=clean_environment() | environment,
        )
        processes.append(Process(process))
        return processes[-1]

    yield launch
    for process in processes:
        for connection in process.connections:
            await connection.close()
        if process.process.returncode is None:
            process.process.kill()
            await process.process.communicate()


def clean_environment() -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("AIOTUS_")}
    return ours | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def start(launch: Start) -> Start:
    """Run a server on a free port, and wait until it says that it listens."""

    async def start(*arguments: str, **environment: str) -> Process:
        server = await launch(*arguments, **{"AIOTUS_PORT": "0", **environment})
        assert server.process.stdout is not None
        async with asyncio.timeout(20):
            server.line = (await server.process.stdout.readline()).decode()
        assert server.line, await server.ended()
        return server

    return start


async def test_uploads_are_received_where_the_line_says(start: Start, tmp_path: Path) -> None:
    server = await start()
    assert server.line == (
        f"aiotus-server {__version__}: uploads to http://127.0.0.1:{server.port}/files/ "
        f"are stored in {tmp_path / 'uploads'}\n"
    )
    path = await server.create(5)
    patch = await server.request("PATCH", path, {**OCTETS, "Upload-Offset": "0"}, b"hello")
    assert patch.status == 204
    assert stored(tmp_path / "uploads", path).read_bytes() == b"hello"
    assert (await server.request("GET", "/")).body.startswith(b"aiotus-server")


def stored(directory: Path, path: str) -> Path:
    """The file with the bytes of an upload."""
    (file,) = directory.glob(f"??/{path.rpartition('/')[2]}")
    return file


async def test_serve_may_be_said_and_flags_win(start: Start, tmp_path: Path) -> None:
    server = await start(
        "serve", "--prefix=/up", "--dir=kept", AIOTUS_PREFIX="/down", AIOTUS_MAX_SIZE="1KiB"
    )
    assert f"{server.port}/up are stored in {tmp_path / 'kept'}\n" in server.line
    reply = await server.request("OPTIONS", "/up")
    assert reply.headers["Tus-Max-Size"] == "1024"


async def test_a_free_port_given_by_number_is_the_one_listened_on(start: Start) -> None:
    port = free_port()
    server = await start(f"--port={port}")
    assert server.port == port
    assert (await server.request("OPTIONS", "/files/")).status in (200, 204)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cert.pem``, its ``key.pem``, ``both.pem``, ``locked.pem`` (the key under
    a password) and ``other.pem`` (another key)."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    assert openssl is not None, "these tests need the openssl command"

    def run(command: str) -> None:
        subprocess.run([openssl, *command.split()], cwd=folder, check=True, capture_output=True)

    run(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    run("ecparam -name prime256v1 -genkey -noout -out other.pem")
    run("ec -in key.pem -aes256 -passout pass:secret -out locked.pem")
    (folder / "both.pem").write_text(
        (folder / "key.pem").read_text() + (folder / "cert.pem").read_text()
    )
    return folder


def test_certificate_and_key_may_be_in_one_file(certificate: Path) -> None:
    assert listening_of(read(f"--tls-cert={certificate / 'both.pem'}")).tls


async def test_https(start: Start, certificate: Path) -> None:
    files = certificate / "cert.pem", certificate / "key.pem"
    server = await start(f"--tls-cert={files[0]}", f"--tls-key={files[1]}")
    assert f"https://127.0.0.1:{server.port}/files/" in server.line
    trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
    connection = await server.connect(trusted)
    created = await exchange(
        connection, "POST", "/files/", {**OCTETS, "Upload-Length": "5"}, b"hello"
    )
    assert created.status == 201
    assert created.headers["Location"].startswith("https://")
    assert (await exchange(connection, "GET", created.path)).body == b"hello"


@pytest.mark.parametrize("loop", ["--no-uvloop", "--uvloop"])
async def test_a_handshake_is_not_waited_for(start: Start, certificate: Path, loop: str) -> None:
    both = f"--tls-cert={certificate / 'both.pem'}"
    server = await start(both, "--header-timeout=500ms", loop)
    for said in (b"", b"\x16\x03\x01\x02"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


# Unix sockets


async def unix_request(path: Path, method: str, url: str, headers: Mapping[str, str]) -> Reply:
    connection = Connection(*await asyncio.open_unix_connection(path))
    try:
        return await exchange(connection, method, url, headers)
    finally:
        await connection.close()


async def test_a_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = await start("--unix-socket=s")
    assert f"uploads to /files/ on the Unix socket {path} are stored in" in server.line
    reply = await unix_request(path, "POST", "/files/", {"Upload-Length": "5"})
    assert reply.status == 201
    assert await server.stop() == (0, "")
    assert not path.exists()


async def test_a_socket_file_that_a_dead_server_left_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    dead = await start("--unix-socket=s")
    dead.process.kill()
    await dead.ended()
    assert (tmp_path / "s").is_socket()
    await start("--unix-socket=s")
    reply = await unix_request(tmp_path / "s", "OPTIONS", "/files/", {})
    assert reply.status in (200, 204)


async def test_the_socket_of_a_server_that_runs_is_not_taken(
    start: Start, launch: Start, tmp_path: Path
) -> None:
    await start("--unix-socket=s")
    second = await launch("--unix-socket=s", "--dir=other")
    code, err = await second.ended()
    assert code == 1
    assert err == f"aiotus-server: cannot listen on {tmp_path / 's'}: another server does\n"
    assert (await unix_request(tmp_path / "s", "OPTIONS", "/files/", {})).status in (200, 204)


async def test_a_variable_that_there_is_not_is_told(start: Start) -> None:
    server = await start(AIOTUS_MAXSIZE="1GiB", AIOTUS_MAX_SIZE="1GiB", AIOTUS_JSON="1")
    code, err = await server.stop()
    assert code == 0
    (line,) = err.splitlines()
    assert line.endswith(
        "WARNING aiotus_server: There is no variable AIOTUS_MAXSIZE; it is ignored"
    )


# What stands in the way


@dataclass(frozen=True)
class Obstacle:
    arguments: list[str]
    message: str  # a regular expression
    files: dict[str, str] = field(default_factory=dict)


OBSTACLES = {
    "directory-is-a-file": Obstacle(
        ["--dir=file"], "{tmp}/file cannot be used: it is not a directory", {"file": ""}
    ),
    "directory-below-a-file": Obstacle(
        ["--dir=file/below"], "{tmp}/file/below cannot be used: it is not a directory", {"file": ""}
    ),
    "directory-not-writable": Obstacle(["--dir=/proc"], "/proc cannot be used: .+"),
    "directory-not-to-be-made": Obstacle(["--dir=/proc/uploads"], "/proc/uploads cannot be .+"),
    "no-certificate-file": Obstacle(
        ["--tls-cert=c.pem"], "cannot use the certificate in c.pem: No such file or directory"
    ),
    "no-certificate": Obstacle(
        ["--tls-cert=c.pem"],
        "cannot use the certificate in c.pem: certificate or private key are missing.+",
        {"c.pem": "nonsense"},
    ),
    "no-key": Obstacle(
        ["--tls-cert={tls}/cert.pem"],
        "cannot use the certificate in .+cert.pem: certificate or private key are missing.+",
    ),
    "another-key": Obstacle(
        ["--tls-cert={tls}/cert.pem", "--tls-key={tls}/other.pem"],
        "cannot use the certificate in .+cert.pem and .+other.pem: "
        "the key is another certificate's",
    ),
    "locked-key": Obstacle(
        ["--tls-cert={tls}/cert.pem", "--tls-key={tls}/locked.pem"],
        "cannot use the certificate in .+cert.pem and .+locked.pem: .+ encrypted .+",
    ),
    "no-hooks-module": Obstacle(
        ["--hooks=mine:hooks"],
        "cannot import mine:hooks: ModuleNotFoundError: No module named 'mine'",
    ),
    "no-hooks-in-module": Obstacle(
        ["--hooks=mine:hooks"],
        "cannot import mine:hooks: AttributeError: .+",
        {"mine.py": "other = 1"},
    ),
    "hooks-of-another-type": Obstacle(
        ["--hooks=mine:hooks"],
        "mine:hooks is not an aiotus_server.Hooks but int",
        {"mine.py": "hooks = 1"},
    ),
    "hooks-that-fail": Obstacle(
        ["--hooks=mine:hooks"],
        r"cannot import mine:hooks: ZeroDivisionError: division by zero \({tmp}/mine.py, line 2\)",
        {"mine.py": "\n1 / 0"},
    ),
    "ids-of-nothing": Obstacle(
        ["--new-id=mine:hooks"], "mine:hooks is not a function but int", {"mine.py": "hooks = 1"}
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of this process, from which hooks may be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_way_is_said_on_one_line(
    here: Path, certificate: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    obstacle = OBSTACLES[name]
    for file, text in obstacle.files.items():
        (here / file).write_text(text)
    arguments = [argument.replace("{tls}", str(certificate)) for argument in obstacle.arguments]
    assert main(arguments, {}) == 1
    message = obstacle.message.replace("{tmp}", str(here))
    assert re.fullmatch(f"aiotus-server: {message}\n", capsys.readouterr().err)


NETWORK = {
    "port-in-use": Obstacle(
        ["--port={port}"], "cannot listen on 127.0.0.1:{port}: Address already in use"
    ),
    "no-such-host": Obstacle(["--host=a.invalid"], r"cannot listen on a.invalid:0: [^\[]+"),
    "no-such-address": Obstacle(["--host=192.0.2.1"], "cannot listen on 192.0.2.1:0: .+"),
    "socket-in-no-folder": Obstacle(
        ["--unix-socket=no/such"], "cannot listen on {tmp}/no/such: No such file or directory"
    ),
}


@pytest.mark.parametrize("name", NETWORK)
async def test_what_hinders_listening_is_said_on_one_line(
    launch: Start, tmp_path: Path, name: str
) -> None:
    obstacle = NETWORK[name]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        arguments = [argument.replace("{port}", port) for argument in obstacle.arguments]
        server = await launch(*arguments, AIOTUS_PORT="0")
        code, err = await server.ended()
    message = obstacle.message.replace("{port}", port).replace("{tmp}", str(tmp_path))
    assert re.fullmatch(f"aiotus-server: {message}\n", err), err
    assert code == 1


async def test_a_directory_with_other_things_in_it_is_not_used(
    launch: Start, tmp_path: Path
) -> None:
    (tmp_path / "expiry").write_text("not a folder of ours")
    code, err = await (await launch("--dir=.")).ended()
    assert code == 1
    assert re.fullmatch(rf"aiotus-server: {tmp_path} cannot be opened: .+ 'expiry'\n", err), err


async def test_a_second_server_on_the_directory_is_refused(
    start: Start, launch: Start, tmp_path: Path
) -> None:
    first = await start()
    code, err = await (await launch("--port=0")).ended()
    assert code == 1
    assert re.fullmatch(
        rf"aiotus-server: another server.* is using {tmp_path / 'uploads'}\n", err
    ), err
    assert await first.create(5)


# The end


@pytest.mark.parametrize(
    ("number", "arguments"), [(signal.SIGTERM, []), (signal.SIGINT, ["--no-uvloop"])]
)
async def test_a_signal_ends_bodies_at_once_and_keeps_their_bytes(
    start: Start, tmp_path: Path, number: int, arguments: list[str]
) -> None:
    server = await start("--grace=15s", *arguments)
    path = await server.create(1_000_000)
    connection = await server.connect()
    idle = await server.connect()
    extensions = (await exchange(idle, "OPTIONS", path)).headers["Tus-Extension"]
    assert "checksum-trailer" in extensions.split(",")  # connections of our own class
    fields = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "1000000"}
    await connection.send(head("PATCH", path, fields) + b"x" * (150 * PAGE))
    await until_size(stored(tmp_path / "uploads", path), 150 * PAGE)
    began = asyncio.get_running_loop().time()
    assert await server.stop(number) == (0, "")
    assert asyncio.get_running_loop().time() - began < 5
    reply = await connection.reply()
    assert reply.status == 503
    assert reply.headers["Retry-After"]
    assert await idle.closed()
    again = await start(*arguments)
    assert (await again.request("HEAD", path)).offset == 150 * PAGE


async def until_size(file: Path, size: int) -> None:
    async with asyncio.timeout(10):
        while file.stat().st_size < size:
            await asyncio.sleep(0.01)


HANGING = """
import asyncio, time
from aiotus_server import Hooks

hooks = Hooks()

@hooks.pre_create
async def hang(event):
    print("hangs", flush=True)
    {how}
"""


@pytest.mark.parametrize("how", ["await asyncio.sleep(60)", "time.sleep(60)"])
async def test_a_request_that_hangs_does_not_outlast_the_grace_time(
    start: Start, tmp_path: Path, how: str
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING.format(how=how))
    server = await start("--hooks=hanging:hooks", "--grace=500ms")
    connection = await server.connect()
    await connection.send(head("POST", "/files/", {**TUS, "Upload-Length": "5"}))
    assert server.process.stdout is not None
    async with asyncio.timeout(10):
        assert await server.process.stdout.readline() == b"hangs\n"
    began = asyncio.get_running_loop().time()
    code, _ = await server.stop()
    assert code == 0
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_second_interrupt_ends_the_process_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING.format(how="await asyncio.sleep(60)"))
    server = await start("--hooks=hanging:hooks", "--grace=30s")
    connection = await server.connect()
    await connection.send(head("POST", "/files/", {**TUS, "Upload-Length": "5"}))
    assert server.process.stdout is not None
    await server.process.stdout.readline()
    server.process.send_signal(signal.SIGINT)
    await until_it_refuses(server.port)
    assert (await server.stop(signal.SIGINT))[0] == -signal.SIGINT


async def until_it_refuses(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.transport.abort()
            await asyncio.sleep(0.01)


# Hooks and the log


async def test_hooks_are_loaded_from_the_current_directory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aiotus_server import Hooks, Refuse\n"
        "class Mine:\n"
        "    hooks = Hooks()\n"
        "@Mine.hooks.pre_create\n"
        "def refuse(event):\n"
        "    raise Refuse(402, 'money first')\n"
    )
    server = await start("--hooks=mine:Mine.hooks")
    reply = await server.request("POST", "/files/", {"Upload-Length": "5"})
    assert reply.status == 402


async def test_a_hooks_module_may_bring_a_checksum_algorithm(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import hashlib\n"
        "from aiotus_server import Hooks, register_checksum\n"
        "register_checksum('sha3-256', 32, hashlib.sha3_256)\n"
        "hooks = Hooks()\n"
    )
    server = await start("--hooks=mine:hooks", "--checksum-algorithms=sha1,sha3-256")
    reply = await server.request("OPTIONS", "/files/")
    assert reply.headers["Tus-Checksum-Algorithm"] == "sha1,sha3-256"


@pytest.mark.parametrize(
    ("arguments", "logged"),
    [([], False), (["--access-log", "--log-level=error"], True)],
)
async def test_requests_are_logged_when_asked_for(
    start: Start, arguments: list[str], logged: bool
) -> None:
    server = await start(*arguments)
    await server.create(5)
    _, err = await server.stop()
    assert ('"POST /files/ HTTP/1.1" 201' in err) is logged


# gc


async def test_gc_removes_what_has_expired_and_says_how_much(
    start: Start, launch: Start, tmp_path: Path
) -> None:
    server = await start("--expires=1ms")
    due = [await server.create(5) for _ in range(3)]
    complete = await server.create(0)
    await server.stop()
    server = await start()
    lasting = await server.create(5)
    await server.stop()
    collector = await launch("gc", "--dir=uploads")
    out, err = await collector.process.communicate()
    assert out.decode() == f"3 expired uploads removed from {tmp_path / 'uploads'}\n"
    assert (collector.process.returncode, err) == (0, b"")
    assert not any(list(tmp_path.glob(f"uploads/??/{path[-32:]}*")) for path in due)
    assert stored(tmp_path / "uploads", complete)
    assert stored(tmp_path / "uploads", lasting)


async def test_gc_tells_the_hooks(
    start: Start, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.py").write_text(
        "from aiotus_server import Hooks\n"
        "hooks = Hooks()\n"
        "@hooks.on_expired\n"
        "def tell(event):\n"
        "    print(event.upload.upload_id)\n"
    )
    server = await start("--expires=1ms")
    path = await server.create(5)
    await server.stop()
    variables = {"AIOTUS_HOOKS": "mine:hooks", "AIOTUS_DIR": "uploads"}
    assert await asyncio.to_thread(main, ["gc"], variables) == 0
    assert capsys.readouterr().out.splitlines() == [
        path.rpartition("/")[2],
        f"1 expired upload removed from {here / 'uploads'}",
    ]


async def test_gc_leaves_a_directory_alone_that_a_server_holds(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await start("--expires=1ms")
    path = await server.create(5)
    arguments = ["gc", f"--dir={tmp_path / 'uploads'}"]
    assert await asyncio.to_thread(main, arguments, {}) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        rf"aiotus-server: another server.* is using {tmp_path / 'uploads'}; stop it first, .+\n",
        err,
    ), err
    assert stored(tmp_path / "uploads", path)


def test_gc_makes_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--dir", str(tmp_path / "none")], {}) == 1
    assert capsys.readouterr().err == (
        f"aiotus-server: there is no directory {tmp_path / 'none'}\n"
    )
    assert not (tmp_path / "none").exists()
