"""Dead consumers: names that have nothing pending and were not heard of for a long time are removed from the group."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from monitor.scripts import reap_script
from shared.redis_client import Argument, RedisLink, Reply
from shared.settings import StreamSettings


class Consumer(NamedTuple):
    """A name in the group. Its idle time counts from the last entry it got before Redis 7.2, from its last attempt since."""

    name: bytes
    pending: int
    idle_ms: int


async def reap(link: RedisLink, settings: StreamSettings) -> int:
    """Remove the consumers that are idle for REAP_CONSUMERS_AFTER_SEC and have nothing pending; how many there were.

    The janitor's own name, and any that REAP_KEEP names, stay. Needs the rights XINFO CONSUMERS, XGROUP DELCONSUMER, EVALSHA.

    Raises:
        redis.exceptions.RedisError: some may be removed or not; repeating is safe, the script checks again.
    """
    return len(await remove(link, settings, dead(settings, await listed(link, settings))))


async def listed(link: RedisLink, settings: StreamSettings) -> list[Consumer]:
    """Every consumer of the group."""
    return consumers_of(await link.call("XINFO", "CONSUMERS", settings.stream, settings.group))


async def remove(link: RedisLink, settings: StreamSettings, consumers: list[Consumer]) -> list[bytes]:
    """Remove those of ``consumers`` that still have nothing pending and are still idle; their names."""
    if not consumers:
        return []
    arguments: tuple[Argument, ...] = (settings.group, settings.reap_after_ms, *(one.name for one in consumers))
    removed: list[bytes] = await reap_script().run(link, (settings.stream,), arguments)
    return removed


def dead(settings: StreamSettings, consumers: list[Consumer]) -> list[Consumer]:
    """Those that ``reap`` would remove."""
    return [consumer for consumer in consumers if _is_dead(settings, consumer)]


def _is_dead(settings: StreamSettings, consumer: Consumer) -> bool:
    is_idle = consumer.idle_ms >= settings.reap_after_ms
    return not consumer.pending and is_idle and not _stays(settings, consumer.name.decode("utf-8", "replace"))


def _stays(settings: StreamSettings, name: str) -> bool:
    return name == settings.consumer or any(fnmatchcase(name, pattern) for pattern in settings.reap_keep)


def consumers_of(reply: Reply) -> list[Consumer]:
    """The reply to ``XINFO CONSUMERS``: rows that are a map under RESP3, a flat list under RESP2."""
    rows = (row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in reply)
    return [Consumer(row[b"name"], row[b"pending"], row[b"idle"]) for row in rows]
