"""All looks at a store, one after the other, each suspect twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .apart import Expiry, Finals, Finishing, Joining, Unverified, Waiting
from .folders import Folders
from .survey import Counts, Look, Survey
from .uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layout import View
    from .findings import Finding

PAUSE = 1.0  # seconds, in which a server ends what it was just doing


class Verification:
    """Of the store in ``view``. Blocking.

    The order of ``looks`` matters to a repair: what one moves is no finding of a later one.
    """

    def __init__(self, view: View) -> None:
        survey = Survey(view)
        self.counts: Counts = survey.counts
        self.looks: tuple[Look, ...] = (
            Folders(survey),
            Uploads(survey),
            Finals(survey),
            Waiting(survey),
            Unverified(survey),
            Finishing(survey),
            Joining(survey),
            Expiry(survey),
        )

    def findings(self) -> Iterator[Finding]:
        """Reads the whole store, and keeps little of it. Afterwards ``counts`` are complete."""
        for look in self.looks:
            for subject in self.suspects(look):
                yield from look.findings(subject)

    def suspects(self, look: Look) -> list[str]:
        """What looked wrong a moment ago."""
        suspects = list(look.suspects())
        if suspects:
            time.sleep(PAUSE)
        return suspects
