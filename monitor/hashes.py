"""Storing from our side: an entry under its key by the rule of ON_CONFLICT, confirmed by replicas where that is asked for.

What settle.lua does inside Redis, for those who hold the fields: gather and redrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from monitor.outcomes import OUTCOMES, Outcome
from monitor.scripts import store_script, touch_script
from monitor.storing import Storing
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import StreamSettings

_WROTE_NOTHING: Final = (OUTCOMES[Outcome.KEPT].wire, OUTCOMES[Outcome.SUPERSEDED].wire)


def ttl_of(settings: StreamSettings) -> int | None:
    """What STORE_TTL_SEC gives a key, in seconds; 0: it lives for good; None: its expiry stays as it is."""
    return None if settings.store_ttl_ms is None else settings.store_ttl_ms // 1000


def expiry_command(ttl_s: int) -> str:
    """What sets STORE_TTL_SEC: EXPIRE, or PERSIST for 0."""
    return "EXPIRE" if ttl_s else "PERSIST"


def is_stored_by_script(settings: StreamSettings) -> bool:
    """Whether gather and redrive need store.lua for a write: more than one command in one step.

    An EXPIRE of its own would run where the HSET failed.
    """
    return settings.on_conflict != "overwrite" or settings.store_ttl_ms is not None


class Store:
    """The hashes of one stream."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        ttl_s = ttl_of(settings)
        self._rule = settings.on_conflict if ttl_s is None else f"{settings.on_conflict} ttl={ttl_s}"
        self._replicas = settings.ack_replicas
        self._is_by_script = is_stored_by_script(settings)
        self._script = store_script()
        self._touch = touch_script()

    async def write(self, entries: Sequence[Storing]) -> list[Reply]:
        """For each entry a number or ``stored``, ``kept``, ``superseded``, or the error that it met; ``TooFewReplicas`` is one.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may be stored; repeating is safe.
        """
        commands = [self._command(entry) for entry in entries]
        replies = await self._script.written(self._link, commands, self._replicas)
        if self._replicas or (self._replicas is None and self._link.is_cluster):
            await self._confirm_what_was_there(entries, replies)
        return replies

    def _command(self, entry: Storing) -> Command:
        if self._is_by_script:
            return self._script.command((entry.key,), (self._rule, entry.entry_id, *entry.fields))
        return ("HSET", entry.key, *entry.fields)

    async def _confirm_what_was_there(self, entries: Sequence[Storing], replies: list[Reply]) -> None:
        """Kept and superseded entries wrote nothing, so WAIT had nothing to confirm: a replica may lack the hash that was
        there, such as one whose confirmation was missed the last time."""
        there = [at for at, reply in enumerate(replies) if reply in _WROTE_NOTHING]
        touches = [self._touch.command((entries[at].key,), ()) for at in there]
        touched = await self._touch.written(self._link, touches, self._replicas) if touches else []
        for at, reply in zip(there, touched, strict=True):
            if isinstance(reply, Exception):
                replies[at] = reply
