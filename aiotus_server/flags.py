"""The options of each command: what there is to set, in the order in which help tells it."""

from __future__ import annotations

import re
from datetime import timedelta

from .arguments import (
    Group,
    Option,
    Switch,
    one_of,
    parse_duration,
    parse_lifetime,
    parse_limit,
    parse_list,
    parse_name,
    parse_origins,
    parse_paths,
    parse_port,
    parse_reference,
    parse_size,
    parse_text,
    some_of,
)
from .options import EXTENSIONS
from .states import STATES
from .stores import Durability


def parse_workers(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise ValueError(f"{text!r} is not a number of processes: 1 to 999")
    return int(text)


DIRECTORY = Option(
    "dir", "DIR", "where uploads are stored", parse_text, "uploads", shown="./uploads"
)
HOOKS = Option(
    "hooks",
    "MODULE:NAME",
    "an aiotus_server.Hooks object, the application's own code; modules are looked for in the "
    "current directory too",
    parse_reference,
)
LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_LEVEL = Option(
    "log-level",
    "LEVEL",
    f"least level of what is logged to standard error: {', '.join(LEVELS)}",
    one_of(LEVELS),
    "info",
    shown="info",
)

SERVE_GROUPS = (
    Group(
        "network",
        (
            Option(
                "host",
                "ADDRESS",
                "address to listen on; 0.0.0.0 or :: for all",
                parse_text,
                "127.0.0.1",
                shown="127.0.0.1",
            ),
            Option(
                "port",
                "PORT",
                "port to listen on; 0 for a free one",
                parse_port,
                1080,
                shown="1080",
            ),
            Option(
                "prefix",
                "PATH",
                "path at which clients create uploads",
                parse_text,
                "/files/",
                shown="/files/",
            ),
            Option(
                "unix-socket",
                "PATH",
                "listen on this Unix socket instead of host and port",
                parse_text,
            ),
            Switch("reuse-port", "let other servers listen on the same port too; implies --shared"),
            Option(
                "tls-cert",
                "FILE",
                "serve https with this certificate chain (PEM)",
                parse_text,
            ),
            Option(
                "tls-key",
                "FILE",
                "the certificate's private key, if it is in a file of its own",
                parse_text,
            ),
            Option(
                "grace",
                "TIME",
                "the process exits at most so long after SIGTERM or SIGINT",
                parse_duration,
                timedelta(seconds=8),  # docker stop kills after 10
                shown="8s",
            ),
            Switch("no-uvloop", "use asyncio's own event loop"),
            Option(
                "direct-from",
                "SIZE",
                "take bodies from the socket in threads, past the event loop, if so much of them "
                "is still to come; none for never",
                parse_limit,
                1024 * 1024,
                shown="1MiB",
            ),
        ),
    ),
    Group(
        "processes",
        (
            Option(
                "workers",
                "N",
                "processes that receive uploads, one for each core, say",
                parse_workers,
                1,
                shown="1",
            ),
            Switch("no-affinity", "do not keep each of them on a core of its own"),
            Switch(
                "shared",
                "other servers on this machine use the directory too; so it is with several workers",
            ),
        ),
    ),
    Group(
        "storage",
        (
            DIRECTORY,
            Option(
                "durability",
                "LEVEL",
                "when uploads are flushed to the disk: none (when the kernel likes), complete "
                "(before the last byte is acknowledged), always (before every acknowledgement)",
                one_of([level.value for level in Durability]),
                "complete",
                shown="complete",
            ),
            Option(
                "expires",
                "TIME",
                "remove unfinished uploads so long after their creation; none for never",
                parse_lifetime,
                shown="none",
            ),
            Switch("expires-sliding", "count --expires from the last byte instead"),
            Switch("delete-partials", "remove partial uploads once they have been concatenated"),
        ),
    ),
    Group(
        "limits",
        (
            Option(
                "max-size",
                "SIZE",
                "largest upload; none for no limit",
                parse_limit,
                shown="none",
            ),
            Option(
                "max-request-size",
                "SIZE",
                "largest body of one request (413); none for no limit",
                parse_limit,
                shown="none",
            ),
            Option(
                "max-bodies",
                "N",
                "receive so many bodies at once, in each worker; one more is answered 503; none "
                "for no limit",
                parse_limit,
                shown="none",
            ),
            Option(
                "min-rate",
                "SIZE",
                "end a request whose body brings less than this a second over --min-rate-window; "
                "its bytes are kept",
                parse_size,
                0,
                shown="0",
            ),
            Option(
                "min-rate-window",
                "TIME",
                "for how long that is measured",
                parse_duration,
                timedelta(seconds=30),
                shown="30s",
            ),
            Option(
                "header-timeout",
                "TIME",
                "close a connection whose request has not sent all of its head for so long; none "
                "for never",
                parse_lifetime,
                timedelta(seconds=30),
                shown="30s",
            ),
            Option(
                "keepalive-timeout",
                "TIME",
                "close a connection that has been idle for so long since its last request; none "
                "for never",
                parse_lifetime,
                timedelta(seconds=180),
                shown="3m",
            ),
            Option(
                "reserve",
                "SIZE",
                "keep so much free on the disk",
                parse_size,
                0,
                shown="0",
            ),
            Option(
                "read-timeout",
                "TIME",
                "end a request whose body has been silent for so long; its bytes are kept",
                parse_duration,
                timedelta(seconds=60),
                shown="60s",
            ),
            Option(
                "lock-timeout",
                "TIME",
                "how long a request waits for another one on the same upload to let go",
                parse_duration,
                timedelta(seconds=3),
                shown="3s",
            ),
        ),
    ),
    Group(
        "protocol",
        (
            Option(
                "extensions",
                "LIST",
                "offer only these extensions of the protocol, of all: "
                + ", ".join(sorted(EXTENSIONS)),
                some_of(sorted(EXTENSIONS)),
                many=True,
                shown="all",
            ),
            Option(
                "disable-extension",
                "LIST",
                "do not offer these; repeatable",
                some_of(sorted(EXTENSIONS)),
                [],
                many=True,
            ),
            Option(
                "checksum-algorithms",
                "LIST",
                "offer only these checksum algorithms; sha1 must be one",
                parse_list,
                many=True,
                shown="all",
            ),
            Switch("lenient-metadata", "drop malformed pairs of Upload-Metadata, refuse nothing"),
            Switch("no-terminate-complete", "refuse to delete complete uploads"),
            Switch("no-download", "do not give out complete uploads by GET"),
            Switch("no-cors", "send no CORS headers: no uploads from pages of other origins"),
            Option(
                "cors-origin",
                "ORIGIN",
                "let pages of this origin upload; repeatable",
                parse_origins,
                many=True,
                shown="any",
            ),
            Switch("cors-credentials", "let them send cookies; needs --cors-origin"),
            Option(
                "cors-allow-header",
                "NAME",
                "let them send this header too; repeatable",
                parse_list,
                [],
                many=True,
            ),
            Option(
                "cors-expose-header",
                "NAME",
                "let them see this header too; repeatable",
                parse_list,
                [],
                many=True,
            ),
            Option(
                "cors-max-age",
                "TIME",
                "how long browsers may remember all this",
                parse_duration,
                timedelta(days=1),
                shown="1d",
            ),
        ),
    ),
    Group(
        "behind a proxy",
        (
            Option(
                "location",
                "HOW",
                "the URLs given to clients: path, absolute, auto (a path for browsers and behind "
                "proxies), or the public URL of the prefix",
                parse_text,
                "auto",
                shown="auto",
            ),
            Switch(
                "trust-forwarded",
                "believe Forwarded and X-Forwarded-*; only behind a proxy that sets them",
            ),
            Option(
                "owner-header",
                "NAME",
                "uploads belong to whom this header names, which the proxy sets; for others they "
                "are not there, and without it a request is refused; needs --trust-forwarded",
                parse_name,
            ),
            Option(
                "public-prefix",
                "PATH",
                "clients know the prefix, which a proxy rewrites, as this; repeatable",
                parse_paths,
                [],
                many=True,
            ),
        ),
    ),
    Group(
        "hooks",
        (
            HOOKS,
            Option(
                "progress-interval",
                "TIME",
                "shortest time between two post_receive of one request",
                parse_duration,
                timedelta(seconds=1),
                shown="1s",
            ),
            Option(
                "new-id",
                "MODULE:NAME",
                "a function that makes the ids of uploads: unguessable, never twice the same",
                parse_reference,
                shown="128 random bits",
            ),
        ),
    ),
    Group(
        "logging",
        (
            Switch("access-log", "log every request"),
            LOG_LEVEL,
        ),
    ),
)

SHARED = Switch(
    "shared",
    "a server that was started with --shared or several --workers may be running",
)
JSON = Switch("json", "print JSON, for programs")

LIST_GROUPS = (
    Group(
        "options",
        (
            DIRECTORY,
            Option(
                "state",
                "LIST",
                "only uploads of which all these words are true: " + ", ".join(STATES),
                some_of(STATES),
                many=True,
            ),
            JSON,
        ),
    ),
)
SHOW_GROUPS = (Group("options", (DIRECTORY, JSON)),)
RM_GROUPS = (Group("options", (DIRECTORY, SHARED, HOOKS, LOG_LEVEL)),)
GC_GROUPS = (Group("options", (DIRECTORY, SHARED, HOOKS, LOG_LEVEL)),)
VERIFY_GROUPS = (
    Group(
        "options",
        (
            DIRECTORY,
            Switch("repair", "mend what is safe to mend"),
            SHARED,
            JSON,
            LOG_LEVEL,
        ),
    ),
)
COMMAND_GROUPS = {
    "list": LIST_GROUPS,
    "show": SHOW_GROUPS,
    "rm": RM_GROUPS,
    "gc": GC_GROUPS,
    "verify": VERIFY_GROUPS,
}
