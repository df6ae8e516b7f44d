"""``python -m tests.stores.cutter FOLDER``: every operation of a disk store, killed before each of
its calls of the system, and between the pages that one writes, every time on a store of its own:
``FOLDER/<operation>/<call>`` and ``FOLDER/<operation>/<call>-half``."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotus_server.protocol.uploads import Final, Outcome, Partial, Upload
from aiotus_server.stores.durability import Durability
from aiotus_server.stores.files import Files
from aiotus_server.stores.layout import Layout
from aiotus_server.stores.writing import PAGE
from aiotus_server.testing import arrived, sha1_of, streamed

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiotus_server.body import Body
    from aiotus_server.protocol.checksum import Checksum

KILLED = 77
PAGES = bytes(range(256)) * (PAGE * 4 // 256)  # of the upload ``pages``
LONG = f"filename {'YQ==' * PAGE}"  # an info file of several pages
LATER = datetime.now(UTC) + timedelta(hours=1)
# All that changes a file system, or could.
WRITES = ("write", "pwrite", "pwritev", "writev")
CALLS = (
    *WRITES,
    "open",
    "ftruncate",
    "fsync",
    "link",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "symlink",
    "fdatasync",
    "copy_file_range",
    "sendfile",
)


def new(upload_id: str, length: int | None = 5, **facts: Any) -> Upload:
    return Upload(upload_id, 0, length, datetime.now(UTC), **facts)


def whole(data: bytes, checksum: Checksum | None = None) -> Body:
    body = arrived(data, checksum=checksum)
    assert body.buffered()
    return body


class Store:
    """With what operations need: ``half`` (2 of 5 bytes), ``pages`` (the first of them), ``done``,
    partials ``one`` and ``two``, the final ``waiting`` for them, ``ready`` to be published, and
    ``broken``."""

    def __init__(self, root: Path) -> None:
        self.files = Files(Layout(root, shared=False), Durability.ALWAYS)
        self.published = str(root.with_name(f"{root.name}.published"))
        self.create("half", b"he", expires=LATER)
        self.create("pages", PAGES[:PAGE], length=len(PAGES))
        self.create("done", b"hello")
        self.create("one", b"hello", concat=Partial(), concat_header="partial")
        self.create("two", b"world", concat=Partial(), concat_header="partial")
        self.create("waiting", b"", length=10, concat=Final(("one", "two")), expires=LATER)
        self.create("ready", b"hello", path=self.published)
        self.create("broken", b"he")
        info = root / self.files._name("broken")  # noqa: SLF001
        info.with_name("broken.info").write_text("{")

    def create(self, upload_id: str, data: bytes, **facts: Any) -> Upload:
        return self.files.create(new(upload_id, **facts), whole(data), whole=True)

    def append(self, *, right: bool) -> None:
        """Under a checksum, piece by piece."""
        upload = self.files.get("half")
        body = streamed(b"llo", checksum=sha1_of(b"llo"))
        writer = self.files.begin_append(upload, body)
        writer.write([b"l"], last=False)
        writer.write([b"lo"], last=True)
        if right:
            self.files.end_append(upload, body, writer)
        else:
            os.close(writer.fd)
            self.files.rewind(upload)

    def append_verified(self) -> None:
        """Under a checksum that was right, of a body that had come whole."""
        body = whole(PAGES[PAGE:], sha1_of(PAGES[PAGE:]))
        self.files.append_whole(self.files.get("pages"), body)

    def concatenate(self, upload: Upload) -> None:
        parts = [self.files.get("one"), self.files.get("two")]
        self.files.concatenate(upload, parts, lambda: False)

    def sweep(self) -> None:
        journal = self.files.journal
        for now in (LATER.timestamp() + 60, LATER.timestamp() + 120):
            for token, upload_ids in journal.take_due(now):
                kept = [(upload_id, LATER.timestamp()) for upload_id in upload_ids]
                journal.settle(token, kept)


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "create-empty": lambda store: store.create("new", b"", expires=LATER),
    "create-whole": lambda store: store.create("new", b"hello"),
    "create-long": lambda store: store.create("new", b"hello", metadata=LONG),
    "create-waiting": lambda store: store.create(
        "new", b"", length=None, concat=Final(("one", "done")), expires=LATER
    ),
    "append": lambda store: store.files.append_whole(store.files.get("half"), whole(b"llo")),
    "append-verified": lambda store: store.append_verified(),
    "append-right": lambda store: store.append(right=True),
    "append-wrong": lambda store: store.append(right=False),
    "declare": lambda store: store.files.declare_length(replace(store.files.get("half"), length=9)),
    "finish": lambda store: store.files.finish(
        replace(store.files.get("done"), outcome=Outcome(200))
    ),
    "publish": lambda store: store.files.finish(
        replace(store.files.get("ready"), outcome=Outcome(200))
    ),
    "concatenate-new": lambda store: store.concatenate(
        new("final", 10, concat=Final(("one", "two")))
    ),
    "concatenate-waiting": lambda store: store.concatenate(store.files.get("waiting")),
    "terminate-half": lambda store: store.files.terminate(store.files.get("half")),
    "terminate-done": lambda store: store.files.terminate(store.files.get("done")),
    "terminate-waiting": lambda store: store.files.terminate(store.files.get("waiting")),
    "quarantine": lambda store: store.files.quarantine("broken"),
    "sweep": lambda store: store.sweep(),
}


def kill_at(call: int, *, half: bool) -> None:
    """End this process as SIGKILL would, before its ``call``-th call from now on, or when that
    has written ``half``: so many of its pages."""
    numbers = count()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) != call:
                return function(*args, **kwargs)
            if half and name in WRITES:
                fd, data, *rest = args
                data = data if isinstance(data, bytes) else b"".join(data)
                data = data[: len(data) // 2 // PAGE * PAGE]
                function(fd, data if name in ("write", "pwrite") else [data], *rest)
            os._exit(KILLED)

        return wrapper

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, counted(name, getattr(os, name)))


def cut_off(root: Path, operation: str, call: int, *, half: bool) -> bool:
    """Whether ``operation`` had so many calls."""
    root.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        store = Store(root)
        kill_at(call, half=half)
        OPERATIONS[operation](store)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), (operation, call, code)
    return code == KILLED


def main() -> None:
    folder = Path(sys.argv[1])
    for operation in OPERATIONS:
        for call in count():
            place = folder / operation / str(call)
            if not cut_off(place, operation, call, half=False):
                break
            cut_off(place.with_name(f"{call}-half"), operation, call, half=True)


if __name__ == "__main__":
    main()
