"""Storing from our side: an entry into its hash by the rule of ON_CONFLICT, confirmed by replicas where that is asked for.

What settle.lua does inside Redis, for those who hold the fields: gather and redrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from monitor.outcomes import OUTCOMES, Outcome
from monitor.scripts import store_script, touch_script
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import StreamSettings

_WROTE_NOTHING: Final = (OUTCOMES[Outcome.KEPT].wire, OUTCOMES[Outcome.SUPERSEDED].wire)


class Storing(NamedTuple):
    """One entry on its way into its hash."""

    key: bytes
    entry_id: bytes
    fields: Sequence[bytes]


class Store:
    """The hashes of one stream."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._rule = settings.on_conflict
        self._replicas = settings.ack_replicas
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
        if self._rule == "overwrite":
            return ("HSET", entry.key, *entry.fields)
        return self._script.command((entry.key,), (self._rule, entry.entry_id, *entry.fields))

    async def _confirm_what_was_there(self, entries: Sequence[Storing], replies: list[Reply]) -> None:
        """Kept and superseded entries wrote nothing, so WAIT had nothing to confirm: a replica may lack the hash that was
        there, such as one whose confirmation was missed the last time."""
        there = [at for at, reply in enumerate(replies) if reply in _WROTE_NOTHING]
        touches = [self._touch.command((entries[at].key,), ()) for at in there]
        touched = await self._touch.written(self._link, touches, self._replicas) if touches else []
        for at, reply in zip(there, touched, strict=True):
            if isinstance(reply, Exception):
                replies[at] = reply
