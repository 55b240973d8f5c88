"""``store``: an abandoned entry becomes a hash that the search index covers, and is acknowledged.

Two ways, one result: settle.lua does it inside Redis (script.py); where a script may not, the entries are carried here and
back in pipelines (gather.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from monitor.actions import Retry
from monitor.actions.gather import GatherSettle
from monitor.actions.script import ScriptSettle, script_is_allowed
from monitor.batch import ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")


@dataclass(frozen=True, slots=True)
class SettleMode:
    """How a stream's entries are settled, and why so."""

    name: str
    """``script`` or ``gather``."""
    reason: str
    asked_by: str | None = None
    """The setting that asks for it, whatever the server allows."""
    is_refused: bool = False
    """SETTLE_MODE is script, and the server does not let a script settle."""


async def settle_mode(link: RedisLink, settings: StreamSettings) -> SettleMode:
    """Script or gather, by the settings and by what the server says.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    for setting, asks in (("SETTLE_MODE", settings.settle_mode == "gather"), ("ACK_REPLICAS", settings.ack_replicas)):
        if asks:
            return SettleMode("gather", f"{setting} asks for it", setting)
    reason = await script_is_allowed(link, settings)
    if reason is None:
        return SettleMode("script", "a script may")
    if settings.settle_mode == "script":
        return SettleMode("script", reason, is_refused=True)
    return SettleMode("gather", reason)


class StoreAction:
    """Stores, by the way that this server allows."""

    uses_index = True

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._context = context
        self._resume = resume
        self._settler = resume.settle

    async def settler(self, retry: Retry) -> Settler:
        if self._settler is None:
            mode = await retry(lambda: settle_mode(self._context.link, self._context.settings))
            if mode.is_refused:
                raise RedisRefused(
                    f"SETTLE_MODE is script, but a script cannot settle here: {mode.reason}; use auto or gather"
                )
            self._use(mode)
        assert self._settler is not None
        return self._settler

    def fall_back(self, refusal: ScriptNotAllowed) -> None:
        link, settings = self._context.link, self._context.settings
        if settings.settle_mode == "script":
            raise RedisRefused(
                f"SETTLE_MODE is script, but the server does not let it settle ({refusal}); use auto or gather"
                + (", unless a slot is just being moved" if link.is_cluster else "")
            )
        if isinstance(self._settler, ScriptSettle):  # another batch in flight may have fallen back already
            self._use(SettleMode("gather", f"a script may not: {refusal}"))
            if link.is_cluster:  # perhaps only while a slot is being moved: the next sweep asks again
                self._resume.settle = None

    def _use(self, mode: SettleMode) -> None:
        context, settings = self._context, self._context.settings
        if mode.name == "script":
            self._settler = ScriptSettle(context.link, settings, context.telemetry)
        else:
            self._settler = GatherSettle(context.link, settings, context.concurrency, context.telemetry)
        self._resume.settle = self._settler
        logger.info("settle mode for %s/%s: %s (%s)", settings.stream, settings.group, mode.name, mode.reason)
