"""``store``: an abandoned entry becomes a hash that the search index covers, and is acknowledged.

Two ways, one result: settle.lua does it inside Redis (script.py); where a script may not, the entries are carried here and
back in pipelines (gather.py).
"""

from __future__ import annotations

from monitor.actions.gather import GatherSettle
from monitor.actions.script import ScriptSettle, script_is_allowed
from monitor.actions.two_ways import TwoWays
from monitor.batch import Settler
from monitor.hashes import require_json
from monitor.settle_mode import SettleMode, settle_mode_of
from shared.id_fields import first_path
from shared.redis_client import RedisLink
from shared.settings import StreamSettings


class StoreAction(TwoWays):
    """Stores, by the way that this server allows."""

    uses_index = True

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        path = first_path(settings.id_fields)
        if path is not None and settings.settle_mode != "gather" and not settings.ack_replicas:
            reason = f"ID_FIELDS has a path into JSON, {path}, which a script does not read"
            return SettleMode("gather", reason, "ID_FIELDS")
        return await settle_mode_of(settings, lambda: script_is_allowed(link, settings))

    async def prepare(self) -> None:
        await require_json(self._context.link, self._context.settings)

    def by_script(self) -> Settler:
        return ScriptSettle(self._context.link, self._context.settings, self._context.telemetry)

    def by_pipelines(self) -> Settler:
        context = self._context
        return GatherSettle(context.link, context.settings, context.concurrency, context.telemetry)
