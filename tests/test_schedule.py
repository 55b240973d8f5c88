from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import islice

import pytest

from shared.schedule import fires, shortest_interval_s
from shared.settings import DEFAULT_SCHEDULE, DEFAULT_SCHEDULE_INTERVAL_S


@pytest.mark.parametrize(
    ("schedule", "interval_s"),
    [
        ("*/20 * * * * *", 20),
        ("*/7 * * * * *", 4),
        ("0 * * * * *", 60),
        ("0 */5 * * * *", 300),
        ("0,10,59 * * * * *", 1),
        ("* * * * * *", 1),
        ("30 9-17 * * *", 3600),
        ("0 0 3 * * *", 86_400),
        ("00:00:05", 5),
        ("01:00:00", 3600),
        ("1.00:00:00", 86_400),
    ],
)
def test_the_shortest_interval_of_a_schedule(schedule: str, interval_s: float) -> None:
    assert shortest_interval_s(schedule) == interval_s


@pytest.mark.parametrize(
    "schedule", ["", "* * *", "*/20", "every minute", "61 * * * * *", "* * * * * * *", "0 0 30 2 * *"]
)
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError):
        shortest_interval_s(schedule)


def test_the_default_schedules_interval_is_written_down_right() -> None:
    """So that a cold start need not work it out."""
    assert shortest_interval_s(DEFAULT_SCHEDULE) == DEFAULT_SCHEDULE_INTERVAL_S


@pytest.mark.parametrize(("schedule", "step_s"), [("*/20 * * * * *", 20), ("00:00:20", 20)])
def test_fires_follow_each_other_at_the_interval(schedule: str, step_s: int) -> None:
    after = datetime(2024, 5, 1, tzinfo=timezone.utc)
    assert list(islice(fires(schedule, after), 3)) == [after + timedelta(seconds=step_s * n) for n in (1, 2, 3)]
