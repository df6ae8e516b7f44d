"""What the server wrote into its log: no error, and what aiohttp's parser has refused."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from .watch import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_head = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) (\S+): (.*)")
# Printed when all workers are there: the first of them may have refused something before.
_announcement = re.compile(r"aiotus-server \S+: uploads to ")
_frame = re.compile(r'\s*File "(.*)", line \d+, in (\S+)')
GONE = "aiohttp.client_exceptions.ClientConnectionResetError: "
FINE = ("The checksum crc64nvme is slow here",)


def complaints(lines: Iterable[str]) -> Counter[str]:
    """How often there was what: the first and the last line of each record that must not be."""
    return Counter(
        f"{record[0]} ... {record[-1]}" if len(record) > 1 else record[0]
        for record in _records(lines)
        if not is_fine(record)
    )


def refusals(lines: Iterable[str]) -> int:
    """How many requests aiohttp's parser refused."""
    return sum(_is_of_the_parser(record) for record in _records(lines))


def is_fine(record: list[str]) -> bool:
    head = _head.fullmatch(record[0])
    if head is None:
        # What was printed before there was a log: where to upload to.
        return OUTSIDE not in record[0] and "Error" not in record[0] and len(record) == 1
    level, _, message = head.groups()
    if any(OUTSIDE in line for line in record):
        return False
    if level in ("DEBUG", "INFO"):
        return len(record) == 1
    return message.startswith(FINE) or _is_of_an_expectation(record)


def _is_of_the_parser(record: list[str]) -> bool:
    return _is_of_aiohttp(record) and " INFO " in record[0]


def _is_of_an_expectation(record: list[str]) -> bool:
    """aiohttp wrote "100 Continue" for a path that is not ours, and the client had gone."""
    if not _is_of_aiohttp(record) or not record[-1].startswith(GONE):
        return False
    frames = _frames(record)
    expecting = any(function == "_default_expect_handler" for _, function in frames)
    return expecting and all("/aiohttp/" in file for file, _ in frames)


def _is_of_aiohttp(record: list[str]) -> bool:
    head = _head.fullmatch(record[0])
    if head is None or head[2] != "aiohttp.server":
        return False
    return head[3].startswith("Error handling request from")


def _frames(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Files and functions of a traceback."""
    return [(match[1], match[2]) for line in lines if (match := _frame.match(line))]


def _records(lines: Iterable[str]) -> Iterator[list[str]]:
    record: list[str] = []
    for line in lines:
        text = line.rstrip("\n")
        begins = _head.match(text) or OUTSIDE in text or _announcement.match(text)
        if record and (begins or not _head.match(record[0])):
            yield record
            record = []
        record.append(text)
    if record:
        yield record
