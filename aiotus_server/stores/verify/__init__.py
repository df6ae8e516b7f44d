"""Whether a disk store is sound, and how it is mended.

A verification only reads, takes no lock, and may run beside a server: what looks wrong is
looked at again before it is a finding. A repair holds the store, and each upload's lock while
it looks once more and mends.
"""

from .findings import KINDS, Finding, Kind, Repair, Severity
from .repair import Mended, repair
from .verification import Verification

__all__ = [
    "KINDS",
    "Finding",
    "Kind",
    "Mended",
    "Repair",
    "Severity",
    "Verification",
    "repair",
]
