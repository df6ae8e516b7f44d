"""Damaged uploads: for clients there is none, for operators there is all that was left of it."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore, Expiry, Hooks, Options, sweep
from aiotus_server.protocol.errors import UploadDamaged
from aiotus_server.stores import infofile
from aiotus_server.stores.layout import path_of

from .client import OCTETS, Reply, Site, assert_refused, sha1

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiotus_server.protocol.uploads import Upload

    from .conftest import Serve

UP = {"Upload-Offset": "2", **OCTETS}


def _remove(path: Path) -> None:
    path.unlink()


def _writes(text: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text)

    return write


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _socket(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o600 | stat.S_IFSOCK)


# What happened to which file.
DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no-info": (".info", _remove),
    "empty-info": (".info", _writes(b"")),
    "cut-info": (".info", _cut),
    "zeros-in-info": (".info", _writes(bytes(200))),
    "info-is-no-object": (".info", _writes(b"[]")),
    "info-lacks-a-fact": (".info", _writes(b"{}")),
    "info-with-wrong-type": (".info", _writes(b'{"created":1e9,"length":"5"}')),
    "info-with-negative-length": (".info", _writes(b'{"created":1e9,"length":-5}')),
    "info-with-huge-length": (".info", _writes(b'{"created":1e9,"length":99999999999999999999}')),
    "info-from-no-time": (".info", _writes(b'{"created":1e300,"length":5}')),
    "info-from-year-10000": (".info", _writes(b'{"created":253402300800,"length":5}')),
    "info-that-never-expires": (".info", _writes(b'{"created":1e9,"length":5,"lifetime":2.6e11}')),
    "info-with-two-lines-of-metadata": (
        ".info",
        _writes(b'{"created":1e9,"length":5,"metadata":"a\\r\\nSet-Cookie: b"}'),
    ),
    "info-with-path-as-part": (
        ".info",
        _writes(b'{"created":1e9,"length":5,"concat":"final;","parts":["../../../etc/passwd"]}'),
    ),
    "info-with-strange-status": (
        ".info",
        _writes(b'{"created":1e9,"length":5,"outcome":{"status":99}}'),
    ),
    "finished-and-cut-short": (
        ".info",
        _writes(b'{"created":1e9,"length":5,"outcome":{"status":200}}'),
    ),
    "info-published-nowhere": (".info", _writes(b'{"created":1e9,"length":5,"published":true}')),
    "info-joined-of-nothing": (".info", _writes(b'{"created":1e9,"length":5,"joined":true}')),
    "info-not-utf-8": (".info", _writes(b'{"created":1e9,"metadata":"\xff"}')),
    "info-nested-deep": (
        ".info",
        _writes(b'{"created":1e9,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ),
    "info-is-a-folder": (".info", _folder),
    "info-is-a-link": (".info", _link),
    "info-is-a-socket": (".info", _socket),
    "no-data": ("", _remove),
    "too-much-data": ("", _writes(b"hello!")),
    "data-is-a-folder": ("", _folder),
    "data-is-a-link": ("", _link),
}


def data_file(site: Site, path: str) -> Path:
    (file,) = site.store.root.glob(f"??/{path.rpartition('/')[2]}")
    assert isinstance(file, Path)
    return file


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Names and contents, None for what is no file."""
    return {
        file.name: file.read_bytes() if file.is_file() and not file.is_symlink() else None
        for file in folder.iterdir()
    }


def quarantined(site: Site) -> list[dict[str, bytes | None]]:
    """The cases, as they came."""
    return [files_in(case) for case in sorted(site.store.root.glob("quarantine/*"))]


def files_of(site: Site, path: str) -> dict[str, bytes | None]:
    upload_id = path.rpartition("/")[2]
    found: dict[str, bytes | None] = {}
    for folder in site.store.root.glob("??"):
        found |= {
            name: text for name, text in files_in(folder).items() if name.startswith(upload_id)
        }
    return found


async def damaged(site: Site, damage: str) -> str:
    """The path of an upload that had 2 of its 5 bytes, and then ``damage``."""
    path = await site.create(5)
    assert (await site.patch(path, 0, b"he")).status == 204
    end, happens = DAMAGES[damage]
    file = data_file(site, path)
    happens(file.with_name(file.name + end))
    return path


