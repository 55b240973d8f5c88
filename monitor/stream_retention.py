"""Retention within a sweep: of the stream and of its dead letters, by the settings; and the warning where a stream is held.

Imported only where RETAIN_SEC or DEAD_LETTER_RETAIN_SEC is set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from monitor.retained import Policy, Retained
from monitor.retention import Pace, Retention
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")

WARN_EVERY_S: Final = 3600.0
_warned_at_s: dict[tuple[str, str], float] = {}
"""Stream and what holds it → when this process last said so."""


def stream_policy(settings: StreamSettings) -> Policy | None:
    """What may go from the stream; None: nothing, or another group's sweep of the same stream sees to it."""
    own = settings.own_groups or (settings.group,)
    if settings.retain_ms is None or settings.group != own[0]:
        return None
    return Policy(settings.retain_ms, settings.retain_ignore_groups, own)


def dead_letter_policy(settings: StreamSettings) -> Policy | None:
    """What may go from the dead-letter stream; None: nothing."""
    if settings.dead_letter_retain_ms is None or settings.dead_letter_stream is None:
        return None
    return Policy(settings.dead_letter_retain_ms, needs_group=False)


class StreamRetention:
    """What one sweep trims. The stream's first slice travels with the sweep's opening; the rest follows its look at the index."""

    def __init__(self, link: RedisLink, settings: StreamSettings, dry_run: bool = False) -> None:
        policy, of_dead_letters = stream_policy(settings), dead_letter_policy(settings)
        self._stream = None if policy is None else Retention(link, settings.stream, policy, dry_run)
        self._dead_letters = None
        if of_dead_letters is not None:
            self._dead_letters = Retention(link, str(settings.dead_letter_stream), of_dead_letters, dry_run)

    def opening(self) -> list[Command]:
        """At most one command for each of the two, to travel with the sweep's first ones."""
        return [command for one in self._both for command in one.opening()]

    def opened(self, replies: Sequence[Reply]) -> None:
        """The replies to ``opening``."""
        for one, reply in zip(self._both, replies, strict=False):  # none, in a dry run
            one.opened([reply])

    async def run(self, pace: Pace) -> None:
        """Trim what the opening left, within the pace; ``stream`` and ``dead_letters`` have what was done by then.

        Raises:
            RedisRefused, redis.exceptions.RedisError: as of ``Retention.run``.
        """
        for one in self._both:
            await one.run(pace)

    def warn(self) -> None:
        """Say in the log what keeps them from being trimmed."""
        for retained in filter(None, (self.stream, self.dead_letters)):
            warn_of(retained)

    @property
    def _both(self) -> list[Retention]:
        return [one for one in (self._stream, self._dead_letters) if one is not None]

    @property
    def stream(self) -> Retained | None:
        return None if self._stream is None else self._stream.so_far

    @property
    def dead_letters(self) -> Retained | None:
        return None if self._dead_letters is None else self._dead_letters.so_far


def warn_of(retained: Retained) -> None:
    """Say what keeps a stream from being trimmed, once an hour for each process, stream and cause."""
    cause = retained.hindrance
    if cause is None:
        return
    key, now_s = (retained.stream, cause.key), time.monotonic()
    if now_s - _warned_at_s.get(key, -WARN_EVERY_S) >= WARN_EVERY_S:
        _warned_at_s[key] = now_s
        logger.warning("%s: retention: %s", retained.stream, cause.text)
