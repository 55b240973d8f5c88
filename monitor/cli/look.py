"""A look at one consumer group that never holds the server up: counts that it keeps, and a bounded number of small pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import RedisError

from monitor import group_stats, server_clock
from monitor.actions import action_class
from monitor.consumers import Consumer, consumers_of
from monitor.decide import last_id_worth_reading
from monitor.groups import groups_of
from monitor.index import OFF, IndexInfo, SearchIndex
from monitor.patience import Patience
from monitor.pending import (
    FIRST,
    LAST,
    Summary,
    following,
    milliseconds_of,
    order_of,
    read_page,
    summary_of,
    time_ms,
)
from monitor.retained import Retained
from monitor.retention import Retention
from monitor.server_clock import ServerClock
from monitor.stream_retention import stream_policy
from shared.errors import RedisRefused
from shared.redis_client import Command, RedisLink, Reply, raise_first
from shared.settings import StreamSettings

PAGE: Final = 1000
"""Rows of the pending entries list at a time: 1.2 ms of the server's."""
MOST_PAGES: Final = 20
MOST_CONSUMERS: Final = 20
"""Consumers, those with most pending first, that are asked for their oldest entry."""

AGE_BOUNDS_S: Final = (10, 60, 600, 3600, 86_400)
AGE_NAMES: Final = ("< 10 s", "< 1 min", "< 10 min", "< 1 h", "< 1 d", "1 d and more")
DELIVERY_BOUNDS: Final = (2, 3, 5, 10)
DELIVERY_NAMES: Final = ("1", "2", "3-4", "5-9", "10 and more")


@dataclass(slots=True)
class Sample:
    """What the oldest rows of the pending entries list tell; all of them, if there are no more."""

    looked_at: int = 0
    is_all: bool = True
    youngest_age_ms: int | None = None
    """Of the rows looked at; every other row is younger."""
    due: int = 0
    """Rows that the next sweep would take up."""
    ages: list[int] = field(default_factory=lambda: [0] * len(AGE_NAMES))
    deliveries: list[int] = field(default_factory=lambda: [0] * len(DELIVERY_NAMES))

    def count(self, rows: Sequence[Sequence[Any]], now_ms: int, patience: Patience, end: bytes) -> None:
        self.looked_at += len(rows)
        for entry_id, _, idle_ms, deliveries in rows:
            age_ms = now_ms - milliseconds_of(entry_id)
            self.ages[_slot(age_ms / 1000, AGE_BOUNDS_S)] += 1
            self.deliveries[_slot(deliveries, DELIVERY_BOUNDS)] += 1
            self.due += patience.is_due(idle_ms, deliveries) and _is_up_to(entry_id, end)
            self.youngest_age_ms = age_ms


def _is_up_to(entry_id: bytes, end: bytes) -> bool:
    """``end`` is a bare time, so all ids of that millisecond count."""
    return end == LAST or milliseconds_of(entry_id) <= order_of(end)[0]


def _slot(value: float, bounds: Sequence[float]) -> int:
    return sum(value >= bound for bound in bounds)


@dataclass(frozen=True, slots=True)
class ConsumerLine:
    """A consumer, and the age of the oldest entry that is pending at it."""

    consumer: Consumer
    oldest_age_ms: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """One group at a glance. ``None``: this server or user does not tell."""

    now_ms: int
    summary: Summary
    lag: int | None
    consumers: list[ConsumerLine] | None
    """Those that have entries pending first, the most first."""
    sample: Sample
    dead_letters: int | None
    oldest_dead_letter_age_ms: int | None
    index: IndexInfo
    index_names: tuple[str, ...]
    """What it is called here: in a cluster perhaps one name for each shard."""
    stream_length: int | None
    first_entry_age_ms: int | None
    retained: Retained | None
    """Where RETAIN_SEC is set: what holds the stream."""

    clock: ServerClock

    @property
    def oldest_age_ms(self) -> int | None:
        if self.clock.was_set_back:
            return None
        return None if self.summary.smallest_id is None else self.now_ms - milliseconds_of(self.summary.smallest_id)


async def summary_and_time(link: RedisLink, settings: StreamSettings) -> tuple[Summary, int]:
    """The pending entries list as a whole, and the server's time in milliseconds: one round trip."""
    pending, time = replies = await link.pipelined([("XPENDING", settings.stream, settings.group), ("TIME",)])
    raise_first(replies)
    return summary_of(pending), time_ms(time)


