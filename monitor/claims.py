"""Claims by XCLAIM with the minimum idle time, within the rate limit; the delivery count stays as it is (JUSTID)."""

from __future__ import annotations

from typing import NamedTuple

from monitor.rate import rate_key
from monitor.scripts import claim_script
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class Claimed(NamedTuple):
    """What came of a claim."""

    tried: int
    """How many of the ids were tried: all, unless the rate limit grants no more."""
    ids: set[bytes]
    """Which of these are ours from here on; the others are someone else's, acknowledged, or gone."""
    wait_s: float = 0.0
    """How long the rate limit grants nothing for the others."""


class Claims:
    """Claims entries of one stream's group for the janitor's own consumer."""

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        self._link = link
        self._settings = settings
        self._script = claim_script()
        self._telemetry = telemetry

    async def claim(self, ids: list[bytes], min_idle_ms: int) -> Claimed:
        """Claim those of ``ids``, ascending, that are still idle for ``min_idle_ms``.

        Raises:
            redis.exceptions.RedisError: any of them may be ours by now; repeating is safe, if only after ``min_idle_ms``.
        """
        with self._telemetry.claim(len(ids)):
            if self._settings.rate_limit:
                return await self._claim_within_limit(ids, min_idle_ms)
            group, consumer = self._settings.group, self._settings.consumer
            claimed = await self._link.call(
                "XCLAIM", self._settings.stream, group, consumer, min_idle_ms, *ids, "JUSTID"
            )
        return Claimed(len(ids), set(claimed))

    async def _claim_within_limit(self, ids: list[bytes], min_idle_ms: int) -> Claimed:
        settings = self._settings
        head = self._script.named(
            group=settings.group, consumer=settings.consumer, min_idle_ms=min_idle_ms, rate_limit=settings.rate_limit
        )
        keys = (settings.stream, rate_key(settings))
        tried, wait_ms, lost = await self._script.run(self._link, keys, (*head, *ids))
        return Claimed(tried, set(ids[:tried]).difference(lost), wait_ms / 1000)
