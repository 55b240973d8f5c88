"""What your own code needs to work beside the janitor: entries and results for a handler, a lease for a consumer.

A handler is called with the entries that a crashed consumer left behind, and says what became of each::

    from stream_janitor import Dead, Done, Entry, Retry, Unavailable

    async def handle(entries: list[Entry]) -> dict[str, Done | Retry | Dead] | None:
        for entry in entries:
            await charge(entry.json("order"), key=f"{entry.stream}/{entry.entry_id}")
        return None  # all are done

Every entry is delivered **at least once**: the process may end after your work and before the acknowledgement, a timeout
may be followed by your late success, and a slow consumer may still be at it. So make the work repeatable. ``(stream,
entry_id)`` names an entry for good: use it as the idempotency key of a payment, as a unique column of a table, as the name
of a file.

Nothing here imports the janitor itself, so a consumer needs this package and redis-py, and no more.
"""

from __future__ import annotations

from stream_janitor.entry import Entry
from stream_janitor.lease import Lease, keep
from stream_janitor.results import Dead, Done, Retry, Unavailable

__version__ = "0.1.0"
__all__ = ["Dead", "Done", "Entry", "Lease", "Retry", "Unavailable", "__version__", "keep"]
