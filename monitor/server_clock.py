"""Whether the server's clock was set back: then idle times are clamped to 0, and nothing counts as abandoned until it passes.

XPENDING tells an idle time of 0 for what was delivered "in the future" (t_stream.c), and ids then lie ahead of TIME. Producers
that make ids up may put them ahead of the clock as well, but their idle times grow. So a greatest pending id far ahead is
suspicious, and a first row that is idle for 0 ms, and still is a moment later, proves it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from monitor.pending import FIRST, LAST, Summary, milliseconds_of, read_page
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")

AHEAD_MS: Final = 5_000
"""Ids may lie so far ahead of the clock: of servers whose clocks differ a little, after a failover."""
MOMENT_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ServerClock:
    """What the pending ids and idle times say of the server's clock."""

    ahead_ms: int = 0
    """How far the greatest pending id lies ahead of it; 0: not suspiciously far."""
    was_set_back: bool = False

    @property
    def trouble(self) -> str | None:
        """What is wrong, in words; None: nothing."""
        if not self.was_set_back:
            return None
        return (
            f"the server's clock was set back: pending ids lie up to {self.ahead_ms / 1000:.0f} s ahead of it, and idle times "
            "are 0; nothing counts as abandoned until it passes, and no age is known"
        )

    def age_s(self, age_s: float | None) -> float | None:
        """An age by this clock; None where the clock was set back: no age is known then."""
        return None if self.was_set_back else age_s


RIGHT: Final = ServerClock()


def verdict(ahead_ms: int, idle_ms: int | None, idle_later_ms: int | None) -> ServerClock:
    """By the idle times of the first pending row, now and a moment later; None: there is no such row."""
    if ahead_ms <= AHEAD_MS:
        return RIGHT
    return ServerClock(ahead_ms, was_set_back=idle_ms == 0 and idle_later_ms == 0)


async def look(link: RedisLink, settings: StreamSettings, summary: Summary, now_ms: int) -> ServerClock:
    """Ask for the first row's idle time where ids lie ahead of the clock; else nothing is asked.

    Raises:
        redis.exceptions.RedisError: not known.
    """
    ahead_ms = 0 if summary.greatest_id is None else milliseconds_of(summary.greatest_id) - now_ms
    if ahead_ms <= AHEAD_MS:
        return RIGHT
    idle_ms = await _first_idle_ms(link, settings)
    if idle_ms != 0:
        return verdict(ahead_ms, idle_ms, None)
    await asyncio.sleep(MOMENT_S)
    return verdict(ahead_ms, idle_ms, await _first_idle_ms(link, settings))


async def _first_idle_ms(link: RedisLink, settings: StreamSettings) -> int | None:
    rows = await read_page(link, settings.stream, settings.group, FIRST, LAST, 1)
    return int(rows[0][2]) if rows else None


class ClockNotes:
    """Says once that ids are made up by producers and lie ahead of the clock: they do so for ever."""

    def __init__(self) -> None:
        self._was_told = False

    def note(self, settings: StreamSettings, clock: ServerClock) -> None:
        if clock.ahead_ms and not clock.was_set_back and not self._was_told:
            self._was_told = True
            logger.info(
                "%s: pending ids lie %.0f s ahead of the server's clock, as their producers make them; ages by id are no ages",
                settings.label, clock.ahead_ms / 1000,
            )  # fmt: skip
