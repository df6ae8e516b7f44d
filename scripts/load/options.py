"""The command line of the load test, turned into a plan."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from aiotus_server.arguments import converted, parse_duration, parse_list, parse_size
from aiotus_server.protocol.checksum import algorithms

from .http import Cut
from .plan import Plan
from .sizes import FORMS, parse_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    """What is wrong is said on one line, and the exit code is 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parser() -> Parser:
    made = Parser(
        prog="load_test.py",
        description="Upload to a tus 1.0.0 server, and check what it stored. The exit code is 1 "
        "if an upload failed or a byte is wrong, 2 if nothing could be tried.",
        allow_abbrev=False,
    )
    made.add_argument("url", type=converted(parse_url), help="where uploads are created")
    add_load(made)
    add_verification(made)
    add_output(made)
    return made


def add_load(to: argparse.ArgumentParser) -> None:
    """The flags that say what is uploaded, and how."""
    load = to.add_argument_group("the load")
    add = load.add_argument
    add("--uploads", type=converted(parse_count), default=10, metavar="N", help="default: 10")
    add("--size", type=converted(parse_sizes), default="10MiB", help=f"of each: {FORMS}")
    add("--chunk", type=converted(parse_chunk), metavar="SIZE", help="bytes per PATCH; all in one")
    add("--concurrency", type=converted(parse_count), default=4, metavar="N", help="default: 4")
    add("--with-upload", action="store_true", help="send the first chunk in the POST")
    add("--defer-length", action="store_true", help="tell the length in the last PATCH")
    add(
        "--parallel",
        type=converted(parse_count),
        default=1,
        metavar="N",
        help="concatenate N parts",
    )
    add("--chunked", action="store_true", help="send bodies in the chunked transfer coding")
    add("--rate", type=converted(parse_chunk), metavar="SIZE", help="bytes a second per connection")
    add("--metadata", type=converted(parse_pair), action="append", default=[], metavar="KEY=VALUE")
    add("--header", type=converted(parse_header), action="append", default=[], metavar="NAME:VALUE")
    add("--insecure", action="store_true", help="accept any certificate")
    add_faults(to)


def add_faults(to: argparse.ArgumentParser) -> None:
    add = to.add_argument_group("faults").add_argument
    add(
        "--kill-rate",
        type=converted(parse_share),
        default=0.0,
        metavar="P",
        help="probability that a request is cut at a random byte, and resumed",
    )
    add(
        "--cuts",
        type=converted(parse_cuts),
        default=tuple(Cut),
        metavar="LIST",
        help="how: of rst, fin, silent; default: all",
    )
    add("--checksum", choices=algorithms(), metavar="NAME", help=", ".join(algorithms()))
    add("--trailer", action="store_true", help="send it behind the body; needs --chunked")
    add(
        "--wrong-checksums",
        type=converted(parse_share),
        default=0.0,
        metavar="P",
        help="share of requests whose checksum is not that of the bytes: they must be refused",
    )
    add(
        "--timeout",
        type=converted(parse_seconds),
        default=30.0,
        metavar="TIME",
        help="longest silence of the server; default: 30s",
    )
    add(
        "--retries",
        type=converted(parse_count),
        default=10,
        metavar="N",
        help="attempts in a row that may come to nothing; default: 10",
    )
    add("--seed", type=int, default=1, metavar="N", help="of chance and of the bytes; default: 1")


def add_verification(to: argparse.ArgumentParser) -> None:
    add = to.add_argument_group("verification").add_argument
    add(
        "--folder",
        type=Path,
        metavar="DIR",
        help="compare the files that the server keeps here; by GET without it",
    )
    add("--no-verify", action="store_true", help="believe the server")
    add("--delete", action="store_true", help="delete each upload afterwards")


def add_output(to: argparse.ArgumentParser) -> None:
    add = to.add_argument_group("output").add_argument
    add("--no-progress", action="store_true", help="show no progress bar")
    add("--json", type=Path, metavar="FILE", help="write the summary here too")


