"""Damaged uploads, met by whoever holds the lock: they are put out of the way, and for clients
there is no such upload. Without the lock an upload that is being made looks damaged too."""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

from .disk_errors import disk_errors
from .protocol.errors import UploadDamaged, UploadExists, UploadNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .protocol.uploads import Upload
    from .stores.base import Store

_log = getLogger("aiotus_server")


async def get_held(store: Store, upload_id: str) -> Upload:
    """``store.get``, under the upload's lock. Raises UploadNotFound."""
    try:
        with disk_errors():
            return await store.get(upload_id)
    except UploadDamaged as damage:
        try:
            await store.quarantine(upload_id)
        except OSError as error:
            _log.error(
                "The upload %s is damaged: %s; it stays where it is: %s",
                upload_id,
                damage.why,
                error,
            )
        raise


async def create_held(
    store: Store, upload_id: str, create: Callable[[], Awaitable[Upload]]
) -> Upload:
    """What ``create`` makes, under the upload's lock. Raises UploadExists if there is such an
    upload; what is only left of one is not in the way."""
    try:
        with disk_errors():
            return await create()
    except UploadExists:
        try:
            await get_held(store, upload_id)
        except UploadNotFound:
            with disk_errors():
                return await create()
        raise
