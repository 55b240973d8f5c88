"""What a handler says of an entry."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The entry's work is done for good, so it is acknowledged. ``Done`` and ``Done()`` mean the same."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not done: call again later. This was an attempt, and MAX_DELIVERIES caps how many there are."""

    after_s: float | None = None
    """Seconds until the next call at the earliest; None: when the janitor's own backoff says."""
    reason: str = ""
    """Stands in the report and in logs: name the cause, and quote nothing of the entry."""

    def __post_init__(self) -> None:
        _check_seconds(self.after_s)


@dataclass(frozen=True, slots=True)
class Dead:
    """Can never be done: the entry is moved to the dead-letter stream."""

    reason: str
    """Stands in the dead letter, in the report and in logs: name the cause, and quote nothing of the entry."""


class Unavailable(Exception):
    """What the work needs is out of reach (a database is down), and no entry is at fault. Raise it, or return it.

    It is no attempt: the delivery count is set back, no further call starts for the stream in this sweep, the sweep fails
    and reports ``reason``, and the next one tries one call first. So an outage never dead-letters anything, however long.
    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        """``after_s``: seconds until the next call at the earliest; None: when the entry would be due anyway."""
        _check_seconds(after_s)
        super().__init__(reason, after_s)
        self.reason = reason
        self.after_s = after_s

    def __str__(self) -> str:
        return self.reason


def _check_seconds(after_s: float | None) -> None:
    if after_s is not None and not (math.isfinite(after_s) and after_s >= 0):
        raise ValueError("after_s has to be a number of seconds, 0 or more")
