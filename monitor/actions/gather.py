"""Storing by carrying the entries here and back: for servers where a script may not reach the hashes.

Round trips of one batch, each a pipeline: XRANGE (read), XCLAIM (ours from here on; under a rate limit claim.lua, which
leaves alone what is not granted), HSET (each reply is looked at), XACK (only what was stored); then gone.lua for those that
XRANGE did not find. Several batches are in flight at once. HSET and XACK never share a pipeline: the XACK would run although
its HSET failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from monitor.batch import Batch, Refused
from monitor.entry_key import EntryKey
from monitor.entry_reader import EntryReader, TooLargeToCarry
from monitor.gone import GONE, THERE, Gone
from monitor.hashes import Store, Storing
from monitor.outcomes import BY_WIRE, WRONG_TYPE, Outcome
from monitor.pending import PendingEntry
from monitor.portion import Portion
from monitor.rate import rate_key
from monitor.scripts import claim_script
from monitor.trace_fields import TRACEPARENT, TRACESTATE, split_from_trace
from shared.redis_client import RedisLink, Reply, TooFewReplicas
from shared.retry import code_of, is_entrys_own
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

SMALLEST, LARGEST = 4, 128
TOO_LARGE = "too large to carry: its reply is lost each time (the link, or client-output-buffer-limit); a script could settle it"
CAME_AND_WENT = "was not in the stream, and then was again, while it was being read"


class GatherSettle:
    """Claims with XCLAIM, stores with HSET, acknowledges with XACK; ``concurrency`` batches overlap."""

    name = "gather"

    def __init__(
        self, link: RedisLink, settings: StreamSettings, concurrency: int, telemetry: GroupTelemetry = SILENT_GROUP
    ) -> None:
        self.concurrency = concurrency
        self._link = link
        self._settings = settings
        self._key = EntryKey(settings)
        self._hashes = Store(link, settings)
        self._claim_script = claim_script()
        # More than a second's entries would be read for nothing.
        self._portion = Portion(SMALLEST, min(LARGEST, settings.rate_limit or LARGEST))
        self._reader = EntryReader(link, settings.stream, self._portion)
        self._gone = Gone(link, settings)
        self._telemetry = telemetry

    @property
    def batch_size(self) -> int:
        return self._portion.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._portion.size = size

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        async with self._link.turn_at(self._settings.stream, self.concurrency):
            # A batch whose reply was lost is repeated: with one entry, not with as many as could not come.
            return await self._settle(entries[:1] if self._portion.is_careful else entries)

    async def _settle(self, entries: Sequence[PendingEntry]) -> Batch:
        batch = Batch(len(entries))
        ids = [entry[0] for entry in entries]
        try:
            held = await self._reader.read(ids)
        except TooLargeToCarry:
            batch.named.append((Outcome.FAILED, TOO_LARGE, ids[0]))
            return batch
        missing: list[bytes] = []
        if None in held:
            missing = [entry_id for entry_id, fields in zip(ids, held, strict=True) if fields is None]
        if len(missing) < len(ids):
            await self._claim_and_store(entries, held, batch)
        if missing:
            # Last: an error before this leaves them on the list, for the next attempt to count.
            await self._take_off_the_list(missing, ids[: batch.taken], batch)
        return batch

    async def _take_off_the_list(self, missing: Sequence[bytes], taken: Sequence[bytes], batch: Batch) -> None:
        missing = [
            entry_id for entry_id in missing if entry_id in taken
        ]  # the rate limit may have ended the batch before
        if not missing:
            return
        for entry_id, word in zip(missing, await self._gone.take_off(missing), strict=True):
            if word == GONE:
                batch.deleted.append(entry_id)
            elif word == THERE:
                batch.named.append((Outcome.FAILED, CAME_AND_WENT, entry_id))
            else:
                batch.lost += 1

    async def _claim_and_store(
        self, entries: Sequence[PendingEntry], held: Sequence[list[bytes] | None], batch: Batch
    ) -> None:
        ids = [entry[0] for entry, fields in zip(entries, held, strict=True) if fields is not None]
        tried, claimed = await self._claim(ids, batch)
        batch.lost += tried - len(claimed)
        if tried < len(ids):
            batch.taken = [entry[0] for entry in entries].index(ids[tried])
        to_store: list[Storing] = []
        stored_by: list[PendingEntry] = []
        for entry, fields in zip(entries, held, strict=True):
            if fields is not None and entry[0] in claimed:
                fields = self._without_trace(fields, batch)
                key, fault = self._key.of(fields)
                if key is None:
                    batch.refused.append(Refused(entry, str(fault)))
                else:
                    to_store.append(Storing(key, entry[0], fields))
                    stored_by.append(entry)
        if to_store:
            replies = await self._hashes.write(to_store)
            await self._acknowledge(self._stored(stored_by, replies, batch), batch)
            if self._settings.recovered_channel is not None:
                stored = set(batch.stored)
                batch.recovered = [storing.key for storing in to_store if storing.entry_id in stored]

    async def _claim(self, ids: list[bytes], batch: Batch) -> tuple[int, set[bytes]]:
        """How many of ``ids`` were tried, all unless the rate limit grants no more, and which of these are ours now."""
        settings = self._settings
        with self._telemetry.claim(len(ids)):
            if settings.rate_limit:
                keys = (settings.stream, rate_key(settings))
                head = self._claim_script.named(
                    group=settings.group,
                    consumer=settings.consumer,
                    min_idle_ms=settings.min_idle_ms,
                    rate_limit=settings.rate_limit,
                )
                tried, wait_ms, lost = await self._claim_script.run(self._link, keys, (*head, *ids))
                batch.wait_s = wait_ms / 1000
                return tried, set(ids[:tried]).difference(lost)
            # JUSTID: the fields are here already, and the delivery count stays as it is.
            claimed = await self._link.call(
                "XCLAIM", settings.stream, settings.group, settings.consumer, settings.min_idle_ms, *ids, "JUSTID"
            )
        return len(ids), set(claimed)

    def _without_trace(self, fields: list[bytes], batch: Batch) -> list[bytes]:
        """The fields that the hash gets: without those of the producer's trace, which the batch notes."""
        if TRACEPARENT not in fields and TRACESTATE not in fields:
            return fields
        rest, trace = split_from_trace(fields)
        if trace is not None and len(batch.traces) < self._telemetry.most_links:
            batch.traces.append(trace)
        elif trace is not None:
            batch.more_traces += 1
        return fields if self._settings.keep_trace_fields else rest

    def _stored(
        self, entries: Sequence[PendingEntry], replies: Sequence[Reply], batch: Batch
    ) -> list[tuple[bytes, Outcome]]:
        """Which entries are to be acknowledged, and as what, by the replies to their writes."""
        settled = []
        for entry, reply in zip(entries, replies, strict=True):
            if isinstance(reply, int):
                settled.append((entry[0], Outcome.PROCESSED))
            elif isinstance(reply, TooFewReplicas):
                batch.unconfirmed.append(entry[0])
            elif not isinstance(reply, Exception):
                settled.append((entry[0], BY_WIRE[reply]))
            elif is_entrys_own(code := code_of(reply)):
                batch.refused.append(Refused(entry, WRONG_TYPE if code == "WRONGTYPE" else f"error:{code}"))
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
