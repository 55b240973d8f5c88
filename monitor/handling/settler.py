"""Settles by the user's handler: read, claim for an attempt, call, and do what the verdicts say.

A call starts only while there is a free slot and its whole timeout, and a second more, is left; its entries are claimed only
then. What is in its hands is kept by a lease. Redis errors on the way back are repeated until the sweep's own end.
"""

from __future__ import annotations

import asyncio
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
from monitor.fetch import CAME_AND_WENT
from monitor.gone import GONE, THERE, Gone
from monitor.handling.attempts import Claimer, Claims
from monitor.handling.claimed import Attempt
from monitor.handling.leases import Leases
from monitor.handling.opened import OpenHandler
from monitor.handling.runner import Runner, Slot
from monitor.handling.settling import Settling
from monitor.handling.trace import current_trace
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.portion import Portion
from monitor.sweep_state import SweepState
from monitor.trace_fields import split_from_trace
from shared.errors import HandlerUnusable, JanitorError
from shared.retry import code_of, missing_right
from stream_janitor.fence import undone

logger = logging.getLogger("monitor")

LAST_SECOND_S: Final = 1.0
"""What has to be left beside the timeout, so that the verdicts can be carried out."""
BATCH_BYTES: Final = 2_000_000
"""What the entries of one call may weigh, unless it is a single one."""
FIRST_PORTION: Final = 4
NOT_BEGUN: Final = "no call was begun any more, as the sweep was ending"
STILL_IN_HAND: Final = "a handler call of this process hangs with it"
NO_EVALSHA: Final = "ACTION=handle needs scripts: grant the Redis user +evalsha and +script|load"


@dataclass(frozen=True, slots=True)
class Carried:
    """Entries that were read for one call: the first ``taken`` of a batch, less those that the stream does not have."""

    taken: int
    fields: dict[bytes, list[bytes]]
    """Entry id → names and values in turn."""


