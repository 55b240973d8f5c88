"""Requeueing inside Redis: requeue.lua adds and acknowledges where the entries lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from monitor.actions.in_scripts import InScripts, keys_for, reason_why_not
from monitor.actions.requeue_target import is_the_targets, refused_by_target
from monitor.batch import Batch, Settler
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.scripts import requeue_probe_script, requeue_script
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

WIDE: Final = b"wide"
"""requeue.lua's word for an entry of more fields than a script can add."""


class RequeueByScript(InScripts):
    """Requeues by requeue.lua."""

    settled_as = Outcome.REQUEUED

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        by_pipelines: Settler,
        telemetry: GroupTelemetry = SILENT_GROUP,
    ) -> None:
        """``by_pipelines``: for the entries that a script cannot carry."""
        keys = (settings.stream, settings.requeue_target)
        arguments = {"most_requeues": settings.max_requeues}
        super().__init__(link, settings, telemetry, requeue_script(), keys, arguments)
        self._settings = settings
        self._by_pipelines = by_pipelines

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        try:
            reply = await self._run(entries)
        except ResponseError as error:
            if is_the_targets(error):
                return refused_by_target(self._settings, error, [entry.entry_id for entry in entries])
            raise
        taken, named, *_ = reply
        if not taken and WIDE in named[1::2]:
            return await self._by_pipelines.settle(entries[:1])
        return self._batch_of(entries, reply)


async def script_may_requeue(link: RedisLink, settings: StreamSettings) -> str | None:
    """None if a script may requeue this stream's entries; else ``reason_why_not``."""
    keys = keys_for(settings, settings.stream, settings.requeue_target)
    return await reason_why_not(requeue_probe_script(), link, keys, (settings.group,))
