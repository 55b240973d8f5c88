"""Storing by carrying the entries here and back: for servers where a script may not reach the hashes.

Round trips of one batch, each a pipeline: XRANGE (read), XCLAIM (ours from here on; under a rate limit claim.lua, which
leaves alone what is not granted), HSET (each reply is looked at), XACK (only what was stored); then gone.lua for those that
XRANGE did not find.
"""

from __future__ import annotations

from collections.abc import Sequence

from monitor.batch import Batch, Refused
from monitor.hashes import Store, fault_of_write
from monitor.outcomes import BY_WIRE, Outcome
from monitor.pending import PendingEntry
from monitor.pipelines import Held, Pipelines
from monitor.storing import Storing, StoringRule
from monitor.trace_fields import TRACEPARENT, TRACESTATE, split_from_trace
from shared.redis_client import RedisLink, Reply, TooFewReplicas
from shared.retry import code_of, is_entrys_own
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class GatherSettle(Pipelines):
    """Claims with XCLAIM, stores with HSET, acknowledges with XACK."""

    def __init__(
        self, link: RedisLink, settings: StreamSettings, concurrency: int, telemetry: GroupTelemetry = SILENT_GROUP
    ) -> None:
        super().__init__(link, settings, concurrency, telemetry)
        self._rule = StoringRule(settings)
        self._hashes = Store(link, settings)

    async def _act(self, ours: Sequence[Held], batch: Batch) -> None:
        """Write the hashes, then acknowledge what was written."""
        to_store: list[Storing] = []
        stored_by: list[PendingEntry] = []
        for entry, fields in ours:
            if TRACEPARENT in fields or TRACESTATE in fields:
                fields = self._without_trace(fields, batch)
            storing, fault = self._rule.of_data(entry[0], fields)
            if storing is None:
                batch.refused.append(Refused(entry, str(fault)))
            else:
                to_store.append(storing)
                stored_by.append(entry)
        if not to_store:
            return
        replies = await self._hashes.write(to_store)
        await self._acknowledge(self._stored(stored_by, replies, batch), batch)
        if self._settings.recovered_channel is not None:
            stored = set(batch.stored)
            batch.recovered = [storing.key for storing in to_store if storing.entry_id in stored]

    def _without_trace(self, fields: list[bytes], batch: Batch) -> list[bytes]:
        """The fields that the hash gets: without those of the producer's trace, which the batch notes."""
        rest, trace = split_from_trace(fields)
        if trace is not None and self._telemetry.most_links:
            batch.traces.append(trace)
        return fields if self._settings.keep_trace_fields or not rest else rest

    def _stored(
        self, entries: Sequence[PendingEntry], replies: Sequence[Reply], batch: Batch
    ) -> list[tuple[bytes, Outcome]]:
        """Which entries are to be acknowledged, and as what, by the replies to their writes."""
        if set(map(type, replies)) == {int}:  # as a rule, all are stored
            return [(entry[0], Outcome.PROCESSED) for entry in entries]
        settled = []
        for entry, reply in zip(entries, replies, strict=True):
            if isinstance(reply, int):
                settled.append((entry[0], Outcome.PROCESSED))
            elif isinstance(reply, TooFewReplicas):
                batch.unconfirmed.append(entry[0])
            elif not isinstance(reply, Exception):
                settled.append((entry[0], BY_WIRE[reply]))
            elif is_entrys_own(code := code_of(reply)):
                batch.refused.append(Refused(entry, fault_of_write(reply)))
            else:
                batch.server_refusal, batch.refusal = code, reply
                batch.refused_by_server.append(entry[0])
        return settled

    async def _acknowledge(self, settled: Sequence[tuple[bytes, Outcome]], batch: Batch) -> None:
        if not settled:
            return
        ids = [entry_id for entry_id, _ in settled]
        with self._telemetry.settle(len(ids)):
            acknowledged: int = await self._link.call("XACK", self._settings.stream, self._settings.group, *ids)
        batch.counts.update(outcome for _, outcome in settled)
        batch.stored = [entry_id for entry_id, outcome in settled if outcome is Outcome.PROCESSED]
        # Fewer than sent: a slow consumer finished after all and acknowledged its own entry. Which one is not told.
        for _, outcome in settled[: len(ids) - acknowledged]:
            batch.counts[outcome] -= 1
            batch.lost += 1
