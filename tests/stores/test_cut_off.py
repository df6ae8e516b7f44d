"""A crash, wherever it comes, leaves no damage: at most what a verification takes note of."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aiotus_server import DiskStore
from aiotus_server.cli import main
from aiotus_server.protocol.errors import UploadNotFound
from aiotus_server.stores.verify import KINDS, Repair, verification
from aiotus_server.stores.writing import PAGE
from aiotus_server.testing import StoreContract, arrived

from ..processes import REPOSITORY
from .cutter import OPERATIONS, PAGES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


pytestmark = pytest.mark.timeout(300)  # every flush is one of a busy disk, perhaps


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _cut_off(tmp_path_factory.mktemp("cut-off"))


@pytest.fixture(scope="module")
def other_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same again, for those who change them."""
    return _cut_off(tmp_path_factory.mktemp("cut-off"))


def _cut_off(folder: Path) -> Path:
    """``<operation>/<call>``: a store in which the operation was killed before this call."""
    command = [sys.executable, "-m", "tests.stores.cutter", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=250)
    return folder


def verify(root: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    main(["verify", "--json", "--dir", str(root), *arguments], {})
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_leaves_notes_at_most(
    other_stores: Path,
    operation: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "PAUSE", 0)
    roots = sorted(path for path in (other_stores / operation).iterdir() if path.is_dir())
    assert len(roots) > 2
    for root in roots:
        errors = {(f["code"], f["upload"]) for f in verify(root, capsys=capsys)["findings"]}
        errors = {pair for pair in errors if KINDS[pair[0]].severity.value == "error"}
        planted = {
            ("info-unreadable", "broken"),
            ("info-missing", "broken"),
            ("data-missing", "broken"),
        }
        assert errors <= planted, root
        report = verify(root, "--repair", capsys=capsys)
        assert report["errors"] == 0, (root, report)
        left = {finding["code"] for finding in verify(root, capsys=capsys)["findings"]}
        assert {code for code in left if KINDS[code].repair is not Repair.NONE} == set()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_leaves_what_was_acknowledged(stores: Path, operation: str) -> None:
    """Without a repair: a server is started on it."""
    for root in (stores / operation).iterdir():
        if root.is_dir():
            asyncio.run(_go_on(root, operation))


async def _go_on(root: Path, operation: str) -> None:
    store = DiskStore(root, durability="none")
    await store.open(shared=False)
    for upload_id, data in (("one", b"hello"), ("two", b"world"), ("ready", b"hello")):
        upload = await store.get(upload_id)
        assert upload.complete
        pieces = [piece async for piece in store.read(upload, 0, upload.offset)]
        assert b"".join(pieces) == data
    if operation != "terminate-half":
        upload = await store.get("half")
        if upload.unverified:
            upload = await store.rewind(upload)
        assert upload.offset in (2, 5)
        assert store.path(upload).read_bytes() == b"hello"[: upload.offset]
        if not upload.complete:
            rest = arrived(b"hello"[upload.offset :])
            assert (await store.append(upload, rest)).offset == 5
    upload = await store.get("pages")
    assert upload.offset in (PAGE, len(PAGES))  # a body under a checksum counts whole
    assert store.path(upload).read_bytes()[: upload.offset] == PAGES[: upload.offset]
    for upload_id in ("new", "final"):
        await _can_be_made(store, upload_id)
    await store.close()


async def _can_be_made(store: DiskStore, upload_id: str) -> None:
    """An id whose creation was cut off is free, once what is left is out of the way."""
    try:
        await store.get(upload_id)
    except UploadNotFound:
        await store.quarantine(upload_id)
        await store.create(StoreContract.new(upload_id), arrived(b"hello"))
