"""The command ``aiotus-server``: ``serve``, which may be left out, and those in ``commands``.

A wrong option ends with code 2, anything else that stands in the way with code 1; both say
why on one line of standard error. ``verify`` has codes of its own.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import __version__, owners
from .app import Settings
from .arguments import Parser
from .commands import gc, list_uploads, rm, show, verify
from .cors import Cors
from .flags import COMMAND_GROUPS, SERVE_GROUPS
from .hooks import Hooks
from .ids import random_id
from .listening import Failure, Listening, reason_of
from .options import EXTENSIONS, Expiry, Options
from .starting import hooks_of, imported, start_logging
from .stores import Durability
from .workers import run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

_T = TypeVar("_T")
_log = logging.getLogger("aiotus_server")


def main(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """Run a command, and give the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS[given.pop(0)] if given and given[0] in COMMANDS else serve
    try:
        code = command(given, os.environ if environment is None else environment)
        sys.stdout.flush()
    except Failure as failure:
        sys.stderr.write(f"aiotus-server: {failure}\n")
        return failure.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough. Nor may the interpreter try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as if by SIGPIPE
    return code or 0


# serve

_USAGE = """aiotus-server [serve] [OPTION ...]
       aiotus-server COMMAND [OPTION ...]"""

_ABOUT = """\
Receives resumable uploads with the tus protocol 1.0.0, and stores them in a directory.

commands:
  serve                 receive uploads; this word may be left out
  list                  list the uploads in the directory of a server
  show ID               tell all that is known of one
  rm ID ...             remove uploads, complete ones too
  gc                    remove those that have expired
  verify                check the directory, and mend it

Each tells more with --help."""

_MORE = """\
Every option is also a variable of the environment, named in [brackets]; the flag wins.
Switches are variables with yes or no; a switch that the environment has on is turned off by
its opposite: --no-access-log, --download.

SIZE is a number of bytes, or with a unit: 500MB (millions), 10GiB (1024 times 1024 times 1024).
TIME is a number of seconds, or with a unit: 500ms, 30m, 24h, 7d, 1h30m.
LIST has commas between its items.

examples:
  aiotus-server --dir /srv/uploads --max-size 10GiB --expires 24h
  aiotus-server --host 0.0.0.0 --port 443 --tls-cert chain.pem --tls-key key.pem
  aiotus-server --unix-socket /run/aiotus.sock --trust-forwarded
  aiotus-server --workers 4
  AIOTUS_PORT=8080 AIOTUS_HOOKS=myapp:hooks aiotus-server"""


def serve_parser() -> Parser:
    parser = Parser(
        SERVE_GROUPS, prog="aiotus-server", usage=_USAGE, description=_ABOUT, epilog=_MORE
    )
    parser.add_argument("--version", action="version", version=f"aiotus-server {__version__}")
    return parser


