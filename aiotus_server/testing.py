"""For tests of your own: the contract of a store, and bodies to feed one with.

    from aiotus_server.testing import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)

Needs pytest with an asyncio plugin in its auto mode. What a store does not inherit is skipped.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from .body import Body, EmptySource, Source
from .protocol.checksum import Checksum, algorithm
from .protocol.errors import BodyCutShort, TusError, UploadExists, UploadNotFound
from .protocol.uploads import Final, Outcome, Partial, Upload
from .stores.base import (
    ChecksumStore,
    ConcatenationStore,
    CreationStore,
    DeferLengthStore,
    ExpirationStore,
    ReadableStore,
    TerminationStore,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE = 3 * 1024 * 1024 + 17  # bytes: more than is gathered at once, and no round number


class ScriptedSource(Source):
    """Gives ``pieces`` one by one, then ends, or raises ``error``. Never whole beforehand."""

    def __init__(self, pieces: Sequence[bytes], error: TusError | None = None) -> None:
        self._pieces = list(pieces)
        self._error = error

    async def read(self, patience: float | None = None) -> bytes | None:
        await asyncio.sleep(0)
        if self._pieces:
            return self._pieces.pop(0)
        if self._error is not None:
            raise self._error
        return b""

    def read_whole(self) -> list[bytes] | None:
        return None


class ArrivedSource(EmptySource):
    """All bytes have arrived already."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    async def read(self, patience: float | None = None) -> bytes | None:
        data, self._data = self._data, b""
        return data

    def read_whole(self) -> list[bytes] | None:
        return [self._data] if self._data else []


def sha1_of(data: bytes) -> Checksum:
    hasher = algorithm("sha1").new()
    hasher.update(data)
    return Checksum("sha1", hasher.digest())


def streamed(
    *pieces: bytes, error: TusError | None = None, checksum: Checksum | None = None
) -> Body:
    """A body that comes piece by piece."""
    return Body(ScriptedSource(pieces, error), limit=2**62, verification=checksum)


def arrived(data: bytes = b"", *, checksum: Checksum | None = None) -> Body:
    """A body that is there whole."""
    return Body(ArrivedSource(data), limit=2**62, verification=checksum)