def plan_of(values: argparse.Namespace) -> Plan:
    """Raises ValueError with a sentence for flags that do not go together."""
    if values.wrong_checksums and not values.checksum:
        raise ValueError("--wrong-checksums needs --checksum")
    if values.trailer and not (values.checksum and values.chunked):
        raise ValueError("--trailer needs --checksum and --chunked")
    if values.wrong_checksums + values.kill_rate > LARGEST_SHARE:
        raise ValueError("--kill-rate and --wrong-checksums leave too little to get through")
    if values.folder is not None and not values.folder.is_dir():
        raise ValueError(f"--folder: {values.folder} is not a folder")
    if values.folder is not None and values.no_verify:
        raise ValueError("--folder and --no-verify exclude each other")
    return Plan(
        url=values.url,
        uploads=values.uploads,
        sizes=values.size,
        chunk=values.chunk,
        concurrency=values.concurrency,
        with_upload=values.with_upload,
        defer_length=values.defer_length,
        kill_rate=values.kill_rate,
        cuts=values.cuts,
        checksum=values.checksum,
        trailer=values.trailer,
        wrong_checksums=values.wrong_checksums,
        parallel=values.parallel,
        rate=values.rate,
        retries=values.retries,
        seed=values.seed,
        timeout=values.timeout,
        metadata=tuple(values.metadata),
        headers=dict(values.header),
        verify_tls=not values.insecure,
        chunked=values.chunked,
        verify=not values.no_verify,
        folder=values.folder,
        delete=values.delete,
    )


# From text to values. Each raises ValueError.

LARGEST_SHARE = 0.95  # of requests that are meant to fail; of more, none might ever get through


def parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not a URL such as http://localhost:1080/files/")
    parts.port  # noqa: B018  raises ValueError
    return text


def parse_folder(text: str) -> Path:
    folder = Path(text)
    if not text or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{text!r} is no folder that can be written to")
    return folder


# Where a server listens and stores is for the script to choose, which could not find it else.
PLACES = ("--host", "--port", "--unix-socket", "--prefix", "--tls-cert", "--tls-key", "--dir")


def parse_flag(text: str) -> str:
    """One that may be passed on to a server which a script starts."""
    if text.partition("=")[0] in PLACES:
        raise ValueError(f"{text.partition('=')[0]} cannot be passed on: it is chosen here")
    return text


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What follows ``--``, for a server that the script starts."""
    parser.add_argument(
        "flags",
        nargs="*",
        type=converted(parse_flag),
        metavar="FLAG",
        help="passed on to the server; not where it listens and stores",
    )


def parse_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{text!r} is not a number from 1 on")
    return int(text)


def parse_chunk(text: str) -> int:
    size = parse_size(text)
    if size < 1:
        raise ValueError("must be a byte or more")
    return size


def parse_share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= LARGEST_SHARE:
        raise ValueError(f"{text!r} is not a probability from 0 to {LARGEST_SHARE}")
    return share


def parse_cuts(text: str) -> tuple[Cut, ...]:
    return tuple(Cut(name) for name in parse_list(text)) or tuple(Cut)


def parse_seconds(text: str) -> float:
    seconds = parse_duration(text).total_seconds()
    if not seconds:
        raise ValueError("must be longer than nothing")
    return seconds


def parse_pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[!-+\--~]+", key):
        raise ValueError(f"{key!r} is no key: ASCII without blanks and commas")
    return key, value


def parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
        raise ValueError(f"{text!r} is not a header such as 'Authorization: Bearer secret'")
    return name, value.strip()


def read(arguments: Sequence[str]) -> tuple[Plan, argparse.Namespace]:
    made = parser()
    values = made.parse_args(arguments)
    try:
        return plan_of(values), values
    except ValueError as error:
        made.error(str(error))