def serve(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Receive uploads until a signal comes."""
    parser = serve_parser()
    values = parser.read(arguments, environment)
    start_logging(values.log_level)
    others = [group for groups in COMMAND_GROUPS.values() for group in groups]
    for variable in sorted(parser.unknown_in(environment, others)):
        _log.warning("There is no variable %s; it is ignored", variable)
    settings = _checked(parser, settings_of, values)
    listening = _checked(parser, listening_of, values)
    run(settings, listening)


def _checked(
    parser: Parser, build: Callable[[argparse.Namespace], _T], values: argparse.Namespace
) -> _T:
    """ValueErrors end like those of a single option."""
    try:
        return build(values)
    except ValueError as error:
        parser.error(str(error))


def settings_of(values: argparse.Namespace) -> Settings:
    """Raises ValueError for options that do not go together, Failure for hooks that are not."""
    # Hooks first: their module may register a checksum algorithm.
    hooks = _with_owners(hooks_of(values.hooks), values)
    return Settings(
        directory=Path(values.dir).absolute(),
        prefix=values.prefix,
        durability=Durability(values.durability),
        shared=values.shared or values.reuse_port or values.workers > 1,
        options=options_of(values),
        hooks=hooks,
    )


def _with_owners(hooks: Hooks | None, values: argparse.Namespace) -> Hooks | None:
    if values.owner_header is None:
        return hooks
    if not values.trust_forwarded:
        raise ValueError("--owner-header needs --trust-forwarded")
    hooks = hooks or Hooks()
    hooks.authorize.insert(0, owners.named_by(values.owner_header))
    return hooks


def options_of(values: argparse.Namespace) -> Options:
    extensions = EXTENSIONS if values.extensions is None else frozenset(values.extensions)
    algorithms = values.checksum_algorithms
    return Options(
        max_size=values.max_size,
        expiry=_expiry_of(values),
        extensions=extensions - set(values.disable_extension),
        algorithms=None if algorithms is None else tuple(dict.fromkeys(algorithms)),
        lenient_metadata=values.lenient_metadata,
        location=values.location,
        trust_forwarded=values.trust_forwarded,
        public_prefixes=tuple(values.public_prefix),
        terminate_complete=not values.no_terminate_complete,
        delete_partials=values.delete_partials,
        read=not values.no_download,
        cors=None if values.no_cors else _cors_of(values),
        max_request_size=values.max_request_size,
        max_bodies=values.max_bodies,
        min_rate=values.min_rate,
        min_rate_window=values.min_rate_window,
        read_timeout=values.read_timeout,
        lock_timeout=values.lock_timeout,
        direct_from=values.direct_from,
        progress_interval=values.progress_interval,
        reserve=values.reserve,
        new_id=_new_id_of(values),
    )


def _new_id_of(values: argparse.Namespace) -> Callable[[], str]:
    if values.new_id is None:
        return random_id
    new_id: Callable[[], str] = imported(values.new_id)
    if not callable(new_id):
        raise Failure(f"{values.new_id} is not a function but {type(new_id).__name__}")
    return new_id


def _expiry_of(values: argparse.Namespace) -> Expiry | None:
    if values.expires is not None:
        return Expiry(values.expires, sliding=values.expires_sliding)
    if values.expires_sliding:
        raise ValueError("--expires-sliding needs --expires")
    return None


def _cors_of(values: argparse.Namespace) -> Cors:
    origins = values.cors_origin
    return Cors(
        origins=None if not origins or "*" in origins else tuple(origins),
        credentials=values.cors_credentials,
        allow_headers=tuple(values.cors_allow_header),
        expose_headers=tuple(values.cors_expose_header),
        max_age=values.cors_max_age,
    )


def listening_of(values: argparse.Namespace) -> Listening:
    """Raises ValueError for options that do not go together, Failure for a bad certificate."""
    return Listening(
        host=values.host,
        port=values.port,
        unix_socket=Path(values.unix_socket).absolute() if values.unix_socket else None,
        reuse_port=values.reuse_port,
        tls=_tls_of(values),
        access_log=values.access_log,
        grace=values.grace.total_seconds(),
        header_timeout=_seconds_of("header-timeout", values.header_timeout),
        keepalive_timeout=_seconds_of("keepalive-timeout", values.keepalive_timeout),
        workers=values.workers,
        affinity=not values.no_affinity,
        uvloop=not values.no_uvloop,
    )


def _seconds_of(name: str, value: timedelta | None) -> float | None:
    if value is None:
        return None
    if value <= timedelta(0):
        raise ValueError(f"--{name} must be longer than nothing")
    return value.total_seconds()


def _tls_of(values: argparse.Namespace) -> ssl.SSLContext | None:
    if values.tls_cert is None:
        if values.tls_key is not None:
            raise ValueError("--tls-key needs --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # With no password OpenSSL would ask the terminal for one.
        context.load_cert_chain(values.tls_cert, values.tls_key, password="")
    except (OSError, ValueError) as error:
        files = " and ".join(name for name in (values.tls_cert, values.tls_key) if name)
        raise Failure(f"cannot use the certificate in {files}: {_tls_reason(error)}") from error
    return context


def _tls_reason(error: Exception) -> str:
    if not isinstance(error, ssl.SSLError):
        return reason_of(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is another certificate's"
    # OpenSSL does not say which.
    return "certificate or private key are missing, damaged or encrypted (PEM is wanted)"


COMMANDS: Mapping[str, Callable[[Sequence[str], Mapping[str, str]], int | None]] = {
    "serve": serve,
    "list": list_uploads,
    "show": show,
    "rm": rm,
    "gc": gc,
    "verify": verify,
}