class StoreContract:
    """What every store must do. Inherit, and give a ``store`` fixture with a fresh store."""

    @pytest.fixture
    def store(self) -> Any:
        raise NotImplementedError("give a fixture named store")

    @pytest.fixture(autouse=True)
    async def _opened(self, store: Any) -> Any:
        await store.open(shared=False)
        yield
        await store.close()

    @staticmethod
    def new(upload_id: str = "a", length: int | None = 5, **facts: Any) -> Upload:
        created = datetime.now(UTC).replace(microsecond=0)
        return Upload(upload_id=upload_id, offset=0, length=length, created=created, **facts)

    @staticmethod
    async def bytes_of(store: Any, upload: Upload) -> bytes:
        if not isinstance(store, ReadableStore):
            pytest.skip("its bytes cannot be read back")
        pieces = [piece async for piece in store.read(upload, 0, upload.offset)]
        return b"".join(pieces)

    async def complete(self, store: Any, upload_id: str, data: bytes, **facts: Any) -> Upload:
        _need(store, CreationStore)
        upload: Upload = await store.create(self.new(upload_id, len(data), **facts), arrived(data))
        assert upload.complete
        return upload

    # Creation

    async def test_what_is_created_can_be_got(self, store: Any) -> None:
        _need(store, CreationStore)
        upload = self.new(metadata="filename aGk=,empty", concat=Partial(), concat_header="partial")
        assert await store.create(upload, arrived()) == upload
        assert await store.get("a") == upload

    async def test_unknown_upload(self, store: Any) -> None:
        with pytest.raises(UploadNotFound):
            await store.get("nothing")

    @pytest.mark.parametrize("upload_id", ["..", "a/b", "a.info", "", "a" * 65, "ä"])
    async def test_what_is_no_id_is_no_upload(self, store: Any, upload_id: str) -> None:
        with pytest.raises(UploadNotFound):
            await store.get(upload_id)

    async def test_an_id_is_given_once(self, store: Any) -> None:
        before = await self.complete(store, "a", b"hello")
        with pytest.raises(UploadExists):
            await store.create(self.new(length=3), arrived(b"bye"))
        assert await store.get("a") == before
        assert await self.bytes_of(store, before) == b"hello"

    async def test_creation_with_all_bytes(self, store: Any) -> None:
        upload = await self.complete(store, "a", b"hello")
        assert await store.get("a") == upload
        assert await self.bytes_of(store, upload) == b"hello"

    async def test_creation_leaves_a_body_that_is_still_coming(self, store: Any) -> None:
        _need(store, CreationStore)
        body = streamed(b"he", b"llo")
        upload = await store.create(self.new(), body)
        assert upload.offset == 0
        assert (await store.append(upload, body)).complete

    async def test_empty_upload_is_complete(self, store: Any) -> None:
        assert await self.bytes_of(store, await self.complete(store, "a", b"")) == b""

    async def test_what_the_application_set_is_kept(self, store: Any) -> None:
        _need(store, CreationStore)
        metadata = {"user": b"\x00\xff", "flag": None}
        await store.create(self.new(app_metadata=metadata), arrived())
        assert (await store.get("a")).app_metadata == metadata

    # Append

    async def test_append_piece_by_piece(self, store: Any) -> None:
        _need(store, CreationStore)
        upload = await store.create(self.new(), arrived())
        upload = await store.append(upload, streamed(b"he", b"l"))
        assert (upload.offset, upload.complete) == (3, False)
        upload = await store.append(await store.get("a"), arrived(b"lo"))
        assert upload == await store.get("a")
        assert upload.complete
        assert await self.bytes_of(store, upload) == b"hello"

    async def test_append_of_much(self, store: Any) -> None:
        _need(store, CreationStore)
        data = bytes(range(256)) * (LARGE // 256) + b"x" * (LARGE % 256)
        pieces = [data[at : at + 99_991] for at in range(0, LARGE, 99_991)]
        upload = await store.create(self.new(length=LARGE), arrived())
        upload = await store.append(upload, streamed(*pieces))
        assert upload.complete
        assert await self.bytes_of(store, upload) == data

    async def test_what_came_is_kept(self, store: Any) -> None:
        _need(store, CreationStore)
        upload = await store.create(self.new(), arrived())
        body = streamed(b"he", error=BodyCutShort())
        assert (await store.append(upload, body)).offset == 2
        assert isinstance(body.error, BodyCutShort)
        assert (await store.get("a")).offset == 2

    # Checksum

    async def test_right_checksum(self, store: Any) -> None:
        _need(store, ChecksumStore)
        for upload_id, body in (
            ("a", arrived(b"hello", checksum=sha1_of(b"hello"))),
            ("b", streamed(b"hel", b"lo", checksum=sha1_of(b"hello"))),
        ):
            upload = await store.create(self.new(upload_id), arrived())
            upload = await store.append(upload, body)
            assert (upload.complete, upload.unverified, body.error) == (True, False, None)
            assert await store.get(upload_id) == upload

    async def test_unverified_bytes_never_look_accepted(self, store: Any) -> None:
        _need(store, ChecksumStore)
        upload = await store.create(self.new(), arrived(b"he"))
        body = streamed(b"llx", checksum=sha1_of(b"llo"))
        await store.append(upload, body)
        assert body.error is not None
        seen = await store.get("a")
        assert (seen.offset, seen.complete) == (2, False)
        after = await store.rewind(upload)
        assert (after.offset, after.unverified) == (2, False)
        assert await store.rewind(upload) == after == await store.get("a")
        right = streamed(b"llo", checksum=sha1_of(b"llo"))
        assert (await store.append(after, right)).complete

    async def test_wrong_checksum_of_bytes_that_are_there(self, store: Any) -> None:
        _need(store, ChecksumStore)
        wrong = arrived(b"hello", checksum=sha1_of(b"other"))
        upload = await store.create(self.new(), wrong)
        assert upload.offset == 0
        assert (await store.rewind(upload)).offset == 0
        wrong = arrived(b"hello", checksum=sha1_of(b"other"))
        await store.append(upload, wrong)
        assert (await store.rewind(upload)).offset == 0
        assert (await store.get("a")).offset == 0

    # Deferred length

    async def test_length_declared_later(self, store: Any) -> None:
        _need(store, DeferLengthStore)
        upload = await store.create(self.new(length=None), arrived())
        assert (await store.get("a")).length is None
        upload = await store.append(upload, arrived(b"hello"))
        assert not upload.complete
        upload = await store.declare_length(upload, 5)
        assert upload.complete
        assert await store.get("a") == upload

    async def test_length_that_is_declared_by_the_append_itself(self, store: Any) -> None:
        _need(store, DeferLengthStore)
        upload = await store.create(self.new(length=None), arrived())
        upload = await store.append(replace(upload, length=5), arrived(b"hello"))
        assert (upload.length, upload.complete) == (5, True)
        assert (await store.get("a")).length is None
        await store.declare_length(upload, 5)
        assert await store.get("a") == upload

    # Finish

    async def test_outcome_is_recorded(self, store: Any) -> None:
        upload = await self.complete(store, "a", b"hello")
        outcome = Outcome(200, {"X-Job": "7"}, b"\x00done")
        upload = await store.finish(upload, outcome)
        assert upload.outcome == outcome
        assert await store.get("a") == upload
        assert await self.bytes_of(store, upload) == b"hello"

    # Termination and expiration

    async def test_terminated_upload_is_gone(self, store: Any) -> None:
        _need(store, TerminationStore)
        upload = await self.complete(store, "a", b"hello")
        await store.terminate(upload)
        with pytest.raises(UploadNotFound):
            await store.get("a")
        await self.complete(store, "a", b"other")

    async def test_only_what_is_due_has_expired(self, store: Any) -> None:
        _need(store, ExpirationStore)
        now = datetime.now(UTC).replace(microsecond=0)
        hour = timedelta(hours=1)
        await store.create(self.new("due", expires=now), arrived(b"he"))
        await store.create(self.new("later", expires=now + 2 * hour), arrived(b"he"))
        await store.create(self.new("never"), arrived(b"he"))
        await self.complete(store, "complete", b"hello", expires=now)
        for _ in range(2):  # what is left is given again
            assert [found async for found in store.expired(now + hour)] == ["due"]
        await store.terminate(await store.get("due"))
        assert [found async for found in store.expired(now + hour)] == []
        assert [found async for found in store.expired(now + 3 * hour)] == ["later"]

    async def test_sliding_expiry_counts_from_the_last_byte(self, store: Any) -> None:
        _need(store, ExpirationStore)
        hour = timedelta(hours=1)
        now = datetime.now(UTC)
        upload = await store.create(self.new(lifetime=hour, expires=now + hour), arrived())
        upload = await store.append(upload, arrived(b"he"))
        assert upload.expires is not None
        assert abs(upload.expires - (datetime.now(UTC) + hour)) < timedelta(seconds=5)
        assert [found async for found in store.expired(now + hour / 2)] == []
        assert [found async for found in store.expired(now + 2 * hour)] == ["a"]

    # Concatenation

    async def test_final_of_repeated_parts(self, store: Any) -> None:
        _need(store, ConcatenationStore)
        one = await self.complete(store, "one", b"hello", concat=Partial(), concat_header="partial")
        two = await self.complete(store, "two", b" you", concat=Partial(), concat_header="partial")
        final = await self.final(store, one, two, one)
        assert (final.complete, final.length, final.offset) == (True, 14, 14)
        assert await store.get("final") == final
        assert await self.bytes_of(store, final) == b"hello youhello"
        assert await store.get("one") == one

    async def test_waiting_final(self, store: Any) -> None:
        _need(store, ConcatenationStore)
        one = await self.complete(store, "one", b"hello", concat=Partial(), concat_header="partial")
        two = await store.create(self.new("two", concat=Partial()), arrived())
        final = self.new("final", length=10, concat=Final(("one", "two")))
        final = await store.create(final, Body(EmptySource(), limit=0))
        assert not (await store.get("final")).complete
        assert list(await store.waiting_for("two")) == ["final"]
        assert list(await store.waiting_for("final")) == []
        assert list(await store.waiting()) == ["final"]
        two = await store.append(two, arrived(b"again"))
        done = await store.concatenate(final, [one, two], lambda: False)
        assert done.complete
        assert await self.bytes_of(store, done) == b"helloagain"
        assert list(await store.waiting_for("two")) == list(await store.waiting()) == []

    async def test_stopped_concatenation_leaves_nothing(self, store: Any) -> None:
        _need(store, ConcatenationStore)
        one = await self.complete(store, "one", b"hello", concat=Partial(), concat_header="partial")
        final = self.new("final", length=5, concat=Final(("one",)))
        with pytest.raises(InterruptedError):
            await store.concatenate(final, [one], lambda: True)
        with pytest.raises(UploadNotFound):
            await store.get("final")
        assert (await self.final(store, one)).complete

    async def test_final_does_not_replace_an_upload(self, store: Any) -> None:
        _need(store, ConcatenationStore)
        one = await self.complete(store, "one", b"hello", concat=Partial(), concat_header="partial")
        before = await self.complete(store, "final", b"mine")
        with pytest.raises(UploadExists):
            await self.final(store, one)
        assert await store.get("final") == before
        assert await self.bytes_of(store, before) == b"mine"

    async def final(self, store: Any, *parts: Upload) -> Upload:
        ids = tuple(part.upload_id for part in parts)
        final = self.new(
            "final",
            length=sum(part.offset for part in parts),
            concat=Final(ids),
            concat_header=f"final;{' '.join(ids)}",
        )
        done: Upload = await store.concatenate(final, parts, lambda: False)
        return done

    # Reading

    async def test_a_range_is_read(self, store: Any) -> None:
        _need(store, ReadableStore)
        upload = await self.complete(store, "a", b"hello world")
        pieces = [piece async for piece in store.read(upload, 3, 8)]
        assert b"".join(pieces) == b"lo wo"
        async with store.reader(upload) as file:
            assert await file.read() == b"hello world"

    async def test_snapshot_does_not_change(self, store: Any) -> None:
        _need(store, CreationStore)
        before = await store.create(self.new(), arrived())
        copy = replace(before)
        await store.append(before, arrived(b"he"))
        assert before == copy


def _need(store: Any, capability: type[Any]) -> None:
    if not isinstance(store, capability):
        pytest.skip(f"not a {capability.__name__}")
