"""How often a schedule fires: NCRONTAB as Azure Functions reads it (six fields, seconds first), or a time span."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import count, islice, pairwise

_TIME_SPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})")
_FIRES_LOOKED_AT = 120


def shortest_interval_s(schedule: str) -> float:
    """The shortest time in seconds between two fires of ``schedule``.

    Six fields begin with the seconds; five fields begin with the minutes; ``[d.]hh:mm:ss`` is a fixed interval.

    Raises:
        ValueError: the schedule cannot be read, or fires less than twice.
    """
    span = _time_span(schedule)
    if span:
        return span.total_seconds()
    # Imported here: only a schedule that is not the default needs it (see settings.py), and a cold start pays for imports.
    from cronsim import CronSim, CronSimError

    if len(schedule.split()) not in (5, 6):
        raise ValueError("expected six fields, seconds first")
    try:
        fires = list(islice(CronSim(schedule, datetime(2024, 1, 1, tzinfo=timezone.utc)), _FIRES_LOOKED_AT))
    except CronSimError as error:
        raise ValueError(str(error)) from None
    if len(fires) < 2:
        raise ValueError("it never fires twice")
    return min((later - earlier).total_seconds() for earlier, later in pairwise(fires))


def fires(schedule: str, after: datetime) -> Iterator[datetime]:
    """When ``schedule`` fires after that time, one fire after the other.

    Where both a day of the month and a day of the week are given, either is enough here, while Azure wants both.

    Raises:
        ValueError: the schedule cannot be read.
    """
    span = _time_span(schedule)
    if span:
        return (after + span * number for number in count(1))
    from cronsim import CronSim, CronSimError

    try:
        return iter(CronSim(schedule, after))
    except CronSimError as error:
        raise ValueError(str(error)) from None


def _time_span(schedule: str) -> timedelta | None:
    match = _TIME_SPAN.fullmatch(schedule)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