async def ask(site: Site, method: str, path: str) -> Reply:
    if method == "PATCH":
        return await site.request("PATCH", path, UP, b"llo")
    return await site.request(method, path)


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_upload_is_put_aside_once_and_is_no_upload(
    site: Site, damage: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = await site.upload(b"sound")
    path = await damaged(site, damage)
    before = files_of(site, path)
    for _ in range(3):
        assert_refused(await ask(site, method, path), 404, "UPLOAD_NOT_FOUND", method=method)
    assert quarantined(site) == [before]
    assert files_of(site, path) == {}
    (record,) = [record for record in caplog.records if record.levelno >= ERROR]
    (case,) = site.store.root.glob("quarantine/*")
    assert path.rpartition("/")[2] in record.getMessage()
    assert str(case) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert (await site.get(sound)).body == b"sound"
    assert await site.upload(b"others")


@pytest.mark.parametrize("damage", DAMAGES)
async def test_without_the_lock_nothing_is_moved(
    site: Site, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It could be an upload that is being made."""
    path = await damaged(site, damage)
    before = files_of(site, path)
    for _ in range(2):
        assert_refused(await site.get(path), 404, "UPLOAD_NOT_FOUND")
        reply = await site.request("POST", headers={"Upload-Concat": f"final;{path}"})
        assert_refused(reply, 400, "PARTIAL_UNKNOWN")
    assert files_of(site, path) == before
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_left_of_an_upload_does_not_block_its_id(
    serve: Serve, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An application may choose ids, and choose one again whose creation it was not told of."""
    hooks = Hooks()
    site = await serve(hooks=hooks)
    path = await damaged(site, damage)
    before = files_of(site, path)

    @hooks.pre_create
    def again(event: object) -> None:
        event.upload_id = path.rpartition("/")[2]  # type: ignore[attr-defined]

    reply = await site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"HELLO")
    assert (reply.status, reply.path, reply.offset) == (201, path, 5)
    assert quarantined(site) == [before]
    assert (await site.get(path)).body == b"HELLO"
    reply = await site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"other")
    assert_refused(reply, 409, "UPLOAD_EXISTS")
    assert (await site.get(path)).body == b"HELLO"
    assert len([record for record in caplog.records if record.levelno >= ERROR]) == 1


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("damage", ["no-info", "no-data", "cut-info"])
async def test_what_is_left_does_not_block_the_id_of_a_final(
    serve: Serve, damage: str, complete: bool
) -> None:
    hooks = Hooks()
    site = await serve(hooks=hooks)
    path = await damaged(site, damage)
    before = files_of(site, path)
    part = await site.create(5, Upload_Concat="partial")
    if complete:
        await site.patch(part, 0, b"hello")

    @hooks.pre_create
    def again(event: object) -> None:
        event.upload_id = path.rpartition("/")[2]  # type: ignore[attr-defined]

    headers = {"Upload-Concat": f"final;{part} {part}"}
    assert (await site.request("POST", headers=headers)).path == path
    assert quarantined(site) == [before]
    assert_refused(await site.request("POST", headers=headers), 409, "UPLOAD_EXISTS")
    if not complete:
        await site.patch(part, 0, b"hello")
    assert (await site.get(path)).body == b"hellohello"


async def test_an_id_of_a_published_upload_is_taken(serve: Serve, tmp_path: Path) -> None:
    """It has no data file in the store, but it is there."""
    hooks = Hooks()
    site = await serve(hooks=hooks)

    @hooks.pre_create
    def place(event: object) -> None:
        event.upload_id = "mine"  # type: ignore[attr-defined]
        event.path = tmp_path / "published"  # type: ignore[attr-defined]

    path = await site.upload(b"hello")
    (tmp_path / "published").rename(tmp_path / "taken away")
    assert_refused(await site.request("POST", headers={"Upload-Length": "5"}), 409, "UPLOAD_EXISTS")
    hooks.pre_create.clear()
    part = await site.upload(b"part", Upload_Concat="partial")
    hooks.pre_create.append(place)
    reply = await site.request("POST", headers={"Upload-Concat": f"final;{part}"})
    assert_refused(reply, 409, "UPLOAD_EXISTS")
    (tmp_path / "taken away").rename(tmp_path / "published")
    assert (await site.get(path)).body == b"hello"
    assert (await site.head(path)).offset == 5
    assert quarantined(site) == []


