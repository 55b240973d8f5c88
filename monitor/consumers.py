"""Dead consumers: names that have nothing pending and were not heard of for a long time are removed from the group."""

from __future__ import annotations

from fnmatch import fnmatchcase

from monitor.scripts import reap_script
from shared.redis_client import Argument, RedisLink, Reply
from shared.settings import StreamSettings


async def reap(link: RedisLink, settings: StreamSettings) -> int:
    """Remove the consumers that are idle for REAP_CONSUMERS_AFTER_SEC and have nothing pending; how many there were.

    "Idle" counts from the last entry a consumer got before Redis 7.2, from its last attempt to read from then on. The
    janitor's own name, and any that REAP_KEEP names, stay. Needs the rights XINFO CONSUMERS, XGROUP DELCONSUMER, EVALSHA.

    Raises:
        redis.exceptions.RedisError: some may be removed or not; repeating is safe, the script checks again.
    """
    rows = await link.call("XINFO", "CONSUMERS", settings.stream, settings.group)
    dead = [name for name, pending, idle_ms in map(_read, rows) if _is_dead(settings, name, pending, idle_ms)]
    if not dead:
        return 0
    arguments: tuple[Argument, ...] = (settings.group, settings.reap_after_ms, *dead)
    removed: list[bytes] = await reap_script().run(link, (settings.stream,), arguments)
    return len(removed)


def _is_dead(settings: StreamSettings, name: bytes, pending: int, idle_ms: int) -> bool:
    return not pending and idle_ms >= settings.reap_after_ms and not _stays(settings, name.decode("utf-8", "replace"))


def _stays(settings: StreamSettings, name: str) -> bool:
    return name == settings.consumer or any(fnmatchcase(name, pattern) for pattern in settings.reap_keep)


def _read(row: Reply) -> tuple[bytes, int, int]:
    """A row of XINFO CONSUMERS: a map under RESP3, a flat list under RESP2."""
    fields = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    return fields[b"name"], fields[b"pending"], fields[b"idle"]
