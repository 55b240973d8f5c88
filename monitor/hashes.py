"""Storing from our side: an entry under its key by the rule of ON_CONFLICT, confirmed by replicas where that is asked for.

What settle.lua does inside Redis, for those who hold the fields: gather and redrive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from monitor.outcomes import NOT_JSON, OUTCOMES, WRONG_TYPE, Outcome
from monitor.scripts import document_script, store_script, touch_key_script, touch_script
from monitor.storing import Storing
from shared.errors import RedisRefused
from shared.redis_client import Command, RedisLink, Reply
from shared.retry import code_of
from shared.settings import StreamSettings

_STORED, _KEPT = OUTCOMES[Outcome.PROCESSED].wire, OUTCOMES[Outcome.KEPT].wire
_WROTE_NOTHING: Final = (_KEPT, OUTCOMES[Outcome.SUPERSEDED].wire)
_NAMED_FAULT: Final = re.compile(r"^FAULT (\w+)")
"""How a script words an entry's own fault (see store.lua)."""
_NOT_JSON: Final = re.compile(r" at line \d+ column \d+")
"""How JSON.SET words what it cannot read."""
NO_JSON: Final = (
    "STORE_AS is json, but this Redis has no JSON.SET: load RedisJSON, use Redis 8 or Azure Managed Redis with RedisJSON, or "
    "set STORE_AS=hash"
)


def ttl_of(settings: StreamSettings) -> int | None:
    """What STORE_TTL_SEC gives a key, in seconds; 0: it lives for good; None: its expiry stays as it is."""
    return None if settings.store_ttl_ms is None else settings.store_ttl_ms // 1000


def expiry_command(ttl_s: int) -> str:
    """What sets STORE_TTL_SEC: EXPIRE, or PERSIST for 0."""
    return "EXPIRE" if ttl_s else "PERSIST"


def is_stored_by_script(settings: StreamSettings) -> bool:
    """Whether gather and redrive need a script for a write: more than one command in one step.

    An EXPIRE of its own would run where the write failed.
    """
    return settings.store_ttl_ms is not None or (settings.store_as == "hash" and settings.on_conflict != "overwrite")


def fault_of_write(error: Exception) -> str:
    """The fault of an entry whose write met an error that is its own (see ``is_entrys_own``)."""
    named = _NAMED_FAULT.match(str(error))
    if named:
        return named[1]
    if _NOT_JSON.search(str(error)):
        return NOT_JSON
    code = code_of(error)
    return WRONG_TYPE if code == "WRONGTYPE" else f"error:{code}"


async def require_json(link: RedisLink, settings: StreamSettings) -> None:
    """Make sure that this Redis can store what STORE_AS says; writes nothing.

    Raises:
        RedisRefused: it has no RedisJSON.
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
    """
    if settings.store_as != "json":
        return
    # Without its arguments: a server that knows the command refuses them.
    (reply,) = await link.pipelined([("JSON.SET", f"{settings.hash_prefix}probe")])
    if isinstance(reply, ResponseError) and code_of(reply) == "NOCOMMAND":
        raise RedisRefused(NO_JSON)


class Store:
    """The hashes, or documents, of one stream."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._ttl_s = ttl_of(settings)
        self._on_conflict = settings.on_conflict
        self._rule = settings.on_conflict if self._ttl_s is None else f"{settings.on_conflict} ttl={self._ttl_s}"
        self._replicas = settings.ack_replicas
        self._is_by_script = is_stored_by_script(settings)
        self._is_json = settings.store_as == "json"
        self._script = document_script() if self._is_json else store_script()
        self._touch = touch_key_script() if self._is_json else touch_script()

    async def write(self, entries: Sequence[Storing]) -> list[Reply]:
        """For each entry a number or ``stored``, ``kept``, ``superseded``, or the error that it met; ``TooFewReplicas`` is one.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may be stored; repeating is safe.
        """
        commands = [self._command(entry) for entry in entries]
        replies = await self._script.write_and_wait(self._link, commands, self._replicas)
        if self._is_json:  # JSON.SET says OK, or nothing where NX found a key
            replies = [_STORED if reply == b"OK" else _KEPT if reply is None else reply for reply in replies]
        if self._replicas or (self._replicas is None and self._link.is_cluster):
            await self._confirm_what_was_there(entries, replies)
        return replies

    def _command(self, entry: Storing) -> Command:
        if self._is_json:
            return self._document_command(entry)
        if self._is_by_script:
            return self._script.command((entry.key,), (self._rule, entry.entry_id, *entry.fields))
        return ("HSET", entry.key, *entry.fields)

    def _document_command(self, entry: Storing) -> Command:
        assert entry.document is not None
        if self._ttl_s is not None:
            return self._script.command((entry.key,), (self._on_conflict, self._ttl_s, entry.document))
        unless_there = ("NX",) if self._on_conflict == "keep" else ()
        return ("JSON.SET", entry.key, "$", entry.document, *unless_there)

    async def _confirm_what_was_there(self, entries: Sequence[Storing], replies: list[Reply]) -> None:
        """Kept and superseded entries wrote nothing, so WAIT had nothing to confirm: a replica may lack the hash that was
        there, such as one whose confirmation was missed the last time."""
        there = [at for at, reply in enumerate(replies) if reply in _WROTE_NOTHING]
        touches = [self._touch.command((entries[at].key,), ()) for at in there]
        touched = await self._touch.write_and_wait(self._link, touches, self._replicas) if touches else []
        for at, reply in zip(there, touched, strict=True):
            if isinstance(reply, Exception):
                replies[at] = reply