async def test_a_start_meets_the_damage_of_what_was_to_be_told_of(serve: Serve) -> None:
    """Uploads that became complete just before a crash are looked at under their locks."""
    site = await serve()
    path = await damaged(site, "cut-info")
    before = files_of(site, path)
    (site.store.root / "finishing" / path.rpartition("/")[2]).symlink_to("due")
    await site.routes.server.stop()
    hooks = Hooks()
    hooks.post_finish(print)
    site = await serve(DiskStore(site.store.root, durability="none"), hooks=hooks)
    assert await site.upload(b"sound")
    async with asyncio.timeout(5):
        while not quarantined(site) or os.listdir(site.store.root / "finishing"):
            await asyncio.sleep(0.01)
    assert quarantined(site) == [before]


async def test_two_damages_of_one_id_are_kept_apart(serve: Serve) -> None:
    hooks = Hooks()
    site = await serve(hooks=hooks)

    @hooks.pre_create
    def name(event: object) -> None:
        event.upload_id = "one"  # type: ignore[attr-defined]

    for text in (b"a", b"b", b"c"):
        path = await site.upload(text)
        data_file(site, path).with_name("one.info").unlink()
    assert (await site.head(path)).status == 404
    assert quarantined(site) == [{"one": b"a"}, {"one": b"b"}, {"one": b"c"}]


async def test_unverified_bytes_keep_their_mark(site: Site) -> None:
    """And it is not taken for that of another upload with this id."""
    path = await damaged(site, "cut-info")
    upload_id = path.rpartition("/")[2]
    (site.store.root / "unverified" / upload_id).symlink_to("1")
    assert (await site.head(path)).status == 404
    (case,) = site.store.root.glob("quarantine/*")
    assert os.readlink(case / "unverified") == "1"
    assert not list(site.store.root.glob("unverified/*"))


async def test_a_mark_beyond_the_bytes_does_not_make_any(site: Site) -> None:
    """A power cut may take the bytes and leave the mark: zeros must not come in their place."""
    path = await site.create(5)
    await site.patch(path, 0, b"he")
    (site.store.root / "unverified" / path.rpartition("/")[2]).symlink_to("4")
    assert (await site.head(path)).offset == 2
    assert site.stored(path) == b"he"
    assert (await site.patch(path, 2, b"llo", Upload_Checksum=sha1(b"llo"))).status == 204
    assert (await site.get(path)).body == b"hello"


