"""Entries that were delivered too often: claimed, and given to quarantine before any action sees them."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.batch import Batch, Refused
from monitor.patience import Patience
from monitor.pipelines import Held, Pipelines
from shared.redis_client import RedisLink
from shared.settings import StreamSettings


class CapSettler(Pipelines):
    """Refuses every entry that it is given; the dead-letter step does the rest."""

    name = "none"
    LARGEST = 64

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        super().__init__(link, settings, concurrency=1)
        self._patience = Patience.of(settings)

    async def _act(self, ours: Sequence[Held], batch: Batch) -> None:
        batch.refused = [Refused(entry, str(self._patience.cap_of(entry.deliveries))) for entry, _ in ours]
