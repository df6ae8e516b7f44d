"""Whether a body comes fast enough."""

from __future__ import annotations

from .protocol.errors import BodyTooSlow


class Pace:
    """What came in one window after the other, ``window`` seconds of waiting each.

    Only the time counts in which somebody waited for the client: a slow disk or hook is not the
    client's. ``rate`` is in bytes a second, 0 for no minimum.
    """

    __slots__ = ("_came", "_rate", "_waited", "_window")

    def __init__(self, rate: int, window: float) -> None:
        self._rate = rate
        self._window = window
        self._waited = 0.0
        self._came = 0

    @property
    def patience(self) -> float | None:
        """Seconds until there is something to judge; None for ever."""
        return self._window - self._waited if self._rate else None

    def came(self, size: int) -> None:
        self._came += size

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def check(self) -> None:
        """Raises BodyTooSlow when a window has ended in which too little came."""
        if not self._rate or self._waited < self._window:
            return
        # Nobody may have looked just when the window ended.
        if self._came < self._rate * self._waited:
            raise BodyTooSlow(self._rate)
        self._waited, self._came = 0.0, 0
