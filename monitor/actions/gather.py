"""Settling by carrying the entries to us and back: for servers where a script may not reach the hashes.

Round trips of one batch, each a pipeline: XRANGE (read; XPENDING asks about ids that it does not find), XCLAIM (ours from
here on; under a rate limit claim.lua, which leaves alone what is not granted), HSET (each reply is looked at), XACK (only
what was stored). Several batches are under way at once. HSET and XACK never share a pipeline: the XACK would run although
its HSET failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from monitor.batch import Batch, Refused
from monitor.entry_key import EntryKey
from monitor.hashes import Store, Storing
from monitor.outcomes import BY_WIRE, WRONG_TYPE, Outcome
from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.scripts import claim_script
from monitor.trace_fields import split_from_trace
from shared.redis_client import RedisLink, TooFewReplicas, raise_first
from shared.retry import code_of, is_entrys_own
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class GatherSettle:
    """Claims with XCLAIM, stores with HSET, acknowledges with XACK; ``concurrency`` batches overlap."""

    name = "gather"
    SMALLEST, LARGEST = 4, 128
    BATCH_BYTES: Final = 2_000_000
    """What the entries of one batch may weigh; a batch of heavier ones makes the next one smaller."""

    def __init__(
        self, link: RedisLink, settings: StreamSettings, concurrency: int, telemetry: GroupTelemetry = SILENT_GROUP
    ) -> None:
        self.batch_size = self.SMALLEST
        self.concurrency = concurrency
        self._link = link
        self._settings = settings
        self._key = EntryKey(settings)
        self._hashes = Store(link, settings)
        self._claim_script = claim_script()
        if settings.rate_limit:  # more than a second's entries would be read for nothing
            self.LARGEST = min(self.LARGEST, settings.rate_limit)
            self.batch_size = min(self.batch_size, settings.rate_limit)
        self._telemetry = telemetry

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        async with self._link.turn_at(self._settings.stream, self.concurrency):
            return await self._settle(entries)

    async def _settle(self, entries: Sequence[PendingEntry]) -> Batch:
        batch = Batch(len(entries))
        ids = [entry.entry_id for entry in entries]
        fields = await self._read(ids)
        self._adapt(fields.values(), len(ids))
        missing = [entry_id for entry_id in ids if entry_id not in fields]
        deleted = await self._deleted_of(missing) if missing else []
        if fields:
            await self._claim_and_store(entries, fields, batch)
        if batch.taken < len(ids):  # the rate limit
            missing, deleted = _among(missing, ids[: batch.taken]), _among(deleted, ids[: batch.taken])
        # Last: an error before this leaves them on the list, for the next attempt to count.
        await self._take_off_the_list(missing, deleted, batch)
        return batch

    async def _read(self, ids: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Each entry's names and values in turn, byte for byte; without those that are gone from the stream."""
        stream = self._settings.stream
        found: dict[bytes, list[bytes]] = dict(
            await self._link.call("XRANGE", stream, ids[0], ids[-1], "COUNT", len(ids))
        )
        fields = {entry_id: found[entry_id] for entry_id in ids if entry_id in found}
        apart = [entry_id for entry_id in ids if entry_id not in fields]
        replies = (
            await self._link.pipelined(("XRANGE", stream, entry_id, entry_id) for entry_id in apart) if apart else []
        )
        raise_first(replies)
        fields.update((reply[0][0], reply[0][1]) for reply in replies if reply)
        return fields

    def _adapt(self, read: Iterable[Sequence[bytes]], count: int) -> None:
        weight = sum(sum(map(len, fields)) for fields in read)
        if weight > self.BATCH_BYTES:
            self.batch_size = max(self.SMALLEST, int(count * self.BATCH_BYTES / weight))
        elif weight < self.BATCH_BYTES / 4 and count >= self.batch_size:
            self.batch_size = min(self.LARGEST, self.batch_size * 2)

    async def _deleted_of(self, missing: Sequence[bytes]) -> list[bytes]:
        """Entries that the stream does not have: deleted while pending, unless a consumer acknowledged and then deleted them.

        Asked before any XCLAIM, which on Redis 7.0 and later drops them from the list.
        """
        stream, group = self._settings.stream, self._settings.group
        rows = await self._link.pipelined(("XPENDING", stream, group, entry_id, entry_id, 1) for entry_id in missing)
        raise_first(rows)
        return [entry_id for entry_id, row in zip(missing, rows, strict=True) if row]

    async def _take_off_the_list(self, missing: Sequence[bytes], deleted: Sequence[bytes], batch: Batch) -> None:
        stream, group = self._settings.stream, self._settings.group
        replies = (
            await self._link.pipelined(("XACK", stream, group, entry_id) for entry_id in deleted) if deleted else []
        )
        raise_first(replies)
        batch.deleted = [entry_id for entry_id, count in zip(deleted, replies, strict=True) if count]
        batch.lost += len(missing) - len(batch.deleted)

    async def _claim_and_store(
        self, entries: Sequence[PendingEntry], fields: dict[bytes, list[bytes]], batch: Batch
    ) -> None:
        ids = [entry.entry_id for entry in entries if entry.entry_id in fields]
        tried, claimed = await self._claim(ids, batch)
        batch.lost += tried - len(claimed)
        if tried < len(ids):
            batch.taken = [entry.entry_id for entry in entries].index(ids[tried])
        to_store: list[tuple[PendingEntry, bytes]] = []
        for entry in entries:
            if entry.entry_id in claimed:
                fields[entry.entry_id] = self._to_store(fields[entry.entry_id], batch)
                key, fault = self._key.of(fields[entry.entry_id])
                if key is None:
                    batch.refused.append(Refused(entry, str(fault)))
                else:
                    to_store.append((entry, key))
        if to_store:
            await self._acknowledge(await self._store(to_store, fields, batch), batch)
        if self._settings.recovered_channel is not None:
            stored = set(batch.stored)
            batch.recovered = [key for entry, key in to_store if entry.entry_id in stored]

    async def _claim(self, ids: Sequence[bytes], batch: Batch) -> tuple[int, set[bytes]]:
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

    def _to_store(self, fields: list[bytes], batch: Batch) -> list[bytes]:
        """The fields that the hash gets: without those of the producer's trace, which the batch notes."""
        rest, trace = split_from_trace(fields)
        if trace is not None and len(batch.traces) < self._telemetry.most_links:
            batch.traces.append(trace)
        elif trace is not None:
            batch.more_traces += 1
        return fields if self._settings.keep_trace_fields else rest

    async def _store(
        self, to_store: Sequence[tuple[PendingEntry, bytes]], fields: dict[bytes, list[bytes]], batch: Batch
    ) -> list[tuple[bytes, Outcome]]:
        """Write the hashes; which entries are to be acknowledged, and as what."""
        storing = [Storing(key, entry.entry_id, fields[entry.entry_id]) for entry, key in to_store]
        replies = await self._hashes.write(storing)
        settled = []
        for (entry, _), reply in zip(to_store, replies, strict=True):
            if isinstance(reply, TooFewReplicas):
                batch.unconfirmed.append(entry.entry_id)
            elif not isinstance(reply, Exception):
                settled.append((entry.entry_id, Outcome.PROCESSED if isinstance(reply, int) else BY_WIRE[reply]))
            elif is_entrys_own(code := code_of(reply)):
                batch.refused.append(Refused(entry, WRONG_TYPE if code == "WRONGTYPE" else f"error:{code}"))
            else:
                batch.server_refusal, batch.refusal = code, reply
                batch.refused_by_server.append(entry.entry_id)
        return settled

    async def _acknowledge(self, settled: Sequence[tuple[bytes, Outcome]], batch: Batch) -> None:
        if not settled:
            return
        ids = [entry_id for entry_id, _ in settled]
        with self._telemetry.settle(len(ids)):
            acknowledged: int = await self._link.call("XACK", self._settings.stream, self._settings.group, *ids)
        for _, outcome in settled:
            batch.counts[outcome] += 1
        batch.stored = [entry_id for entry_id, outcome in settled if outcome is Outcome.PROCESSED]
        # Fewer than sent: a slow consumer finished after all and acknowledged its own entry. Which one is not told.
        for _, outcome in settled[: len(ids) - acknowledged]:
            batch.counts[outcome] -= 1
            batch.lost += 1


def _among(ids: Sequence[bytes], taken: Sequence[bytes]) -> list[bytes]:
    return [entry_id for entry_id in ids if entry_id in taken]
