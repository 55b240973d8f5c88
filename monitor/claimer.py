"""Entries that are about to be moved from here: read, claimed with the minimum idle time, and what was lost on the way.

The claim is confirmed by as many replicas as ACK_REPLICAS asks for, before anything is added anywhere: while a replica is
away, each sweep would add another copy of what cannot be acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monitor.batch import Batch
from monitor.fetch import Fetch
from monitor.pending import PendingEntry
from monitor.portion import Portion
from monitor.trace_fields import split_from_trace
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

LARGEST: Final = 128


@dataclass(slots=True)
class Claimed:
    """What became of a batch so far, and what is ours to move."""

    batch: Batch
    entries: Sequence[PendingEntry]
    """Those of the batch."""
    held: list[tuple[PendingEntry, list[bytes]]]
    """Names and values in turn, byte for byte."""
    missing: list[bytes]
    """Not in the stream; ``take_off`` says what they are."""


class Claimer:
    """Reads and claims for one stream and group. ``portion.size`` says how many to give it."""

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        self._telemetry = telemetry
        self._fetch = Fetch(link, settings, LARGEST, telemetry, replicas=settings.ack_replicas)

    @property
    def portion(self) -> Portion:
        return self._fetch.portion

    async def claim(self, entries: Sequence[PendingEntry]) -> Claimed:
        """Read ``entries``, which share a threshold, and claim those that are there and still idle; safe to repeat.

        Raises:
            redis.exceptions.RedisError: any of them may be claimed.
        """
        entries = self._fetch.portion_of(entries)
        batch = Batch(len(entries))
        fetched = await self._fetch.fetch(entries, batch)
        claimed = Claimed(batch, entries, fetched.ours, fetched.missing)
        self._note_traces(claimed)
        return claimed

    def _note_traces(self, claimed: Claimed) -> None:
        """Which producers' traces the batch goes on with; the entries keep the fields."""
        batch = claimed.batch
        for _, fields in claimed.held:
            _, trace = split_from_trace(fields)
            if trace is not None and len(batch.traces) < self._telemetry.most_links:
                batch.traces.append(trace)
            elif trace is not None:
                batch.more_traces += 1

    async def take_off(self, claimed: Claimed) -> None:
        """Count the missing ones, and take off the list what was deleted from the stream.

        Last: an error before this leaves them on the list, for the next attempt to count.
        """
        await self._fetch.take_off(claimed.missing, claimed.entries, claimed.batch)
