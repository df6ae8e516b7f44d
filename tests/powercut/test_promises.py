"""What is a broken promise, at which level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aiotus_server import Durability
from scripts.load.content import Content
from scripts.powercut.ledger import Entry
from scripts.powercut.promises import Found, complaints

NONE, COMPLETE, ALWAYS = Durability
METADATA = "filename dXBsb2Fk,empty"


def entry(**facts: Any) -> Entry:
    return Entry(1, "small appends", Content(1, 1), 100, METADATA, path="/files/1", **facts)


def head(offset: int | None, length: int | None = 100, metadata: str = METADATA) -> Found:
    return Found(200, "200", offset, length, metadata)


GONE = Found(404, "404")
WHOLE = entry(acknowledged=100, complete=True)
HALF = entry(acknowledged=50)
TOLD = entry(acknowledged=30, told=50)
FINAL = replace(WHOLE, final=True)
WAITING = entry(final=True)


@pytest.mark.parametrize(
    ("known", "found", "broken"),
    [
        # Everything is there.
        (WHOLE, head(100), []),
        (HALF, head(50), []),
        (HALF, head(70), []),
        (WHOLE, head(100, metadata="empty,filename dXBsb2Fk"), []),
        (WAITING, head(None), []),
        (WAITING, head(None, None), []),
        # Something is not.
        (WHOLE, GONE, [COMPLETE, ALWAYS]),
        (WHOLE, head(99), [COMPLETE, ALWAYS]),
        (WHOLE, head(100, None), [COMPLETE, ALWAYS]),
        (WHOLE, Found(410, "410"), [COMPLETE, ALWAYS]),
        (HALF, GONE, [ALWAYS]),
        (HALF, head(49), [ALWAYS]),
        (HALF, head(50, None), [ALWAYS]),
        (TOLD, head(49), [ALWAYS]),
        (WAITING, GONE, [ALWAYS]),
        (FINAL, head(None), [COMPLETE, ALWAYS]),
        # A deferred length that nobody has acknowledged may go.
        (replace(HALF, declared=False), head(50, None), []),
        # A deletion.
        (replace(WHOLE, deleting=True), GONE, []),
        (replace(WHOLE, deleting=True), head(100), []),
        (replace(HALF, deleting=True), head(20), []),
        (replace(WHOLE, deleting=True, deleted=True), GONE, []),
        (replace(WHOLE, deleting=True, deleted=True), head(100), [ALWAYS]),
        # What no level allows.
        (HALF, Found(500, "500"), [NONE, COMPLETE, ALWAYS]),
        (HALF, Found(423, "423"), [NONE, COMPLETE, ALWAYS]),
        (HALF, Found(None), [NONE, COMPLETE, ALWAYS]),
        (HALF, head(50, 101), [NONE, COMPLETE, ALWAYS]),
        (HALF, head(50, metadata="empty"), [NONE, COMPLETE, ALWAYS]),
        (HALF, head(50, metadata=""), [NONE, COMPLETE, ALWAYS]),
        (HALF, head(101), [NONE, COMPLETE, ALWAYS]),
        (HALF, head(None), [NONE, COMPLETE, ALWAYS]),
        (FINAL, head(40), [NONE, COMPLETE, ALWAYS]),
    ],
)
def test_what_each_level_promises(known: Entry, found: Found, broken: list[Durability]) -> None:
    assert [level for level in Durability if complaints(level, known, found)] == broken


def test_a_complaint_says_what_is_wrong() -> None:
    assert complaints(ALWAYS, WHOLE, GONE) == [
        "an upload is gone though its end was acknowledged",
    ]
    assert complaints(ALWAYS, TOLD, head(40)) == ["the offset is behind what HEAD had told"]
    assert complaints(ALWAYS, TOLD, head(20)) == ["the offset is behind what was acknowledged"]
