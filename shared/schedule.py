"""How often a schedule fires: NCRONTAB as Azure Functions reads it (six fields, seconds first), or a time span."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise

_TIME_SPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})")
_FIRES_LOOKED_AT = 120


def shortest_interval_s(schedule: str) -> float:
    """The shortest time in seconds between two fires of ``schedule``.

    Six fields begin with the seconds; five fields begin with the minutes; ``[d.]hh:mm:ss`` is a fixed interval.

    Raises:
        ValueError: the schedule cannot be read, or fires less than twice.
    """
    span = _TIME_SPAN.fullmatch(schedule)
    if span:
        days, hours, minutes, seconds = (int(part or 0) for part in span.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
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
