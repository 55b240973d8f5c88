"""``requeue``: an abandoned entry is added to a stream again, for its living consumers, and acknowledged.

Two ways, one result: requeue.lua does it inside Redis where stream and target lie in one slot (requeue_script.py); elsewhere
the entries are carried here and back in pipelines (requeue_pipelines.py). At least once: where a reply is lost between the
two writes, an entry may be added twice.
"""

from __future__ import annotations

import logging

from redis.exceptions import ResponseError

from monitor.actions import Retry
from monitor.actions.requeue_pipelines import RequeueByPipelines
from monitor.actions.requeue_script import RequeueByScript, script_may_requeue
from monitor.actions.requeue_target import in_words
from monitor.actions.two_ways import TwoWays
from monitor.batch import Settler
from monitor.group_stats import other_groups
from monitor.settle_mode import SettleMode, settle_mode_of
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")


class RequeueAction(TwoWays):
    """Requeues, by the way that this server allows, once it knows who reads the target."""

    _has_looked = False

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        return await settle_mode_of(settings, lambda: script_may_requeue(link, settings))

    async def settler(self, retry: Retry) -> Settler:
        if not self._has_looked:  # once a sweep: groups come and go
            await retry(lambda: look_at_groups(self._context.link, self._context.settings))
            self._has_looked = True
        return await super().settler(retry)

    def by_script(self) -> Settler:
        context = self._context
        by_pipelines = self.by_pipelines()  # for entries of more fields than a script can add
        return RequeueByScript(context.link, context.settings, by_pipelines, context.telemetry)

    def by_pipelines(self) -> Settler:
        context = self._context
        return RequeueByPipelines(context.link, context.settings, context.concurrency, context.telemetry)


async def look_at_groups(link: RedisLink, settings: StreamSettings) -> None:
    """Refuse to add to a stream that other groups read as well; warn where nobody reads what is added.

    Raises:
        RedisRefused: other groups would see each requeued entry as a new one, or whether there are any is not to be seen.
        redis.exceptions.RedisError: the server could not be asked; asking again is safe.
    """
    target = settings.requeue_target
    is_elsewhere = target != settings.stream
    if not is_elsewhere and settings.requeue_with_other_groups:
        return
    try:
        others, is_read = await other_groups(link, target, "" if is_elsewhere else settings.group)
    except ResponseError as error:
        if code_of(error) == "WRONGTYPE":
            raise in_words(settings, error) from None
        if code_of(error) != "NOPERM":
            raise
        if not is_elsewhere:
            raise RedisRefused(cannot_see_groups(settings)) from None
        return
    if is_elsewhere and not is_read:
        logger.warning("%s: %s", settings.label, nobody_reads(settings))
    if not is_elsewhere and others:
        raise RedisRefused(others_would_see(settings, others))


def others_would_see(settings: StreamSettings, names: list[str]) -> str:
    return (
        f"ACTION=requeue: {settings.stream} is read by other groups as well ({', '.join(names)}), which would see each "
        "requeued entry as a new one: set REQUEUE_TO to another stream, or REQUEUE_WITH_OTHER_GROUPS=true"
    )


def nobody_reads(settings: StreamSettings) -> str:
    return f"REQUEUE_TO {settings.requeue_target} has no consumer group: nobody reads there what is requeued"


def cannot_see_groups(settings: StreamSettings) -> str:
    return (
        f"ACTION=requeue: whether other groups read {settings.stream} this user may not see: grant +xinfo|groups, or set "
        "REQUEUE_WITH_OTHER_GROUPS=true"
    )
