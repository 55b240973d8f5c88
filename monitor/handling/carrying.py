"""Carries entries here for a call: read, then claimed for an attempt, so that the handler may have them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from redis import exceptions as redis_errors
from redis.exceptions import RedisError

from monitor.batch import Batch
from monitor.context import SweepContext
from monitor.entry_reader import TOO_LARGE, EntryReader, TooLargeToCarry
from monitor.gone import Gone
from monitor.handling.attempts import Claimer, Claims
from monitor.handling.claimed import Attempt
from monitor.handling.leases import Leases
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.portion import Portion
from monitor.sweep_state import SweepState
from shared.advice import missing_right
from shared.errors import HandlerUnusable, JanitorError
from shared.retry import code_of
from stream_janitor.fence import undone

logger = logging.getLogger("monitor")

BATCH_BYTES: Final = 2_000_000
"""What the entries of one call may weigh, unless it is a single one."""
FIRST_PORTION: Final = 4
NO_EVALSHA: Final = "ACTION=handle needs scripts: grant the Redis user +evalsha and +script|load"


@dataclass(frozen=True, slots=True)
class Carried:
    """Entries that were read for one call: the first ``taken`` of a batch, less those that the stream does not have."""

    taken: int
    fields: dict[bytes, list[bytes]]
    """Entry id → names and values in turn."""


class Carrier:
    """Reads and claims entries of one stream's group; what is claimed is kept by ``leases``."""

    def __init__(
        self, context: SweepContext, state: SweepState, leases: Leases, threshold_ms: Callable[[int], int]
    ) -> None:
        settings = context.settings
        self._link, self._settings, self._state = context.link, settings, state
        self._leases, self._threshold_ms = leases, threshold_ms
        self._reader = EntryReader(context.link, settings.stream, Portion(FIRST_PORTION, settings.handler_batch))
        self._gone = Gone(context.link, settings)
        self._claimer = Claimer(context.link, settings)
        self._first_sent_s: dict[bytes, float] = {}
        """First id of a claim whose reply was lost → when it was sent."""

    async def claimed(self, entries: Sequence[PendingEntry]) -> tuple[Batch, Carried, Claims]:
        """Read and claim what one call gets; the batch has the fate of those that are not ours.

        Raises:
            HandlerUnusable: scripts may not run here; nothing was claimed.
            redis.exceptions.RedisError: any of them may be ours, with no code run; the next try finds out.
        """
        if len(entries) == 1 and not self._reader.portion.is_careful:
            at_once = await self._claimed_at_once(entries[0])
            if at_once is not None:
                return at_once
        batch = Batch(len(entries))
        try:
            carried = await self._read(entries)
        except TooLargeToCarry:
            batch.taken = 1
            batch.named.append((Outcome.FAILED, TOO_LARGE, entries[0].entry_id))
            return batch, Carried(1, {}), Claims(0, 0.0, 0)
        batch.taken = carried.taken
        present = [entry for entry in entries[: carried.taken] if entry.entry_id in carried.fields]
        claims = Claims(0, 0.0, 0)
        if present:
            claims = await self._claim(present)
            batch.wait_s = claims.wait_s
            if claims.tried < len(present):
                batch.taken = list(entries).index(present[claims.tried])
            batch.deleted += claims.gone
            batch.lost += claims.lost
            self._leases.take(attempt.claim for attempt in claims.ours)
        missing = [entry for entry in entries[: batch.taken] if entry.entry_id not in carried.fields]
        if missing:
            await self._take_off([entry.entry_id for entry in missing], batch)
        return batch, carried, claims

    async def _claimed_at_once(self, entry: PendingEntry) -> tuple[Batch, Carried, Claims] | None:
        """One entry is carried whatever it weighs: claimed and read in one round trip. None where that is not straightforward.

        Raises:
            redis.exceptions.RedisError: the claim may be ours; the next try goes step by step and finds out.
        """
        stream, batch, sent_s = self._settings.stream, Batch(1), time.monotonic()
        claim = self._claimer.command([entry], self._threshold_ms)
        try:
            reply, rows = await self._link.pipelined([claim, ("XRANGE", stream, entry.entry_id, entry.entry_id)])
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._first_sent_s.setdefault(entry.entry_id, sent_s)
            self._reader.portion.was_lost()
            raise
        if isinstance(reply, Exception):  # nothing was claimed; perhaps the server does not have the script yet
            return None
        claims = self._claimer.claims_of([entry], reply)
        if claims.ours and (isinstance(rows, Exception) or not rows):
            await self.undo(claims.ours)
            return None
        batch.taken, batch.wait_s, batch.lost = claims.tried, claims.wait_s, claims.lost
        batch.deleted += claims.gone
        self._leases.take(attempt.claim for attempt in claims.ours)
        return batch, Carried(claims.tried, {entry.entry_id: rows[0][1]} if claims.ours else {}), claims

    async def _read(self, entries: Sequence[PendingEntry]) -> Carried:
        """Up to BATCH_BYTES of them, one at least, a portion at a time."""
        fields: dict[bytes, list[bytes]] = {}
        taken = weight = 0
        while taken < len(entries) and weight < BATCH_BYTES:
            ids = [entry.entry_id for entry in entries[taken : taken + self._reader.portion.size]]
            held = await self._state.retry(partial(self._read_portion, ids))
            for entry_id, pairs in zip(ids, held, strict=False):
                grown = weight + sum(map(len, pairs or ()))
                if grown > BATCH_BYTES and fields:
                    return Carried(taken, fields)
                weight, taken = grown, taken + 1
                if pairs is not None:
                    fields[entry_id] = pairs
        return Carried(taken, fields)

    async def _read_portion(self, ids: Sequence[bytes]) -> list[list[bytes] | None]:
        """Fewer of them after a reply was lost."""
        return await self._reader.read(ids[: self._reader.portion.size])

    async def _claim(self, present: Sequence[PendingEntry]) -> Claims:
        """An error may leave them claimed, with no code run: the next try knows what the first one claimed."""
        first_id = present[0].entry_id
        sent_s = time.monotonic()
        try:
            claims = await self._claimer.claim(present, self._threshold_ms, self._first_sent_s.get(first_id))
        except RedisError as error:
            if _is_without_scripts(error):
                raise HandlerUnusable(NO_EVALSHA) from None
            self._first_sent_s.setdefault(first_id, sent_s)
            raise
        self._first_sent_s.pop(first_id, None)
        return claims

    async def _take_off(self, missing: Sequence[bytes], batch: Batch) -> None:
        """An error is only noted: others of the batch are claimed by now, and have to be called with."""
        try:
            await self._gone.count(missing, self._settings.min_idle_ms, batch)
        except RedisError as error:
            batch.named += [(Outcome.FAILED, f"refused by the server ({code_of(error)})", one) for one in missing]

    async def undo(self, attempts: Sequence[Attempt]) -> None:
        """No code ran, so it was no attempt: as if it had not been claimed. Not repeated: fence.lua says why."""
        self._leases.drop(attempt.entry_id for attempt in attempts)
        changes = [undone(attempt.claim, max(attempt.found.idle_ms, 0)) for attempt in attempts]
        try:
            await self._leases.send([self._leases.command(changes)])
        except (RedisError, JanitorError) as error:
            logger.warning("%s: %d claims were not undone (%s)", self._settings.stream, len(attempts), code_of(error))


def _is_without_scripts(error: RedisError) -> bool:
    """Not a right that a script's own commands need: that is named as ever."""
    if code_of(error) == "NOCOMMAND":
        return "evalsha" in str(error).lower() or "script" in str(error).lower()
    return code_of(error) == "NOPERM" and missing_right(error) in ("the right +evalsha", "the right +script|load")
