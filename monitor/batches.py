"""One sweep's batches: each goes through the same steps in a row, and each of its entries is counted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from monitor.actions import Action
from monitor.batch import Batch, Refused, ScriptNotAllowed, Settler
from monitor.brake import BRAKED, Brake
from monitor.capping import CapSettler
from monitor.context import SweepContext
from monitor.dead_letter import DeadLetters
from monitor.index import RefusedDocuments
from monitor.opening import in_words
from monitor.outcomes import Outcome, is_certain
from monitor.pending import PendingEntry
from monitor.recovered import Publisher
from monitor.report import Tally
from monitor.sweep_state import SweepState
from shared.errors import JanitorError, RedisRefused, RedisUnavailable
from shared.retry import FAULTS, Fault, code_of, is_one_servers
from shared.telemetry import BatchSpan

NOTHING: Final = Batch(0)


class Batches:
    """Takes the abandoned entries that the walk finds through the action, batch by batch."""

    def __init__(
        self,
        context: SweepContext,
        state: SweepState,
        action: Action,
        brake: Brake,
        documents: RefusedDocuments | None,
    ) -> None:
        """``documents``: finds what the index refused; None where no action of this stream uses one."""
        self._context = context
        self._state = state
        self._action = action
        self._documents = documents
        self._cap = CapSettler(context.link, context.settings)
        self._brake = brake
        self._publisher = Publisher(context.link, context.settings)
        self.tally = Tally()
        """What became of the entries so far."""
        self.mode = "none"
        """How they are settled; none while nothing was."""
        self.rate_limited = False
        """The rate limit made entries wait."""

    async def settler_for(self, is_capped: bool) -> Settler:
        """How entries are settled: by the action, or, those that were delivered too often, by none."""
        if is_capped:
            return self._cap
        settler = await self._action.settler(self._state.retry)
        self.mode = settler.name
        return settler

    async def settle_all(self, entries: list[PendingEntry], is_capped: bool) -> None:
        """Settle a run of entries batch by batch, until they are through or the sweep is stopping."""
        while entries and not self._state.stops_at(entries[0].entry_id):
            settler = await self.settler_for(is_capped)
            batch = await self._settle(settler, entries[: settler.batch_size])
            entries = entries[batch.taken :]
            if batch.wait_s:
                self.rate_limited = True
                await self._state.pause(batch.wait_s)

    async def finish(self) -> None:
        """The last look at the index, once nothing is in flight."""
        if self._documents is not None:
            self.tally.take_over(await self._state.retry(self._documents.look))

    def warn_of_unpublished(self) -> None:
        self._publisher.warn_of_unpublished()

    # --- one batch: its steps -----------------------------------------------------------------------------------------------

    async def _settle(self, settler: Settler, entries: Sequence[PendingEntry]) -> Batch:
        """All steps of one batch. Each entry is counted once, also when the reply is lost or the sweep is cancelled."""
        with self._context.telemetry.batch(len(entries)) as span:
            batch = await self._acted_upon(settler, entries, span)
            self.tally.take_over(batch.tally())
            self._note_refusals(batch)
            await self._dead_letter(self._braked(batch))
            await self._look_at_index(batch.stored)
            await self._publisher.publish(batch.recovered)
        return batch

    async def _acted_upon(self, settler: Settler, entries: Sequence[PendingEntry], span: BatchSpan) -> Batch:
        """What the action made of them; nothing is taken where it has to go another way first."""
        try:
            batch = await self._state.retry(_Attempt(settler, entries))
        except ScriptNotAllowed as refusal:
            self._action.fall_back(refusal)
            return NOTHING
        except ResponseError as error:
            span.failed(error)
            return self._refused(entries, error)
        except BaseException:
            self.tally.add(Outcome.UNKNOWN, len(entries))
            self._state.leave(entries[0].entry_id)
            raise
        span.took(batch.taken, batch.traces, batch.more_traces)
        return batch

    def _refused(self, entries: Sequence[PendingEntry], error: ResponseError) -> Batch:
        """The server would not settle any of them: its state or our rights, not the entries."""
        limited = " under RECOVERY_RATE_LIMIT" if self._context.settings.rate_limit else ""
        self._state.fail(in_words(error, f"settling by {self.mode}{limited}", self._context.settings))
        ids = [entry.entry_id for entry in entries]
        self.tally.name_all(Outcome.FAILED, f"refused by the server ({code_of(error)})", ids)
        return Batch(len(entries))

    def _note_refusals(self, batch: Batch) -> None:
        if batch.unconfirmed or batch.lacks_replicas:
            self._state.note(RedisUnavailable("too few replicas confirmed what was stored (ACK_REPLICAS): see doctor"))
        if batch.server_refusal:
            error = batch.refusal or ResponseError(batch.server_refusal)
            self._note_refusal(error, batch.server_refusal, f"settling by {self.mode}")

    def _braked(self, batch: Batch) -> list[Refused]:
        """Those that may go to quarantine; the others stay pending, and the sweep fails."""
        reason = self._brake.judge(batch.taken - len(batch.refused), [item.fault for item in batch.refused])
        if reason is None or self._context.settings.dead_letter_stream is None:
            return batch.refused
        self._state.note(RedisRefused(reason))
        held = [item.entry.entry_id for item in batch.refused if is_certain(item.fault)]
        self.tally.name_all(Outcome.FAILED, BRAKED, held)
        return [item for item in batch.refused if not is_certain(item.fault)]

    async def _dead_letter(self, refused: Sequence[Refused]) -> None:
        if not refused:
            return
        letters = DeadLetters(self._context.link, self._context.settings)
        try:
            await letters.take(refused)
        except BaseException:
            self.tally.add(Outcome.UNKNOWN, len(refused) - letters.tally.candidates)
            raise
        finally:
            self.tally.take_over(letters.tally)
        if letters.refusal:
            self._note_refusal(letters.refusal, code_of(letters.refusal), "dead-lettering")

    async def _look_at_index(self, stored: Sequence[bytes]) -> None:
        if self._documents is not None:
            self.tally.take_over(await self._documents.note(stored))

    def _note_refusal(self, error: Exception, code: str, doing: str) -> None:
        """A server refused a write, for a reason that the next entry there would meet too."""
        ours = error if isinstance(error, JanitorError) else in_words(error, doing, self._context.settings)
        if self._context.link.is_cluster and is_one_servers(code):
            self._state.note(ours)  # the others are well: go on with theirs
        else:
            self._state.fail(ours)
            self._state.needs_reconnect = FAULTS.get(code) is Fault.RECONNECT


class _Attempt:
    """Settles a batch, again and again if need be; what a lost attempt settled then looks as if someone else had."""

    def __init__(self, settler: Settler, entries: Sequence[PendingEntry]) -> None:
        self._settler = settler
        self._entries = entries
        self._is_repeated = False

    async def __call__(self) -> Batch:
        was_repeated, self._is_repeated = self._is_repeated, True
        batch = await self._settler.settle(self._entries)
        if was_repeated:
            batch.counts[Outcome.UNKNOWN], batch.lost = batch.lost, 0
        return batch
