"""Entries that were delivered too often: claimed, and given to quarantine before any action sees them."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.batch import Batch, Refused
from monitor.fetch import Fetch
from monitor.patience import Patience
from monitor.pending import PendingEntry
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

MOST = 64


class CapSettler:
    """Refuses every entry that it is given; the dead-letter step does the rest."""

    name = "none"
    concurrency = 1

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._stream = settings.stream
        self._fetch = Fetch(link, settings, MOST)
        self._patience = Patience.of(settings)

    @property
    def batch_size(self) -> int:
        return self._fetch.portion.size

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        async with self._link.turn_at(self._stream, self.concurrency):
            entries = self._fetch.portion_of(entries)
            batch = Batch(len(entries))
            fetched = await self._fetch.fetch(entries, batch)
            batch.refused = [Refused(entry, str(self._patience.cap_of(entry.deliveries))) for entry, _ in fetched.ours]
            await self._fetch.take_off(fetched.missing, entries, batch)
        return batch