class HandleSettler:
    """Calls the handler for one stream during one sweep."""

    name = "handle"
    keeps_whole_batches = True

    def __init__(
        self,
        context: SweepContext,
        state: SweepState,
        runner: Runner,
        handler: OpenHandler,
        threshold_ms: Callable[[int], int],
    ) -> None:
        settings = context.settings
        self.batch_size = settings.handler_batch
        self.concurrency = runner.concurrency
        self._context, self._state = context, state
        self._settings = settings
        self._runner, self._handler, self._threshold_ms = runner, handler, threshold_ms
        self._timeout_s = settings.handler_timeout_ms / 1000
        self._reader = EntryReader(context.link, settings.stream, Portion(FIRST_PORTION, settings.handler_batch))
        self._gone = Gone(context.link, settings)
        self._claimer = Claimer(context.link, settings)
        self._leases = Leases(context.link, settings)
        self._first_sent_s: dict[bytes, float] = {}
        """First id of a claim whose reply was lost → when it was sent."""
        self.calls = 0
        """How many came to an end."""
        self.is_away = False
        """One of them said that what it needs is out of reach."""

    # --- when a call may start ----------------------------------------------------------------------------------------------

    def has_time(self) -> bool:
        """Whether a call that starts now can end, and its verdicts be carried out, within the sweep."""
        return self._state.left_s >= self._timeout_s + LAST_SECOND_S

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        """Call the handler with the first of ``entries``; nothing is taken where no call may start any more.

        Raises:
            redis.exceptions.RedisError: not known what became of them; no call starts before its claims are known.
        """
        # A call of an earlier sweep hangs with it: its lease has ended, but this process must not call with it twice.
        barred = next((at for at, entry in enumerate(entries) if self._is_in_hand(entry)), len(entries))
        if barred == 0:
            return Batch(1, named=[(Outcome.FAILED, STILL_IN_HAND, entries[0].entry_id)])
        entries = entries[:barred]
        slot = await self._slot()
        if slot is None:
            return Batch(0)
        try:
            return await self._settle_in(slot, entries)
        finally:
            slot.give_back()

    def _is_in_hand(self, entry: PendingEntry) -> bool:
        return self._runner.has_in_hand(self._settings.stream, self._settings.group, entry.entry_id.decode())

    async def _slot(self) -> Slot | None:
        """A free slot while there is time for a call; else the sweep of this stream begins nothing more."""
        while self.has_time() and not self._state.is_ending:
            if self._runner.all_hung:
                self._state.fail(
                    HandlerUnusable(
                        f"every handler call hangs past HANDLER_TIMEOUT_SEC (HANDLER_CONCURRENCY={self._runner.concurrency}): "
                        "only a new process is sure to help"
                    )
                )
                return None
            slot = await self._slot_or_end(self._state.left_s - self._timeout_s - LAST_SECOND_S)
            if slot is not None:
                return slot
        self._state.stop()
        return None

    async def _slot_or_end(self, wait_s: float) -> Slot | None:
        taking = asyncio.ensure_future(self._runner.take_slot(wait_s))
        ending = asyncio.ensure_future(self._state.ended())
        slot: Slot | None = None
        try:
            await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and not self._state.is_ending:
                slot = taking.result()
        finally:
            ending.cancel()
            if (
                slot is None
            ):  # one that is granted all the same, also if this is cancelled, belongs to the next who asks
                taking.add_done_callback(_give_back)
                taking.cancel()
        return slot

    # --- one call -----------------------------------------------------------------------------------------------------------

    async def _settle_in(self, slot: Slot, entries: Sequence[PendingEntry]) -> Batch:
        async with self._context.link.turn_at(self._settings.stream, self._context.concurrency):
            batch, carried, claims = await self._claimed(entries)
        if not claims.ours:
            return batch
        if not self.has_time() or self._state.is_ending:
            await self._undo(claims.ours)
            batch.named += [(Outcome.RETRIED, NOT_BEGUN, attempt.entry_id) for attempt in claims.ours]
            self._state.stop()
            return batch
        await self._call(slot, carried, claims, batch)
        return batch

    async def _claimed(self, entries: Sequence[PendingEntry]) -> tuple[Batch, Carried, Claims]:
        """Read and claim what one call gets; the batch has the fate of those that are not ours."""
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
            reply, rows = await self._context.link.pipelined(
                [claim, ("XRANGE", stream, entry.entry_id, entry.entry_id)]
            )
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._first_sent_s.setdefault(entry.entry_id, sent_s)
            self._reader.portion.was_lost()
            raise
        if isinstance(reply, Exception):  # nothing was claimed; perhaps the server does not have the script yet
            return None
        claims = self._claimer.claims_of([entry], reply)
        if claims.ours and (isinstance(rows, Exception) or not rows):
            await self._undo(claims.ours)
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
            held = await self._state.persist(partial(self._read_portion, ids))
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
            words = await self._gone.take_off(missing, self._settings.min_idle_ms)
        except RedisError as error:
            batch.named += [(Outcome.FAILED, f"refused by the server ({code_of(error)})", one) for one in missing]
            return
        for entry_id, word in zip(missing, words, strict=True):
            if word == GONE:
                batch.deleted.append(entry_id)
            elif word == THERE:
                batch.named.append((Outcome.FAILED, CAME_AND_WENT, entry_id))
            else:
                batch.lost += 1

    async def _undo(self, attempts: Sequence[Attempt]) -> None:
        """No code ran, so it was no attempt: as if it had not been claimed. Not repeated: fence.lua says why."""
        self._leases.drop(attempt.entry_id for attempt in attempts)
        changes = [undone(attempt.claim, max(attempt.found.idle_ms, 0)) for attempt in attempts]
        try:
            await self._leases.send([self._leases.command(changes)])
        except (RedisError, JanitorError) as error:
            logger.warning("%s: %d claims were not undone (%s)", self._settings.stream, len(attempts), code_of(error))

    async def _call(self, slot: Slot, carried: Carried, claims: Claims, batch: Batch) -> None:
        attempts, settings = claims.ours, self._settings
        entries = [one.as_entry(carried.fields[one.entry_id], settings, claims.now_ms) for one in attempts]
        traces = [split_from_trace(carried.fields[one.entry_id])[1] for one in attempts]
        batch.traces = [trace for trace in traces if trace is not None] if self._context.telemetry.most_links else []
        try:
            with current_trace(traces):
                verdicts = await slot.call(self._handler, entries, self._timeout_s)
        except BaseException:  # cancelled: the attempt counts, and the lease ends
            self._leases.drop(one.entry_id for one in attempts)
            raise
        settling = Settling(self._context, self._state, self._leases, self._threshold_ms)
        self._context.telemetry.handled(verdicts.duration_s, verdicts.counts())
        self.calls += 1
        self.is_away |= await settling.carry_out(attempts, verdicts, batch)


def _give_back(taking: asyncio.Future[Slot | None]) -> None:
    if not taking.cancelled() and taking.exception() is None and (slot := taking.result()) is not None:
        slot.give_back()


def _is_without_scripts(error: RedisError) -> bool:
    """Not a right that a script's own commands need: that is named as ever."""
    if code_of(error) == "NOCOMMAND":
        return "evalsha" in str(error).lower() or "script" in str(error).lower()
    return code_of(error) == "NOPERM" and missing_right(error) in ("the right +evalsha", "the right +script|load")
