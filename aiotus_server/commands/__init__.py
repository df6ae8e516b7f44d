"""What operators do to the directory of a server, beside it or while it does not run.

``list``, ``show`` and ``verify`` only look, and take no lock. ``rm``, ``gc`` and ``verify
--repair`` hold the directory as a server would.
"""

from .listing import list_uploads
from .removing import gc, rm
from .showing import show
from .verifying import verify

__all__ = ["gc", "list_uploads", "rm", "show", "verify"]
