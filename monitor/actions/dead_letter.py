"""``dead_letter``: every abandoned entry is moved to the dead-letter stream, byte for byte, and acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.actions import Retry
from monitor.batch import Batch, Refused, ScriptNotAllowed, Settler
from monitor.claimer import Claimer
from monitor.context import ResumeState, SweepContext
from monitor.dead_letter import DeadLetters
from monitor.outcomes import ABANDONED
from monitor.pending import PendingEntry
from monitor.settle_mode import SettleMode
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class DeadLetterAction:
    """Moves by pipelines, on any server: XRANGE, XCLAIM, XADD, XACK."""

    uses_index = False

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._context = context
        self._resume = resume

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        return SettleMode("gather", "entries are moved by pipelines", "ACTION=dead_letter")

    async def settler(self, retry: Retry) -> Settler:
        if self._resume.settle is None:
            context = self._context
            self._resume.settle = MoveAll(context.link, context.settings, context.concurrency, context.telemetry)
        return self._resume.settle

    def fall_back(self, refusal: ScriptNotAllowed) -> None:
        raise AssertionError("no script settles here") from refusal


class MoveAll:
    """Claims with the minimum idle time, adds to the dead-letter stream, acknowledges; ``concurrency`` batches overlap."""

    name = "gather"

    def __init__(
        self, link: RedisLink, settings: StreamSettings, concurrency: int, telemetry: GroupTelemetry = SILENT_GROUP
    ) -> None:
        self.concurrency = concurrency
        self._link = link
        self._settings = settings
        self._claimer = Claimer(link, settings, telemetry)
        self._telemetry = telemetry

    @property
    def batch_size(self) -> int:
        return self._claimer.portion.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._claimer.portion.size = size

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        async with self._link.turn_at(self._settings.stream, self.concurrency):
            claimed = await self._claimer.claim(entries)
            batch = claimed.batch
            if claimed.held:
                letters = DeadLetters(self._link, self._settings)
                with self._telemetry.settle(len(claimed.held)):
                    await letters.move([(Refused(entry, ABANDONED), fields) for entry, fields in claimed.held])
                batch.counted = letters.tally
                if letters.failure:
                    batch.server_refusal, batch.refusal = code_of(letters.failure), letters.failure
                if letters.has_unconfirmed:
                    batch.lacks_replicas = True
            await self._claimer.take_off(claimed)
            return batch
