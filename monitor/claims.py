"""Claims by XCLAIM with the minimum idle time, within the rate limit; the delivery count stays as it is (JUSTID)."""

from __future__ import annotations

from typing import NamedTuple

from monitor.rate import rate_key
from monitor.scripts import claim_script
from shared.redis_client import Command, RedisLink, Reply, TooFewReplicas
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
    is_confirmed: bool = True
    """Whether as many replicas have the claim as were asked for; if not, ``ids`` is empty."""


class Claims:
    """Claims entries of one stream's group for the janitor's own consumer."""

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        telemetry: GroupTelemetry = SILENT_GROUP,
        replicas: int | None = 0,
    ) -> None:
        """``replicas`` have to confirm a claim, as ``RedisLink.write_and_wait`` has it."""
        self._link = link
        self._settings = settings
        self._script = claim_script()
        self._telemetry = telemetry
        self._replicas = replicas

    async def claim(self, ids: list[bytes], min_idle_ms: int) -> Claimed:
        """Claim those of ``ids``, ascending, that are still idle for ``min_idle_ms``.

        Raises:
            redis.exceptions.RedisError: any of them may be ours by now; repeating is safe, if only after ``min_idle_ms``.
        """
        with self._telemetry.claim(len(ids)):
            reply = await self._reply(self._command(ids, min_idle_ms))
        if isinstance(reply, TooFewReplicas):
            return Claimed(len(ids), set(), is_confirmed=False)
        if not self._settings.rate_limit:
            return Claimed(len(ids), set(reply))
        tried, wait_ms, lost = reply
        return Claimed(tried, set(ids[:tried]).difference(lost), wait_ms / 1000)

    async def _reply(self, command: Command) -> Reply:
        if self._replicas == 0 and not self._settings.rate_limit:
            return await self._link.call(*command)
        (reply,) = await self._script.write_and_wait(self._link, [command], self._replicas)
        if isinstance(reply, Exception) and not isinstance(reply, TooFewReplicas):
            raise reply
        return reply

    def _command(self, ids: list[bytes], min_idle_ms: int) -> Command:
        """JUSTID: the fields are here already, and the delivery count stays as it is."""
        settings = self._settings
        if not settings.rate_limit:
            return ("XCLAIM", settings.stream, settings.group, settings.consumer, min_idle_ms, *ids, "JUSTID")
        head = self._script.named(
            group=settings.group, consumer=settings.consumer, min_idle_ms=min_idle_ms, rate_limit=settings.rate_limit
        )
        return self._script.command((settings.stream, rate_key(settings)), (*head, *ids))
