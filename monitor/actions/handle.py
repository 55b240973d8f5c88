"""``handle``: the user's own code says what becomes of an abandoned entry.

An attempt is counted before the code runs (attempt.lua), so that code which takes the process down reaches its cap too. What
it said is carried out only where the claim is still ours (fence.lua). The parts are in monitor/handling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from monitor.actions import Retry
from monitor.batch import Batch, ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from monitor.handling.find import HandlerSpec
from monitor.handling.opened import OpenHandler
from monitor.handling.runner import Runner
from monitor.handling.settler import HandleSettler
from monitor.patience import Patience
from monitor.pending import PendingEntry
from monitor.settle_mode import SettleMode
from monitor.sweep_state import SweepState
from shared.errors import HandlerUnusable, RedisRefused
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from stream_janitor import Unavailable

SHIPPED_OPTIONS = ("HANDLER_URL", "HANDLER_SECRET", "SQL_TABLE", "SQL_COLUMNS", "HANDLER_TIMEOUT_SEC")


class HandleAction:
    """Opens the handler, once for the process, and calls it."""

    uses_index = False
    mixes_thresholds = True

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._context, self._resume = context, resume
        self._patience = Patience.of(context.settings)
        self._settler: Settler | None = None
        self._opening = asyncio.Lock()

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        return SettleMode("handle", "entries are carried to the handler", "ACTION=handle")

    async def settler(self, retry: Retry) -> Settler:
        async with self._opening:
            if self._settler is None:
                self._settler = await self._made()
        return self._settler

    async def _made(self) -> Settler:
        context = self._context
        assert context.runner is not None
        assert context.state is not None
        handler = await self._open(context.runner)
        settler = HandleSettler(context, context.state, context.runner, handler, self._threshold_ms)
        return ProbingSettler(settler, self._resume, context.state)

    async def _open(self, runner: Runner) -> OpenHandler:
        settings = self._context.settings
        try:
            return await runner.open(spec_of(settings), settings.handler_timeout_ms / 1000)
        except Unavailable as unavailable:
            raise HandlerUnusable(f"the handler is unavailable: {unavailable.reason}") from None

    def _threshold_ms(self, deliveries: int) -> int:
        return self._patience.threshold_ms(deliveries)

    def fall_back(self, refusal: ScriptNotAllowed) -> None:
        raise RedisRefused(f"ACTION=handle needs scripts, and the server does not let one run here: {refusal}")


class ProbingSettler:
    """Makes one call alone after a sweep in which the handler was unavailable, and lets the others go on when it is back."""

    keeps_whole_batches = True

    def __init__(self, settler: HandleSettler, resume: ResumeState, state: SweepState) -> None:
        self._settler, self._resume, self._state = settler, resume, state
        self.name, self.batch_size, self.concurrency = settler.name, settler.batch_size, settler.concurrency
        self._probe = asyncio.Lock()

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        if self._resume.handler_is_away:
            async with self._probe:
                if self._state.is_ending:
                    return Batch(0)
                if self._resume.handler_is_away:
                    return await self._settle_as_probe(entries)
        batch = await self._settler.settle(entries)
        self._resume.handler_is_away |= self._settler.is_away
        return batch

    async def _settle_as_probe(self, entries: Sequence[PendingEntry]) -> Batch:
        calls = self._settler.calls
        batch = await self._settler.settle(entries)
        if self._settler.calls > calls:
            self._resume.handler_is_away = self._settler.is_away
        return batch


def spec_of(settings: StreamSettings) -> HandlerSpec:
    """What the stream's settings name."""
    assert settings.handler is not None
    options = {
        "HANDLER_URL": settings.handler_url or "",
        "HANDLER_SECRET": settings.handler_secret or "",
        "SQL_TABLE": settings.sql_table or "",
        "SQL_COLUMNS": settings.sql_columns or "",
        "HANDLER_TIMEOUT_SEC": f"{settings.handler_timeout_ms / 1000:g}",
    }
    return HandlerSpec(settings.handler, settings.handler_path, tuple(options.items()))
