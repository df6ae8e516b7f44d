"""How durable a disk store is."""

from __future__ import annotations

from enum import Enum


class Durability(Enum):
    """When bytes, info file and folders are flushed to the disk.

    ``none``: when the kernel likes. ``complete``: before the last byte of an upload is
    acknowledged and its finish hooks run. ``always``: before every success is acknowledged.
    A crash of the process alone loses nothing acknowledged under any of them.
    """

    NONE = "none"
    COMPLETE = "complete"
    ALWAYS = "always"
