"""What an action would do with an entry, and why; found out without writing anything.

Reads XPENDING and XRANGE, and for store the type of the hash's key. Claiming would reset idle times, so nothing is claimed; an
error that only a write would meet cannot be foreseen.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from monitor.decide import is_abandoned
from monitor.outcomes import ABANDONED, NOT_JSON, REQUEUED_TOO_OFTEN, WRONG_TYPE, Outcome, fault_explained
from monitor.patience import Patience
from monitor.pending import LAST, PendingEntry, milliseconds_of, order_of
from monitor.requeued import requeued
from monitor.storing import STORED_ID_FIELD, Storing, StoringRule
from shared.redis_client import Command, RedisLink, Reply, raise_first
from shared.settings import StreamSettings

KEY_TYPES: Final = {"hash": b"hash", "json": b"ReJSON-RL"}
"""STORE_AS → what TYPE answers for what is stored."""
WORDS: Final = {"hash": "hash", "json": "document"}
GONE: Final = "gone from the stream while pending"
KEY_IS_HIDDEN: Final = "what its hash key holds this user may not see (+type)"
_ID = re.compile(rb"\d{1,20}-\d{1,20}")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a sweep would do with one entry. ``outcome`` is None if it would leave it alone."""

    outcome: Outcome | None
    reason: str = ""
    """Why, where it is not simply stored."""
    hash_key: bytes | None = None
    is_guess: bool = False
    """What is at the hash key was not to be seen."""


LEFT_ALONE: Final = Forecast(None)


@dataclass(frozen=True, slots=True)
class KeyState:
    """What there is at the entry's hash key; None where the user may not look."""

    key_type: bytes | None = None
    stored_id: bytes | None = None


def capped(row: PendingEntry, settings: StreamSettings) -> Forecast | None:
    """The forecast for a row that was delivered too often, whatever the action; None for the others."""
    fault = Patience.of(settings).cap_of(row.deliveries)
    return None if fault is None else _invalid(fault, settings)


def left_alone(row: PendingEntry, now_ms: int, end: bytes, settings: StreamSettings) -> Forecast | None:
    """The forecast for a row that no sweep would take up now; None for the others."""
    wanted_s, idle_s = settings.min_idle_ms / 1000, row.idle_ms / 1000
    patience = Patience.of(settings)
    if not is_abandoned(row.idle_ms, settings.min_idle_ms):
        if row.deliveries > 1:
            return Forecast(None, f"taken: delivery {row.deliveries} was {idle_s:.1f} s ago, under {wanted_s:g} s")
        return Forecast(None, f"too young: idle for {idle_s:.1f} s, under {wanted_s:g} s")
    if not patience.is_due(row.idle_ms, row.deliveries):
        due_s = patience.threshold_ms(row.deliveries) / 1000
        return Forecast(
            None, f"waiting: after {row.deliveries} deliveries it is due when idle for {due_s:g} s (RETRY_BACKOFF), and is "
            f"for {idle_s:.1f} s",
        )  # fmt: skip
    if end != LAST and milliseconds_of(row.entry_id) > order_of(end)[0]:
        age_s = (now_ms - milliseconds_of(row.entry_id)) / 1000
        return Forecast(
            None, f"too young: released early, and found once it is itself {wanted_s:g} s old ({age_s:.1f} s)"
        )
    return None


def _is_refused(document: bytes) -> bool:
    from monitor.document import is_refused_by_json_set

    return is_refused_by_json_set(document)


def _is_newer(stored_id: bytes, entry_id: bytes) -> bool:
    return bool(_ID.fullmatch(stored_id)) and order_of(stored_id) > order_of(entry_id)


def requeue_forecast(fields: Sequence[bytes] | None, entry_id: bytes, settings: StreamSettings) -> Forecast:
    if fields is None:
        return Forecast(Outcome.DELETED, GONE)
    if requeued(entry_id, fields, settings.max_requeues) is None:
        return _invalid(REQUEUED_TOO_OFTEN, settings)
    return Forecast(Outcome.REQUEUED)


def dead_letter_forecast(fields: Sequence[bytes] | None, settings: StreamSettings) -> Forecast:
    return Forecast(Outcome.DELETED, GONE) if fields is None else _invalid(ABANDONED, settings)


def _invalid(fault: str, settings: StreamSettings) -> Forecast:
    if settings.dead_letter_stream is None:
        return Forecast(Outcome.FAILED, fault_explained(fault))
    return Forecast(Outcome.DEAD_LETTERED, fault_explained(fault))


async def read_fields(link: RedisLink, stream: str, ids: Sequence[bytes]) -> list[list[bytes] | None]:
    """What each entry holds, names and values in turn; None for one that is gone."""
    replies = await link.pipelined(("XRANGE", stream, entry_id, entry_id) for entry_id in ids)
    raise_first(replies)
    return [reply[0][1] if reply else None for reply in replies]


