"""Entries that are about to be moved from here: read, claimed with the minimum idle time, and what was lost on the way.

The claim is confirmed by as many replicas as ACK_REPLICAS asks for, before anything is added anywhere: while a replica is
away, each sweep would add another copy of what cannot be acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from monitor.batch import Batch
from monitor.entry_reader import EntryReader, TooLargeToCarry
from monitor.gone import GONE, THERE, Gone
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.portion import Portion
from monitor.rate import rate_key
from monitor.scripts import claim_script
from monitor.trace_fields import split_from_trace
from shared.redis_client import Command, RedisLink, TooFewReplicas, raise_first
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

SMALLEST: Final = 4
LARGEST: Final = 128
TOO_LARGE: Final = "too large to carry: its reply is lost each time (the link, or client-output-buffer-limit)"
CAME_AND_WENT: Final = "was not in the stream, and then was again, while it was being read"


@dataclass(slots=True)
class Claimed:
    """What became of a batch so far, and what is ours to move."""

    batch: Batch
    held: list[tuple[PendingEntry, list[bytes]]] = field(default_factory=list)
    """Names and values in turn, byte for byte."""
    missing: list[bytes] = field(default_factory=list)
    """Not in the stream; ``take_off`` says what they are."""


class Claimer:
    """Reads and claims for one stream and group. ``portion.size`` says how many to give it."""

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        self._link = link
        self._settings = settings
        self._telemetry = telemetry
        self._script = claim_script()
        self._gone = Gone(link, settings)
        # More than a second's entries would be read for nothing.
        self.portion = Portion(SMALLEST, min(LARGEST, settings.rate_limit or LARGEST))
        self._reader = EntryReader(link, settings.stream, self.portion)

    async def claim(self, entries: Sequence[PendingEntry]) -> Claimed:
        """Read ``entries`` and claim those that are there and still idle; safe to repeat.

        Raises:
            redis.exceptions.RedisError: any of them may be claimed.
        """
        if self.portion.is_careful:  # a batch whose reply was lost is repeated with one entry
            entries = entries[:1]
        claimed = Claimed(Batch(len(entries)))
        ids = [entry.entry_id for entry in entries]
        try:
            held = await self._reader.read(ids)
        except TooLargeToCarry:
            claimed.batch.named.append((Outcome.FAILED, TOO_LARGE, ids[0]))
            return claimed
        present = [(entry, fields) for entry, fields in zip(entries, held, strict=True) if fields is not None]
        if present:
            await self._claim(present, ids, claimed)
        taken = ids[: claimed.batch.taken]
        claimed.missing = [entry_id for entry_id, fields in zip(taken, held, strict=False) if fields is None]
        self._note_traces(claimed)
        return claimed

    async def _claim(
        self, present: Sequence[tuple[PendingEntry, list[bytes]]], all_ids: Sequence[bytes], claimed: Claimed
    ) -> None:
        ids = [entry.entry_id for entry, _ in present]
        batch = claimed.batch
        with self._telemetry.claim(len(ids)):
            (reply,) = await self._script.written(self._link, [self._command(ids)], self._settings.ack_replicas)
        if isinstance(reply, TooFewReplicas):
            batch.unconfirmed, batch.unconfirmed_what = ids, "the claim"
            return
        raise_first([reply])
        tried, ours = len(ids), set(reply) if not self._settings.rate_limit else set[bytes]()
        if self._settings.rate_limit:
            tried, wait_ms, lost = reply
            batch.wait_s = wait_ms / 1000
            ours = set(ids[:tried]).difference(lost)
        if tried < len(ids):
            batch.taken = list(all_ids).index(ids[tried])
        batch.lost += tried - len(ours)
        claimed.held = [(entry, fields) for entry, fields in present if entry.entry_id in ours]

    def _command(self, ids: Sequence[bytes]) -> Command:
        """JUSTID: the fields are here already, and the delivery count stays as it is."""
        settings = self._settings
        if not settings.rate_limit:
            return ("XCLAIM", settings.stream, settings.group, settings.consumer, settings.min_idle_ms, *ids, "JUSTID")
        head = self._script.named(
            group=settings.group,
            consumer=settings.consumer,
            min_idle_ms=settings.min_idle_ms,
            rate_limit=settings.rate_limit,
        )
        return self._script.command((settings.stream, rate_key(settings)), (*head, *ids))

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
        if not claimed.missing:
            return
        batch = claimed.batch
        for entry_id, word in zip(claimed.missing, await self._gone.take_off(claimed.missing), strict=True):
            if word == GONE:
                batch.deleted.append(entry_id)
            elif word == THERE:
                batch.named.append((Outcome.FAILED, CAME_AND_WENT, entry_id))
            else:
                batch.lost += 1
