"""Entries that are moved from here: claimed, added to a stream, acknowledged.

The claim is confirmed by as many replicas as ACK_REPLICAS asks for, before anything is added anywhere: while a replica is
away, each sweep would add another copy of what cannot be acknowledged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from monitor.batch import Batch
from monitor.pipelines import Held, Pipelines
from monitor.trace_fields import split_from_trace
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class Moving(Pipelines):
    """Moves what is ours; the entries keep the fields of their producers' traces, with which the batch goes on."""

    def __init__(
        self, link: RedisLink, settings: StreamSettings, concurrency: int, telemetry: GroupTelemetry = SILENT_GROUP
    ) -> None:
        super().__init__(link, settings, concurrency, telemetry, replicas=settings.ack_replicas)

    async def _act(self, ours: Sequence[Held], batch: Batch) -> None:
        if self._telemetry.most_links:
            traces = (split_from_trace(fields)[1] for _, fields in ours)
            batch.traces = [trace for trace in traces if trace is not None]
        if ours:
            await self._move(ours, batch)

    @abstractmethod
    async def _move(self, ours: Sequence[Held], batch: Batch) -> None:
        """Add them elsewhere, and acknowledge those that were added."""
