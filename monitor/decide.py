"""The verdicts of a sweep: no I/O, no clock, so that each can be read and tested by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from monitor.pending import LAST, PendingEntry, Summary, milliseconds_of


def is_abandoned(idle_ms: int, min_idle_ms: int) -> bool:
    """Idle for at least the minimum idle time, or released by its consumer (XNACK: idle -1)."""
    return idle_ms >= min_idle_ms or idle_ms < 0


def abandoned(rows: Sequence[Sequence[bytes | int]], min_idle_ms: int) -> list[PendingEntry]:
    """The rows of a page that nobody works on any more."""
    make = partial(tuple.__new__, PendingEntry)  # a million rows pass through here: is_abandoned and _make, written out
    return [make(row) for row in rows if row[2] >= min_idle_ms or row[2] < 0]  # type: ignore[operator]


def last_id_worth_reading(summary: Summary, now_ms: int, min_idle_ms: int) -> bytes:
    """Where the walk may end: an entry cannot have been idle for longer than it has lived, and its id is its birth time.

    Ids that lie ahead of the server's clock were not made by it, so nothing can be told from them: read to the end. An
    entry that was released early (XCLAIM … IDLE, XNACK) is found once it is itself ``min_idle_ms`` old.
    """
    if summary.greatest_id is None or milliseconds_of(summary.greatest_id) > now_ms:
        return LAST
    return b"%d" % max(now_ms - min_idle_ms, 0)
