"""Settles by the user's handler: read, claim for an attempt, call, and do what the verdicts say.

A call starts only while there is a free slot and its whole timeout, and a second more, is left; its entries are claimed only
then. What is in its hands is kept by a lease. Redis errors on the way back are repeated until the sweep's own end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from monitor.batch import Batch
from monitor.context import SweepContext
from monitor.handling.attempts import Claims
from monitor.handling.carrying import Carried, Carrier
from monitor.handling.leases import Leases
from monitor.handling.opened import OpenHandler
from monitor.handling.runner import Runner, Slot
from monitor.handling.settling import Settling
from monitor.handling.trace import current_trace
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.sweep_state import SweepState
from monitor.trace_fields import split_from_trace
from shared.errors import HandlerUnusable

logger = logging.getLogger("monitor")

LAST_SECOND_S: Final = 1.0
"""What has to be left beside the timeout, so that the verdicts can be carried out."""
NOT_BEGUN: Final = "no call was begun any more, as the sweep was ending"
STILL_IN_HAND: Final = "a handler call of this process hangs with it"


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
        self._leases = Leases(context.link, settings)
        self._carrier = Carrier(context, state, self._leases, threshold_ms)
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
            if slot is None:  # granted all the same, also if this is cancelled: it belongs to the next who asks
                taking.add_done_callback(_give_back)
                taking.cancel()
        return slot

    # --- one call -----------------------------------------------------------------------------------------------------------

    async def _settle_in(self, slot: Slot, entries: Sequence[PendingEntry]) -> Batch:
        async with self._context.link.turn_at(self._settings.stream, self._context.concurrency):
            try:
                batch, carried, claims = await self._carrier.claimed(entries)
            except HandlerUnusable as error:
                self._state.fail(error)
                return Batch(0)
        if not claims.ours:
            return batch
        if not self.has_time() or self._state.is_ending:
            await self._carrier.undo(claims.ours)
            batch.named += [(Outcome.RETRIED, NOT_BEGUN, attempt.entry_id) for attempt in claims.ours]
            self._state.stop()
            return batch
        await self._call(slot, carried, claims, batch)
        return batch

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
