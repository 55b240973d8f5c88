"""``run``'s clock: fires of the schedule, whatever is done to the wall clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest

from monitor.cli.timer import Timer

START = datetime(2026, 5, 1, 12, 0, 1, tzinfo=timezone.utc)


class Clocks:
    def __init__(self) -> None:
        self.wall, self.now_s = START, 100.0
        self.timer = Timer("*/20 * * * * *", lambda: self.wall, lambda: self.now_s)

    def passes(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.now_s += seconds

    def fires_within(self, seconds: float) -> list[float]:
        """When it fires, by the monotonic clock, looked at each second as ``run`` does at its naps."""
        fired = []
        for _ in range(int(seconds)):
            if self.timer.look().left_s <= 0:
                self.timer.fired()
                fired.append(self.now_s)
            self.passes(1)
        return fired


def test_it_fires_by_the_schedule() -> None:
    clocks = Clocks()
    assert clocks.fires_within(60) == [119.0, 139.0, 159.0]


@pytest.mark.parametrize("step", [-3600, -30, 3600, 15])
def test_a_wall_clock_that_is_set_stops_nothing_and_is_said_once(step: int) -> None:
    clocks = Clocks()
    assert clocks.fires_within(30) == [119.0]
    clocks.wall += timedelta(seconds=step)
    assert clocks.timer.look().step_s == step
    assert clocks.timer.look().step_s == 0
    fired = clocks.fires_within(100)
    assert len(fired) in (4, 5), "no pause longer than the interval"
    assert max(later - earlier for earlier, later in zip([130.0, *fired], fired, strict=False)) <= 20


def test_the_schedule_by_the_wall_clock_alone_stops_for_an_hour() -> None:
    """Control: the next fire after whichever is later, the last one or now."""
    last = START + timedelta(seconds=19)
    set_back = last - timedelta(hours=1)
    assert (max(last, set_back) - set_back).total_seconds() == 3600


def test_a_wall_clock_that_drifts_fires_no_slot_twice() -> None:
    clocks = Clocks()
    fired = []
    for _ in range(600):
        if clocks.timer.look().left_s <= 0:
            clocks.timer.fired()
            fired.append(clocks.now_s)
        clocks.passes(0.2)
        clocks.wall -= timedelta(milliseconds=1)
    assert len(fired) == len({round(at) for at in fired})
    assert min(later - earlier for earlier, later in pairwise(fired)) > 19
