"""What a store can do: one abstract base class per extension of the protocol.

A store inherits the capabilities that it has; a missing or misspelt method stops it from
being made. The server calls every method under the upload's lock, but for ``get`` and the
methods of ReadableStore, and never cancels one. Whatever fails, ``get`` tells the truth
afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiofiles.tempfile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from datetime import datetime

    from ..body import Body
    from ..protocol.uploads import Outcome, Upload


class Store(ABC):
    """The core protocol: uploads that exist are told about and appended to.

    An OSError from any method means that the disk, or what stands for it, refused; the server
    answers 507 or 500 and goes on.
    """

    async def open(self, *, shared: bool) -> None:  # noqa: B027 - most have nothing to open
        """Called once before the first use. ``shared`` says that other processes may use the
        store at the same time. Raises StoreUnavailable."""

    async def close(self) -> None:  # noqa: B027
        """Called when the server stops; ``open`` may follow."""

    async def free_space(self) -> int | None:
        """Bytes that can still be stored, None where that is not known."""
        return None

    @abstractmethod
    async def get(self, upload_id: str) -> Upload:
        """The upload as it is now. Raises UploadNotFound, or UploadDamaged if there is only
        something of it.

        ``unverified`` is true while an append with a checksum is under way or if one was cut
        off by a crash; ``offset`` is then where it began.
        """

    async def quarantine(self, upload_id: str) -> None:  # noqa: B027 - most know no damage
        """Put what there is of a damaged upload out of the way, and log it. Nothing of it is
        lost; ``get`` then raises UploadNotFound, and the id can be used again.

        Called when ``get`` raised UploadDamaged; does nothing if the upload is not damaged.
        """

    @abstractmethod
    async def append(self, upload: Upload, body: Body) -> Upload:
        """Store what ``body`` yields from ``upload.offset`` on, and return the new snapshot.

        ``upload`` is what ``get`` returned under the same lock; its length may have been
        declared since (see DeferLengthStore). A body that ended early has been stored as far
        as it came: this method does not look at why. What would leave less than ``body.reserve``
        bytes free is refused with an OSError, as by a full disk. The bytes of an ``atomic`` body must not
        count before it ended without an error: not for ``get``, not after a crash. If it ended
        with one, the server calls ``rewind``.

        After an OSError ``get`` gives the offset up to which the bytes are there.
        """

    async def finish(self, upload: Upload, outcome: Outcome) -> Upload:
        """Record that the complete ``upload`` was finished, with ``outcome``.

        Publishes the bytes at ``upload.path`` if there is one. Called at most once per upload
        unless it raises, or a crash comes before it has returned.
        """
        return upload

    async def undelivered(self) -> Sequence[str]:
        """Ids of uploads that were given as ``finish_due`` and may have become complete, without
        a call of ``delivered`` after it.

        A store that outlives its process notes each before it has the last of the bytes; then
        no crash can come between an upload's end and the application that waits for it.
        """
        return ()

    async def is_undelivered(self, upload_id: str) -> bool:
        """Whether it was given as ``finish_due``, may have become complete, and has not been
        ``delivered``."""
        return upload_id in await self.undelivered()

    async def delivered(self, upload_id: str) -> None:  # noqa: B027
        """Forget the note. Doing it twice does no harm."""


class CreationStore(Store):
    """``creation`` and ``creation-with-upload``."""

    @abstractmethod
    async def create(self, upload: Upload, body: Body) -> Upload:
        """Make ``upload`` known, and return its snapshot.

        A body that has arrived whole (``body.buffered()``) is stored with it, as ``append``
        would; any other is left alone, and ``append`` follows. Raises UploadExists, and then
        neither the upload that was there nor the body has been touched. After any other error there is no upload.
        """


class DeferLengthStore(CreationStore):
    """``creation-defer-length``."""

    @abstractmethod
    async def declare_length(self, upload: Upload, length: int) -> Upload:
        """Record the length (bytes) of an upload that had none."""


class TerminationStore(Store):
    """``termination``."""

    @abstractmethod
    async def terminate(self, upload: Upload) -> None:
        """Forget the upload and free what it takes. Published bytes are the application's and
        stay."""


class ExpirationStore(TerminationStore):
    """``expiration``: uploads have ``expires``, or ``lifetime`` counted from the last byte."""

    @abstractmethod
    def expired(self, now: datetime) -> AsyncGenerator[str]:
        """The ids of unfinished uploads that were due at ``now``.

        They are found without reading those that are not due. One that is not terminated is
        given again the next time. While another sweep
        is under way there are none.
        """


class ChecksumStore(Store):
    """``checksum`` and ``checksum-trailer``: an append can be undone."""

    @abstractmethod
    async def rewind(self, upload: Upload) -> Upload:
        """Undo an append: only the bytes before ``upload.offset`` count from now on.

        Returns the snapshot after it, no longer ``unverified``. Doing it twice does no harm.
        """


class ConcatenationStore(CreationStore):
    """``concatenation`` and ``concatenation-unfinished``."""

    @abstractmethod
    async def concatenate(
        self, upload: Upload, parts: Sequence[Upload], stopped: Callable[[], bool]
    ) -> Upload:
        """Make the final ``upload`` of the bytes of ``parts``, in order, repeats included.

        The upload is either new or was created waiting. It appears complete or not at all;
        nothing of an attempt that failed is left. ``stopped`` is asked from time to time;
        once it is true, raises InterruptedError. The parts stay. Raises UploadExists when it
        should be new and is not.
        """

    @abstractmethod
    async def waiting_for(self, upload_id: str) -> Sequence[str]:
        """The ids of the finals that were created while this partial was unfinished, and have
        not been concatenated since."""

    @abstractmethod
    async def waiting(self) -> Sequence[str]:
        """The ids of all such finals, found without reading the uploads."""


class ReadableStore(Store):
    """The bytes of an upload can be read back."""

    @abstractmethod
    def read(self, upload: Upload, start: int, stop: int) -> AsyncGenerator[bytes]:
        """The bytes from ``start`` up to, not including, ``stop``, in pieces."""

    async def open_bytes(self, upload: Upload) -> int | None:
        """A descriptor of a file that begins with the bytes, for the kernel to send; the caller
        closes it. None if there is no such file. Raises UploadNotFound."""
        return None

    @asynccontextmanager
    async def reader(self, upload: Upload) -> AsyncIterator[Any]:
        """A file of the bytes, with aiofiles' interface, for hooks. The default copies them."""
        async with aiofiles.tempfile.TemporaryFile() as file:
            async for piece in self.read(upload, 0, upload.offset):
                await file.write(piece)
            await file.seek(0)
            yield file


def extensions_of(store: Store) -> frozenset[str]:
    """The extensions that the store's capabilities allow, by their names in Tus-Extension."""
    offered = {
        extension
        for capability, extensions in _extensions.items()
        if isinstance(store, capability)
        for extension in extensions
    }
    return frozenset(offered)


_extensions: dict[Any, tuple[str, ...]] = {
    CreationStore: ("creation", "creation-with-upload"),
    DeferLengthStore: ("creation-defer-length",),
    TerminationStore: ("termination",),
    ExpirationStore: ("expiration",),
    ChecksumStore: ("checksum", "checksum-trailer"),
    ConcatenationStore: ("concatenation", "concatenation-unfinished"),
}