Fields = Sequence[list[bytes] | None]
Foresee = Callable[[RedisLink, StreamSettings, Sequence[bytes], Fields], Awaitable[list[Forecast]]]


async def forecasts(link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields) -> list[Forecast]:
    """What the stream's action would do with each of ``ids``, which hold ``fields``; all of them are abandoned."""
    return await FORECASTS[settings.action](link, settings, ids, fields)


async def would_store(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> list[Forecast]:
    rule = StoringRule(settings)
    ruled = [_ruled(rule, entry_id, held, settings) for entry_id, held in zip(ids, fields, strict=True)]
    keys = [one.key for one in ruled if isinstance(one, Storing)]
    found = dict(zip(keys, await _key_states(link, settings, keys), strict=True)) if keys else {}
    return [_at_key(one, found[one.key], settings) if isinstance(one, Storing) else one for one in ruled]


def _ruled(
    rule: StoringRule, entry_id: bytes, held: list[bytes] | None, settings: StreamSettings
) -> Storing | Forecast:
    """What would be written; the forecast of an entry of which nothing would be."""
    if held is None:
        return Forecast(Outcome.DELETED, GONE)
    storing, fault = rule.of(entry_id, held)
    if storing is None:
        return _invalid(str(fault), settings)
    if storing.document is not None and _is_refused(storing.document):
        return _invalid(NOT_JSON, settings)
    return storing


def _at_key(storing: Storing, at_key: KeyState, settings: StreamSettings) -> Forecast:
    key, stored_type = storing.key, KEY_TYPES[settings.store_as]
    if at_key.key_type not in (None, b"none", stored_type):
        return _invalid(WRONG_TYPE, settings)
    if settings.on_conflict == "keep" and at_key.key_type == stored_type:
        return Forecast(Outcome.KEPT, f"there is a {WORDS[settings.store_as]} already", key)
    if at_key.stored_id is not None and _is_newer(at_key.stored_id, storing.entry_id):
        return Forecast(Outcome.SUPERSEDED, "the hash holds a newer entry", key)
    return Forecast(Outcome.PROCESSED, "", key, is_guess=at_key.key_type is None)


async def would_requeue(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> list[Forecast]:
    return [requeue_forecast(held, entry_id, settings) for entry_id, held in zip(ids, fields, strict=True)]


async def would_dead_letter(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> list[Forecast]:
    return [dead_letter_forecast(held, settings) for held in fields]


async def would_handle(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> list[Forecast]:
    """What the handler would say nobody knows."""
    return [Forecast(Outcome.DELETED, GONE) if held is None else Forecast(Outcome.HANDLED) for held in fields]


async def would_observe(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> list[Forecast]:
    """Nothing; the reason says what each other action would do."""
    by_action = await by_every_action(link, settings, ids, fields)
    return [
        Forecast(
            None, "ACTION=observe; " + "; ".join(f"{name}: {in_words(one[at])}" for name, one in by_action.items())
        )
        for at in range(len(ids))
    ]


async def by_every_action(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Fields
) -> dict[str, list[Forecast]]:
    """What each action that acts would do, by its name; unknown where this user may not look."""
    found = {}
    for name, foresee in FORECASTS.items():
        if name not in ("observe", "handle"):  # what a handler would say nobody knows
            found[name] = await foresee(link, settings, ids, fields)
    found["store"] = [
        Forecast(Outcome.UNKNOWN, KEY_IS_HIDDEN, one.hash_key) if one.is_guess else one for one in found["store"]
    ]
    return found


def in_words(one: Forecast) -> str:
    """``dead_lettered (no id field)``."""
    outcome = "left alone" if one.outcome is None else one.outcome.value
    return f"{outcome} ({one.reason})" if one.reason else outcome


FORECASTS: Final[dict[str, Foresee]] = {
    "store": would_store,
    "requeue": would_requeue,
    "handle": would_handle,
    "dead_letter": would_dead_letter,
    "observe": would_observe,
}
"""ACTION's value → what it would do."""


async def _key_states(link: RedisLink, settings: StreamSettings, keys: Sequence[bytes]) -> list[KeyState]:
    asks_for_id = settings.on_conflict == "newer"
    commands: list[Command] = [("TYPE", key) for key in keys]
    if asks_for_id:
        commands += [("HGET", key, STORED_ID_FIELD) for key in keys]
    replies = [None if isinstance(reply, Exception) else reply for reply in await link.pipelined(commands)]
    stored_ids: Sequence[Reply] = replies[len(keys) :] if asks_for_id else [None] * len(keys)
    return [KeyState(kind, held) for kind, held in zip(replies[: len(keys)], stored_ids, strict=True)]
