"""``dead_letter``: every abandoned entry is moved to the dead-letter stream, byte for byte, and acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.actions import Retry
from monitor.batch import Batch, Refused, ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from monitor.dead_letter import DeadLetters
from monitor.moving import Moving
from monitor.outcomes import ABANDONED
from monitor.pipelines import Held
from monitor.settle_mode import SettleMode
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings


class DeadLetterAction:
    """Moves by pipelines, on any server: XRANGE, XCLAIM, XADD, XACK."""

    uses_index = mixes_thresholds = False

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


class MoveAll(Moving):
    """Adds to the dead-letter stream."""

    async def _move(self, ours: Sequence[Held], batch: Batch) -> None:
        letters = DeadLetters(self._link, self._settings)
        with self._telemetry.settle(len(ours)):
            await letters.move([(Refused(entry, ABANDONED), fields) for entry, fields in ours])
        batch.counted = letters.tally
        batch.lacks_replicas = letters.has_unconfirmed
        if letters.failure:
            batch.server_refusal, batch.refusal = code_of(letters.failure), letters.failure
