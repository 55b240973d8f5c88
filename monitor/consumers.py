"""Dead consumers: names that have nothing pending and were not heard of for a long time are removed from the group.

XINFO CONSUMERS answers for all of them at once (of 40,000 names the server is busy for 32 to 54 ms), so a janitor asks at most
every ``LIST_EVERY_S``. They are removed in slices of a few milliseconds, in between which the server serves others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from monitor.scripts import reap_script
from shared.redis_client import RedisLink, Reply, mapping_of
from shared.settings import StreamSettings

LIST_EVERY_S: Final = 600.0
RUN_MS: Final = 3.0
NAMES_AT_ONCE: Final = 128
"""About what one run gets through."""


class Consumer(NamedTuple):
    """A name in the group. Its idle time counts from the last entry it got before Redis 7.2, from its last attempt since."""

    name: bytes
    pending: int
    idle_ms: int


class Reaper:
    """Removes one group's dead consumers, sweep after sweep; remembers when they were listed, and which are left to remove."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._list_at_s: float | None = None
        self._left: list[bytes] = []

    async def reap(self, link: RedisLink, settings: StreamSettings, stops: Callable[[], bool] = lambda: False) -> int:
        """Remove the consumers that were idle for REAP_CONSUMERS_AFTER_SEC and have nothing pending; how many there were.

        The janitor's own name, and any that REAP_KEEP names, remain. What is left once ``stops`` says so, the next call
        removes. Needs the rights XINFO CONSUMERS, XPENDING, XGROUP DELCONSUMER, EVALSHA.

        Raises:
            redis.exceptions.RedisError: some may be removed or not; repeating is safe, the script checks again.
        """
        if not self._left and (self._list_at_s is None or self._clock() >= self._list_at_s):
            self._left = [one.name for one in dead(settings, await listed(link, settings))]
            self._list_at_s = self._clock() + LIST_EVERY_S
        return len(await _remove_from(link, settings, self._left, stops))


async def reap(link: RedisLink, settings: StreamSettings) -> int:
    """List and remove them now, however many there are; see ``Reaper.reap``."""
    return await Reaper().reap(link, settings)


async def listed(link: RedisLink, settings: StreamSettings) -> list[Consumer]:
    """Every consumer of the group."""
    return consumers_of(await link.call("XINFO", "CONSUMERS", settings.stream, settings.group))


async def remove(link: RedisLink, settings: StreamSettings, consumers: Sequence[Consumer]) -> list[bytes]:
    """Remove those of ``consumers`` that still have nothing pending; their names."""
    return await _remove_from(link, settings, [one.name for one in consumers], lambda: False)


async def _remove_from(
    link: RedisLink, settings: StreamSettings, left: list[bytes], stops: Callable[[], bool]
) -> list[bytes]:
    """Take names off ``left``, slice by slice, until ``stops`` says so; those that were removed."""
    removed: list[bytes] = []
    while left and not stops():
        taken, names = await _remove_slice(link, settings, left[:NAMES_AT_ONCE])
        del left[:taken]
        removed += names
    return removed


async def _remove_slice(link: RedisLink, settings: StreamSettings, names: Sequence[bytes]) -> tuple[int, list[bytes]]:
    """One run of the script: through how many of the names it got, and which it removed."""
    script = reap_script()
    arguments = script.named(group=settings.group, run_ms=RUN_MS)
    taken, removed = await script.run(link, (settings.stream,), (*arguments, *names))
    return taken, removed


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
    return [Consumer(row[b"name"], row[b"pending"], row[b"idle"]) for row in map(mapping_of, reply)]
