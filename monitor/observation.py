"""What ACTION=observe saw: how much is abandoned and for how long, and what each action would do with a sample of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from monitor.forecast import Forecast, in_words
from monitor.pending import PendingEntry

IDLE_BOUNDS_S: Final = (60, 600, 3600, 86_400)
IDLE_NAMES: Final = ("< 1 min", "< 10 min", "< 1 h", "< 1 d", "1 d and more")


@dataclass(frozen=True, slots=True)
class Observation:
    """One look, as the report has it."""

    abandoned: int
    """Entries idle for at least the minimum idle time, when the list was last walked."""
    walked_s_ago: float
    """How long ago that was: at most once a minute."""
    is_whole: bool
    """That walk came to the list's end."""
    idle: Mapping[str, int]
    """For how long they had been idle → how many."""
    sample: int
    """Of how many of them the fields were read this time; the next sweep reads those that follow."""
    would: Mapping[str, Mapping[str, int]]
    """Action → what it would do with the sample, and why → how many."""
    would_remove_consumers: int | None
    """REAP_CONSUMERS_AFTER_SEC; None: off, or not to be seen by this user (+xinfo|consumers)."""
    notes: tuple[str, ...] = ()
    """What would end a sweep of another action."""

    def parts(self) -> Iterable[str]:
        """For the report's line."""
        at_least = "" if self.is_whole else "at least "
        idle = ", ".join(f"{count} {name}" for name, count in self.idle.items() if count)
        yield f"observing: {at_least}{self.abandoned} abandoned{f' (idle {idle})' if idle else ''}"
        for action, outcomes in self.would.items():
            told = ", ".join(f"{count} {_spaced(label)}" for label, count in outcomes.items())
            yield f"{action}, of a sample of {self.sample}: {told}"
        if self.would_remove_consumers:
            yield f"{self.would_remove_consumers} dead consumers would be removed"
        yield from self.notes


def _spaced(label: str) -> str:
    """``dead_lettered (no id field)`` as reports have it: the outcome's name with blanks."""
    outcome, space, reason = label.partition(" ")
    return f"{outcome.replace('_', ' ')}{space}{reason}"


@dataclass(slots=True)
class Walked:
    """What a walk over the whole list counted."""

    at_s: float
    """By this machine's monotonic clock."""
    abandoned: int = 0
    is_whole: bool = False
    idle: list[int] = field(default_factory=lambda: [0] * len(IDLE_NAMES))

    def count(self, entries: Sequence[PendingEntry]) -> None:
        self.abandoned += len(entries)
        for entry in entries:
            self.idle[sum(entry.idle_ms >= 1000 * bound for bound in IDLE_BOUNDS_S)] += 1


@dataclass(slots=True)
class Observing:
    """What one sweep leaves to the next."""

    cursor: bytes | None = None
    """Where the next sample begins; None: at the list's head."""
    walked: Walked | None = None


def summed(forecasts: Mapping[str, Iterable[Forecast]]) -> dict[str, dict[str, int]]:
    """Action → outcome and reason → how many, the most frequent first."""
    return {action: dict(Counter(in_words(one) for one in ones).most_common()) for action, ones in forecasts.items()}