async def test_the_sweep_finds_a_damaged_upload_when_it_is_due(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    hour = timedelta(hours=1)
    site = await serve(options=Options(expiry=Expiry(hour)))
    path = await damaged(site, "cut-info")
    assert await sweep(site.routes.server) == 0
    assert quarantined(site) == []
    site.routes.server.clock = lambda: datetime.now(UTC) + 2 * hour
    assert await sweep(site.routes.server) == 0
    assert len(quarantined(site)) == 1
    assert await sweep(site.routes.server) == 0
    assert (await site.head(path)).status == 404
    assert len([record for record in caplog.records if record.levelno >= ERROR]) == 1


async def test_what_cannot_be_moved_is_no_upload_either(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    path = await damaged(site, "cut-info")
    (site.store.root / "quarantine").write_text("in the way")
    before = files_of(site, path)
    for method in ("HEAD", "PATCH", "DELETE"):
        assert (await ask(site, method, path)).status == 404
    assert files_of(site, path) == before
    messages = [record.getMessage() for record in caplog.records if record.levelno >= ERROR]
    assert len(messages) == 3
    assert all("it stays where it is" in message for message in messages)


async def test_creations_under_way_are_left_alone(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are there before they are uploads."""
    half_made, go_on = threading.Event(), threading.Event()
    encode = infofile.encode

    def encode_when_told(upload: Upload) -> bytes:
        half_made.set()
        assert go_on.wait(10)
        return encode(upload)

    monkeypatch.setattr(infofile, "encode", encode_when_told)
    hooks = Hooks()
    site = await serve(DiskStore(tmp_path / "uploads", durability="always"), hooks=hooks)
    await site.store.open(shared=False)

    @hooks.pre_create
    def name(event: object) -> None:
        event.upload_id = "chosen"  # type: ignore[attr-defined]

    creation = asyncio.ensure_future(
        site.request("POST", headers={"Upload-Length": "5", **OCTETS}, body=b"hello")
    )
    try:
        assert await asyncio.to_thread(half_made.wait, 10)
        with pytest.raises(UploadDamaged):
            await site.store.get("chosen")
        for _ in range(3):
            assert (await site.get("/files/chosen")).status == 404
        head = asyncio.ensure_future(site.head("/files/chosen"))
        await asyncio.wait([head], timeout=0.2)
    finally:
        go_on.set()
    assert (await head).status in (200, 404)
    assert (await creation).offset == 5
    assert (await site.get("/files/chosen")).body == b"hello"
    assert quarantined(site) == []


async def test_errors_of_the_disk_are_not_damage(site: Site) -> None:
    """What cannot be opened now may be opened later."""
    path = await site.upload(b"hello")
    folder = data_file(site, path).parent
    folder.rename(site.store.root / "away")
    folder.write_text("not a folder now")
    assert (await site.patch(path, 5, b"")).status == 500
    folder.unlink()
    (site.store.root / "away").rename(folder)
    assert (await site.get(path)).body == b"hello"
    assert quarantined(site) == []


async def joined(site: Site, left: int | None) -> tuple[str, list[str]]:
    """The path of a final that was joined, and then lost all but ``left`` of its bytes, or its
    file; and its partials'."""
    parts = [await site.upload(data, Upload_Concat="partial") for data in (b"hello ", b"world")]
    reply = await site.request("POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
    assert (await site.get(reply.path)).body == b"hello world"
    file = path_of(site.store.root, reply.path.rpartition("/")[2])
    if left is None:
        file.unlink()
    else:
        os.truncate(file, left)
    return reply.path, parts


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("left", [None, 0, 3])
async def test_a_final_whose_bytes_a_power_cut_took_is_made_again(
    serve: Serve, left: int | None, method: str
) -> None:
    """Whoever asks for it begins that. It had an expiry, but complete uploads do not expire."""
    site = await serve(options=Options(expiry=Expiry(timedelta(hours=1))))
    path, _ = await joined(site, left)
    site.routes.server.clock = lambda: datetime.now(UTC) + timedelta(hours=2)
    reply = await site.request(method, path)
    if method == "GET":
        assert_refused(reply, 404, "UPLOAD_NOT_FOUND")
    else:
        assert (reply.status, reply.headers["Upload-Length"]) == (200, "11")
        assert "Upload-Offset" not in reply.headers
    async with asyncio.timeout(5):
        while site.stored(path) != b"hello world":
            await asyncio.sleep(0.01)
        while (await site.get(path)).status != 200:
            await asyncio.sleep(0.01)
    assert (await site.get(path)).body == b"hello world"
    assert (await site.head(path)).offset == 11
    assert quarantined(site) == []


@pytest.mark.parametrize("left", [None, 3])
async def test_a_final_that_cannot_be_made_again_is_damaged(
    site: Site, left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    path, parts = await joined(site, left)
    assert (await site.request("DELETE", parts[1])).status == 204
    before = files_of(site, path)
    assert_refused(await site.get(path), 404, "UPLOAD_NOT_FOUND")
    assert files_of(site, path) == before
    for method in ("HEAD", "PATCH", "DELETE"):
        assert_refused(await ask(site, method, path), 404, "UPLOAD_NOT_FOUND", method=method)
    assert quarantined(site) == [before]
    (record,) = [record for record in caplog.records if record.levelno >= ERROR]
    assert "a partial of it is gone" in record.getMessage()
    assert (await site.get(parts[0])).body == b"hello "


async def test_an_info_file_as_large_as_none_is_not_read(site: Site) -> None:
    path = await site.create(5)
    os.truncate(data_file(site, path).with_suffix(".info"), 2**40)
    assert_refused(await site.get(path), 404)
    assert_refused(await ask(site, "HEAD", path), 404, method="HEAD")
