"""The one room that knows aiohttp's private names.

aiohttp reads request trailers and throws them away, tells nobody when it shuts down, and reads
refused bodies for ten seconds. ``TusRequestHandler`` mends that for our requests; all others
take aiohttp's own way. ``install`` makes it the class that aiohttp's ``Server`` creates. On an
aiohttp that was not tested nothing is installed: then ``checksum-trailer`` is not offered, a
stop waits for aiohttp's own time limit, and all the rest works.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp import web, web_protocol, web_server
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from .connection import (
    TusRequestHandler,
    body_length,
    close_after,
    drop,
    expects_continue,
    lost_trailer,
    may_cancel,
    reads_trailers,
)
from .parser import TrailerParser, TrailerStream
from .sendfile import send_file
from .source import RequestSource

TESTED = {(3, 14)}  # minor releases whose private names are known to mean what we think


def usable() -> bool:
    """Whether this aiohttp is one that was tested, and has the names that we need."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])
    return version in TESTED and not missing_names()


def missing_names() -> list[str]:
    needed = [
        (
            RequestHandler,
            (
                "_read_bufsize",
                "finish_response",
                "close",
                "force_close",
                "_messages",
                "_current_request",
            ),
        ),
        (RequestHandler, ("_parser", "_manager", "_loop", "transport", "connection_lost")),
        (RequestHandler, ("connection_made", "_waiter")),
        (RequestHandler, ("pause_reading", "resume_reading", "_reading_paused")),
        (StreamReader, ("_buffer", "_buffer_offset", "total_bytes", "feed_data", "feed_eof")),
        (StreamReader, ("_cursor", "_eof", "_http_chunk_splits", "_protocol", "_size")),
        (StreamReader, ("_high_water", "_low_water")),
        (StreamReader, ("_read_nowait_chunk", "_wait")),
        (RequestHandler, ("_drain_helper", "writing_paused")),
        (StreamWriter, ("send_headers",)),
        (web_server, ("RequestHandler",)),
        (web.BaseRequest, ("read", "content")),
        (web_protocol, ("MAX_MSG_QUEUE_SIZE",)),
    ]
    return [name for owner, names in needed for name in names if not hasattr(owner, name)]


def install() -> bool:
    """Make ``TusRequestHandler`` the class that aiohttp's servers create from now on.

    Whether it is. Doing it twice does no harm; if somebody else has put a class of theirs
    there, it is left alone.
    """
    module: Any = web_server
    if usable() and module.RequestHandler is RequestHandler:
        module.RequestHandler = TusRequestHandler
    return module.RequestHandler is TusRequestHandler


__all__ = [
    "RequestSource",
    "TrailerParser",
    "TrailerStream",
    "TusRequestHandler",
    "body_length",
    "close_after",
    "drop",
    "expects_continue",
    "install",
    "lost_trailer",
    "may_cancel",
    "missing_names",
    "reads_trailers",
    "send_file",
    "usable",
]
