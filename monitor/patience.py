"""How long an entry has to be idle before a sweep takes it, and how often it may be delivered at all. Pure verdicts.

The entries of a batch share one threshold, so that a claim or a script that checks it again needs no rule of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from monitor.decide import abandoned
from monitor.outcomes import FATAL, MAX_DELIVERIES
from monitor.pending import PendingEntry
from shared.settings import StreamSettings

MOST_DOUBLINGS: Final = 64
FATAL_DELIVERIES: Final = 2**53
"""XNACK FATAL (Redis 8.8) sets the delivery count to 2^63 - 1; one more XCLAIM makes it negative. Lua sees doubles."""


class Group(NamedTuple):
    """Entries of one page that are claimed with the same minimum idle time."""

    entries: list[PendingEntry]
    is_capped: bool
    """They were delivered too often, and go to the dead-letter stream whatever the action."""


class Page(NamedTuple):
    """What a page of the pending entries list holds for this sweep."""

    groups: list[Group]
    waiting: int
    """Rows that are idle for the minimum idle time, but not yet for as long as RETRY_BACKOFF wants."""

    @property
    def found(self) -> int:
        """How many entries are due."""
        return sum(len(group.entries) for group in self.groups)


@dataclass(frozen=True, slots=True)
class Patience:
    """MIN_IDLE_TIME_SEC, RETRY_BACKOFF, RETRY_BACKOFF_MAX_SEC and MAX_DELIVERIES of one stream."""

    min_idle_ms: int
    backoff: float = 1.0
    backoff_max_ms: int = 0
    max_deliveries: int = 0
    """0: any number."""

    @classmethod
    def of(cls, settings: StreamSettings) -> Patience:
        return cls(settings.min_idle_ms, settings.retry_backoff, settings.retry_backoff_max_ms, settings.max_deliveries)

    def threshold_ms(self, deliveries: int) -> int:
        """For how long an entry that was delivered so often has to be idle."""
        if self.backoff == 1:
            return self.min_idle_ms
        grown = self.min_idle_ms * self.backoff ** min(max(deliveries - 1, 0), MOST_DOUBLINGS)
        return max(self.min_idle_ms, math.floor(min(grown, self.backoff_max_ms)))

    def is_due(self, idle_ms: int, deliveries: int) -> bool:
        """Idle for long enough, or released by its consumer (XNACK: idle -1)."""
        return idle_ms < 0 or idle_ms >= self.threshold_ms(deliveries)

    def cap_of(self, deliveries: int) -> str | None:
        """The fault of an entry that was delivered too often; None for the others."""
        if not 0 <= deliveries < FATAL_DELIVERIES:
            return FATAL
        return MAX_DELIVERIES if 0 < self.max_deliveries <= deliveries else None

    def sort(self, rows: Sequence[Sequence[bytes | int]], mixed: bool = False) -> Page:
        """The rows of a page that nobody works on any more, in groups; the others are too young, or waiting.

        ``mixed``: entries of several thresholds may stand in one group, as whoever claims them looks at each one's.
        """
        idle = abandoned(rows, self.min_idle_ms)
        due = idle
        if self.backoff != 1:
            due = [entry for entry in idle if self.is_due(entry.idle_ms, entry.deliveries)]
        return Page(self._grouped(due, mixed), len(idle) - len(due))

    def _grouped(self, due: list[PendingEntry], mixed: bool) -> list[Group]:
        if not due:
            return []
        counts = [entry[3] for entry in due]
        most = min(self.max_deliveries or FATAL_DELIVERIES, FATAL_DELIVERIES)
        if self.backoff == 1 and min(counts) >= 0 and max(counts) < most:
            return [Group(due, False)]
        groups: dict[tuple[bool, int], list[PendingEntry]] = defaultdict(list)
        for entry in due:
            is_capped = self.cap_of(entry.deliveries) is not None
            threshold_ms = 0 if mixed and not is_capped else self.threshold_ms(entry.deliveries)
            groups[is_capped, threshold_ms].append(entry)
        return [Group(entries, is_capped) for (is_capped, _), entries in groups.items()]
