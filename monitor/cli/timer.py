"""When ``run`` sweeps next: the schedule's fires, waited for by the monotonic clock, so that a wall clock that is set back
stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final, NamedTuple

from shared.schedule import fires

STEP_S: Final = 2.0
"""By how much the wall clock has to leave the monotonic one for it to be said."""


class Look(NamedTuple):
    left_s: float
    """Until the next fire; 0 or less: now."""
    step_s: float
    """By how much the wall clock was set since the last look; 0 for what a clock drifts."""


class Timer:
    """One schedule. ``look`` again and again; ``fired`` once a sweep begins."""

    def __init__(
        self,
        schedule: str,
        wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = schedule
        self._wall = wall
        self._monotonic = monotonic
        self._last: tuple[datetime, float] = (wall(), monotonic())
        self._after = self._last[0]
        self._due: tuple[datetime, float] | None = None

    def look(self) -> Look:
        """How long to wait, reckoned anew from the wall clock where that was set."""
        wall, now_s = self._wall(), self._monotonic()
        step_s = (wall - self._last[0]).total_seconds() - (now_s - self._last[1])
        self._last = (wall, now_s)
        is_set = abs(step_s) >= STEP_S
        if is_set:
            self._after, self._due = wall, None
        if self._due is None:
            due = next(fires(self._schedule, max(self._after, wall)))
            self._due = due, now_s + (due - wall).total_seconds()
        return Look(self._due[1] - now_s, step_s if is_set else 0.0)

    def fired(self) -> None:
        """The fire that was due is taken: the next one is after it, also if the wall clock is a little behind."""
        assert self._due is not None
        self._after, self._due = self._due[0], None
