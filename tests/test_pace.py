"""How much must come in which time."""

from __future__ import annotations

import pytest

from aiotus_server.pace import Pace
from aiotus_server.protocol.errors import BodyTooSlow


@pytest.mark.parametrize("late", [0.0, 0.9], ids=["when the window ends", "later"])
@pytest.mark.parametrize(("rate", "enough"), [(1100, True), (900, False)])
def test_the_average_counts_whenever_somebody_looks(late: float, rate: int, enough: bool) -> None:
    pace = Pace(1000, 2.0)
    seconds = 2.0 + late
    for _ in range(3):
        pace.came(int(rate * seconds))
        pace.waited(seconds)
        if enough:
            pace.check()
        else:
            with pytest.raises(BodyTooSlow):
                pace.check()
            return


def test_nothing_is_judged_before_a_window_has_ended() -> None:
    pace = Pace(1000, 2.0)
    pace.waited(1.9)
    pace.check()
    assert pace.patience == pytest.approx(0.1)
