"""The verdicts of a sweep: no I/O, no clock, so that each can be read and tested by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from monitor.pending import LAST, PendingEntry, Summary, milliseconds_of

LONGEST_ID_BYTES: Final = 1024

NO_ID: Final = "no_id"
EMPTY_ID: Final = "empty_id"
LONG_ID: Final = "long_id"
WRONG_TYPE: Final = "wrong_type"

FAULTS_EXPLAINED: Final = {
    NO_ID: "no id field",
    EMPTY_ID: "empty id",
    LONG_ID: f"id over {LONGEST_ID_BYTES} bytes",
    WRONG_TYPE: "hash key holds another type",
}
"""The faults that are certain at once: trying again cannot help. Any other is an unknown error."""


def is_abandoned(idle_ms: int, min_idle_ms: int) -> bool:
    """Idle for at least the minimum idle time, or released by its consumer (XNACK: idle -1)."""
    return idle_ms >= min_idle_ms or idle_ms < 0


def abandoned(rows: Sequence[Sequence[bytes | int]], min_idle_ms: int) -> list[PendingEntry]:
    """The rows of a page that nobody works on any more."""
    make = PendingEntry._make  # a million rows pass through here: the verdict is is_abandoned's, written out
    return [make(row) for row in rows if row[2] >= min_idle_ms or row[2] < 0]  # type: ignore[operator]


def last_id_worth_reading(summary: Summary, now_ms: int, min_idle_ms: int) -> bytes:
    """Where the walk may end: an entry cannot have been idle for longer than it has lived, and its id is its birth time.

    Ids that lie ahead of the server's clock were not made by it, so nothing can be told from them: read to the end. An
    entry that was released early (XCLAIM … IDLE, XNACK) is found once it is itself ``min_idle_ms`` old.
    """
    if summary.greatest_id is None or milliseconds_of(summary.greatest_id) > now_ms:
        return LAST
    return b"%d" % max(now_ms - min_idle_ms, 0)


def hash_id(fields: Sequence[bytes], id_fields: Sequence[bytes]) -> tuple[bytes, None] | tuple[None, str]:
    """What follows the prefix in the entry's hash key, or None and the entry's fault.

    ``fields`` holds names and values in turn; of a field that is there twice the last value counts. Several id fields are
    joined by ``:``, with ``%`` and ``:`` inside a value percent-escaped, so that no two ids collide.
    """
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    parts = [values.get(name) for name in id_fields]
    if None in parts:
        return None, NO_ID
    if b"" in parts:
        return None, EMPTY_ID
    if len(parts) > 1:
        parts = [part.replace(b"%", b"%25").replace(b":", b"%3A") for part in parts if part is not None]
    joined = b":".join(part for part in parts if part is not None)
    return (joined, None) if len(joined) <= LONGEST_ID_BYTES else (None, LONG_ID)
