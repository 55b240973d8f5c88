"""An action that works inside Redis by a script where it may, and from here by pipelines elsewhere."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from typing import Final

from monitor.actions import Retry
from monitor.batch import ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from monitor.elsewhere import refuse_keys_elsewhere
from monitor.settle_mode import SettleMode
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")

ASK_AGAIN_S: Final = 600.0
"""Where the server's rights, version or slots are why no script settles: they may change while a process lives."""


class TwoWays(ABC):
    """Asks the server once which way it allows, and goes the other one where it changes its mind."""

    uses_index = mixes_thresholds = False

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._context = context
        self._resume = resume
        if resume.ask_again_s is not None and time.monotonic() >= resume.ask_again_s:
            resume.settle = resume.ask_again_s = None
        self._settler = resume.settle

    @classmethod
    @abstractmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        """By which way this stream is settled."""

    async def prepare(self) -> None:  # noqa: B027 - most actions need nothing
        """Ask the server, before anything is claimed, for what the settings need of it.

        Raises:
            JanitorError: it is not to be had here.
        """

    @abstractmethod
    def by_script(self) -> Settler: ...

    @abstractmethod
    def by_pipelines(self) -> Settler: ...

    async def settler(self, retry: Retry) -> Settler:
        if self._settler is None:
            await retry(lambda: refuse_keys_elsewhere(self._context.link, self._context.settings))
            await retry(self.prepare)
            mode = await retry(lambda: self.mode_of(self._context.link, self._context.settings))
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
        if self._settler is not None and self._settler.name == "script":  # another batch may have fallen back already
            self._use(SettleMode("gather", f"a script may not: {refusal}"))
            if link.is_cluster:  # perhaps only while a slot is being moved: the next sweep asks again
                self._resume.settle = None

    def _use(self, mode: SettleMode) -> None:
        settings = self._context.settings
        self._settler = self.by_script() if mode.name == "script" else self.by_pipelines()
        self._resume.settle = self._settler
        is_the_servers = mode.name == "gather" and mode.asked_by is None
        self._resume.ask_again_s = time.monotonic() + ASK_AGAIN_S if is_the_servers else None
        logger.info("settle mode for %s: %s (%s)", settings.label, mode.name, mode.reason)