async def overview(link: RedisLink, settings: StreamSettings) -> Overview:
    """Everything that ``status`` shows, in a few round trips and at most ``MOST_PAGES`` pages.

    Raises:
        redis.exceptions.RedisError: the group could not be looked at.
    """
    index = SearchIndex(link, settings)
    uses_index = action_class(settings).uses_index
    about_index = await index.build_commands() if uses_index else []
    commands: list[Command] = [
        ("XPENDING", settings.stream, settings.group),
        ("TIME",),
        ("XINFO", "CONSUMERS", settings.stream, settings.group),
        ("XRANGE", settings.dead_letter_stream or settings.stream, "-", "+", "COUNT", 1),
        ("XRANGE", settings.stream, "-", "+", "COUNT", 1),
        *about_index,
        *group_stats.build_commands(settings),
    ]
    pending, time, consumers, oldest_letter, first, *replies = await link.pipelined(commands)
    raise_first((pending, time))
    summary, now_ms = summary_of(pending), time_ms(time)
    index_replies, standing_replies = replies[: len(about_index)], replies[len(about_index) :]
    lag, dead_letters, length = group_stats.parse_replies(settings, standing_replies)
    return Overview(
        now_ms=now_ms,
        summary=summary,
        lag=lag,
        consumers=await _consumer_lines(link, settings, consumers, now_ms),
        sample=await sample(link, settings, summary, now_ms),
        dead_letters=dead_letters,
        oldest_dead_letter_age_ms=None if not dead_letters else _age_ms(oldest_letter, now_ms),
        index=index.parse_replies(index_replies) if uses_index else IndexInfo(OFF),
        index_names=index.names,
        stream_length=length,
        first_entry_age_ms=_age_ms(first, now_ms),
        retained=await _retained(link, settings),
        clock=await server_clock.look(link, settings, summary, now_ms),
    )


async def _retained(link: RedisLink, settings: StreamSettings) -> Retained | None:
    policy = stream_policy(settings)
    if policy is None:
        return None
    try:
        return await Retention(link, settings.stream, policy, dry_run=True).look()
    except (RedisError, RedisRefused):
        return None


def _age_ms(entries: Reply, now_ms: int) -> int | None:
    """The age of the first entry, if the user may read it."""
    return now_ms - milliseconds_of(entries[0][0]) if isinstance(entries, list) and entries else None


async def sample(link: RedisLink, settings: StreamSettings, summary: Summary, now_ms: int) -> Sample:
    """Look through the oldest rows, page by page: what is stuck is what is old."""
    found, first, patience = Sample(), FIRST, Patience.of(settings)
    end = last_id_worth_reading(summary, now_ms, settings.min_idle_ms)
    for _ in range(MOST_PAGES if summary.total else 0):
        rows = await read_page(link, settings.stream, settings.group, first, LAST, PAGE)
        found.count(rows, now_ms, patience, end)
        if len(rows) < PAGE:
            return found
        first = following(rows[-1][0])  # type: ignore[arg-type]
    found.is_all = found.looked_at >= summary.total
    return found


async def _consumer_lines(
    link: RedisLink, settings: StreamSettings, reply: Reply, now_ms: int
) -> list[ConsumerLine] | None:
    if isinstance(reply, Exception):
        return None
    return await with_oldest(link, settings, consumers_of(reply), now_ms)


async def with_oldest(
    link: RedisLink, settings: StreamSettings, consumers: list[Consumer], now_ms: int
) -> list[ConsumerLine]:
    """The consumers, those with most pending first; the first of them with the age of their oldest entry."""
    ordered = sorted(consumers, key=lambda one: (-one.pending, one.idle_ms, one.name))
    asked = [one.name for one in ordered[:MOST_CONSUMERS] if one.pending]
    replies: list[Reply] = []
    if asked:
        replies = await link.pipelined(
            ("XPENDING", settings.stream, settings.group, "-", "+", 1, name) for name in asked
        )
    ages = {
        name: now_ms - milliseconds_of(rows[0][0])
        for name, rows in zip(asked, replies, strict=True)
        if isinstance(rows, list) and rows
    }
    return [ConsumerLine(consumer, ages.get(consumer.name)) for consumer in ordered]


async def last_delivered_id(link: RedisLink, settings: StreamSettings) -> bytes | None:
    """The greatest id that the group was given; None without the right to XINFO GROUPS."""
    try:
        groups = await groups_of(link, settings.stream)
    except RedisError:
        return None
    return next((group.last_delivered_id for group in groups if group.name == settings.group.encode()), None)


async def server_time_ms(link: RedisLink) -> int:
    return time_ms(await link.call("TIME"))
