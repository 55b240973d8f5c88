"""What a sweep would do with an entry, and why; found out without writing anything.

Reads XPENDING and XRANGE, and the type of the hash's key. Claiming would reset idle times, so nothing is claimed; an error
that only a write would meet cannot be foreseen.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from monitor.decide import abandoned, is_abandoned, last_id_worth_reading
from monitor.entry_key import EntryKey
from monitor.outcomes import WRONG_TYPE, Outcome, fault_explained
from monitor.pending import LAST, PendingEntry, Summary, milliseconds_of, order_of
from monitor.redrive import page_size_after
from monitor.walk import Walk, ranges_from
from shared.redis_client import Command, RedisLink, Reply, raise_first
from shared.settings import StreamSettings

STORED_ID_FIELD = b"stream_entry_id"
"""Under ON_CONFLICT=newer: which entry a hash holds (see store.lua)."""
SMALLEST_GROUP = 8
_ID = re.compile(rb"\d{1,20}-\d{1,20}")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a sweep would do with one entry. ``outcome`` is None if it would leave it alone."""

    outcome: Outcome | None
    reason: str = ""
    """Why, where it is not simply stored."""
    hash_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class KeyState:
    """What there is at the entry's hash key; None where the user may not look."""

    key_type: bytes | None = None
    stored_id: bytes | None = None


def left_alone(row: PendingEntry, now_ms: int, end: bytes, settings: StreamSettings) -> Forecast | None:
    """The forecast for a row that no sweep would take up now; None for the others."""
    wanted_s, idle_s = settings.min_idle_ms / 1000, row.idle_ms / 1000
    if not is_abandoned(row.idle_ms, settings.min_idle_ms):
        if row.deliveries > 1:
            return Forecast(None, f"taken: delivery {row.deliveries} was {idle_s:.1f} s ago, under {wanted_s:g} s")
        return Forecast(None, f"too young: idle for {idle_s:.1f} s, under {wanted_s:g} s")
    if end != LAST and milliseconds_of(row.entry_id) > order_of(end)[0]:
        age_s = (now_ms - milliseconds_of(row.entry_id)) / 1000
        return Forecast(
            None, f"too young: released early, and found once it is itself {wanted_s:g} s old ({age_s:.1f} s)"
        )
    return None


def forecast(fields: Sequence[bytes] | None, at_key: KeyState, entry_id: bytes, settings: StreamSettings) -> Forecast:
    """The forecast for a row that a sweep would take up; ``fields`` is None if the stream does not have the entry."""
    if fields is None:
        return Forecast(Outcome.DELETED, "gone from the stream while pending")
    key, fault = EntryKey(settings).of(fields)
    if key is None:
        return _invalid(str(fault), settings)
    if at_key.key_type not in (None, b"none", b"hash"):
        return _invalid(WRONG_TYPE, settings)
    if settings.on_conflict == "keep" and at_key.key_type == b"hash":
        return Forecast(Outcome.KEPT, "there is a hash already", key)
    if at_key.stored_id is not None and _is_newer(at_key.stored_id, entry_id):
        return Forecast(Outcome.SUPERSEDED, "the hash holds a newer entry", key)
    return Forecast(Outcome.PROCESSED, "", key)


def _is_newer(stored_id: bytes, entry_id: bytes) -> bool:
    return bool(_ID.fullmatch(stored_id)) and order_of(stored_id) > order_of(entry_id)


def _invalid(fault: str, settings: StreamSettings) -> Forecast:
    if settings.dead_letter_stream is None:
        return Forecast(Outcome.FAILED, fault_explained(fault))
    return Forecast(Outcome.DEAD_LETTERED, fault_explained(fault))


async def read_fields(link: RedisLink, stream: str, ids: Sequence[bytes]) -> list[list[bytes] | None]:
    """What each entry holds, names and values in turn; None for one that is gone."""
    replies = await link.pipelined(("XRANGE", stream, entry_id, entry_id) for entry_id in ids)
    raise_first(replies)
    return [reply[0][1] if reply else None for reply in replies]


async def forecasts(
    link: RedisLink, settings: StreamSettings, ids: Sequence[bytes], fields: Sequence[list[bytes] | None]
) -> list[Forecast]:
    """The forecast for each of ``ids``, which hold ``fields``; all of them are abandoned."""
    first = [forecast(held, KeyState(), entry_id, settings) for entry_id, held in zip(ids, fields, strict=True)]
    keys = [one.hash_key for one in first if one.hash_key is not None]
    found = dict(zip(keys, await _key_states(link, settings, keys), strict=True)) if keys else {}
    return [
        forecast(held, found[one.hash_key], entry_id, settings) if one.hash_key is not None else one
        for one, entry_id, held in zip(first, ids, fields, strict=True)
    ]


async def _key_states(link: RedisLink, settings: StreamSettings, keys: Sequence[bytes]) -> list[KeyState]:
    asks_for_id = settings.on_conflict == "newer"
    commands: list[Command] = [("TYPE", key) for key in keys]
    if asks_for_id:
        commands += [("HGET", key, STORED_ID_FIELD) for key in keys]
    replies = [None if isinstance(reply, Exception) else reply for reply in await link.pipelined(commands)]
    stored_ids: Sequence[Reply] = replies[len(keys) :] if asks_for_id else [None] * len(keys)
    return [KeyState(kind, held) for kind, held in zip(replies[: len(keys)], stored_ids, strict=True)]


async def dry_run(
    link: RedisLink, settings: StreamSettings, summary: Summary, now_ms: int, page_size: int
) -> AsyncIterator[tuple[int, list[tuple[bytes, Forecast]]]]:
    """Walk the pending entries list as a sweep does: how many rows were looked at, and the forecasts of the abandoned ones."""
    end = last_id_worth_reading(summary, now_ms, settings.min_idle_ms)
    size = SMALLEST_GROUP
    if not summary.total:
        return
    async for rows in Walk(link, settings, page_size).pages(ranges_from(None, end)):
        ids = [entry.entry_id for entry in abandoned(rows, settings.min_idle_ms)]
        yield len(rows) - len(ids), []  # too young
        while ids:
            group, ids = ids[:size], ids[size:]
            fields = await read_fields(link, settings.stream, group)
            yield len(group), list(zip(group, await forecasts(link, settings, group, fields), strict=True))
            size = page_size_after(size, sum(sum(map(len, held)) for held in fields if held))
