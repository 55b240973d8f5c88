"""``retention``: trim by hand what every group has finished with, or only say what would go."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click

from monitor.cli.call import Call, Stop, command, stop_on_signals
from monitor.cli.exits import FINE, INTERRUPTED, UsageProblem
from monitor.cli.look import server_time_ms
from monitor.cli.main import commands
from monitor.cli.words import span
from monitor.pending import milliseconds_of
from monitor.retained import MOST_COUNTED, Retained
from monitor.stream_retention import StreamRetention
from shared.redis_client import RedisLink
from shared.retry import Deadline, retry
from shared.settings import StreamSettings

TRY_FOR_S: Final = 15.0


@command(commands, "retention")
@click.option("--after", type=click.IntRange(min=1), metavar="S", help="Age in seconds, instead of RETAIN_SEC.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be trimmed.")
async def retention(call: Call, after: int | None, dry_run: bool) -> int:
    """Trim entries older than RETAIN_SEC that every group has finished with; never what is pending or unread."""
    if after is None and not any(settings.retains for settings in call.settings.streams):
        raise UsageProblem("RETAIN_SEC and DEAD_LETTER_RETAIN_SEC are off: say --after seconds")
    async with call.link() as link:
        with stop_on_signals() as stop:

            async def one(settings: StreamSettings) -> int:
                if after is not None:
                    settings = dataclasses.replace(settings, retain_ms=1000 * after)
                both = StreamRetention(link, settings, dry_run)
                try:
                    await both.run(_UntilStopped(link, stop))
                finally:
                    now_ms = await server_time_ms(link)
                    for retained in filter(None, (both.stream, both.dead_letters)):
                        _tell(call, retained, now_ms)
                return INTERRUPTED if stop else FINE

            return await call.each_stream(one)


class _UntilStopped:
    """By hand there is no budget; Ctrl-C ends after the slice that is under way."""

    def __init__(self, link: RedisLink, stop: Stop) -> None:
        self._link = link
        self._stop = stop

    @property
    def is_over(self) -> bool:
        return bool(self._stop)

    async def retry(self, attempt: Callable[[], Awaitable[None]]) -> None:
        await retry(attempt, Deadline.after(TRY_FOR_S), self._link.reconnect)


def _tell(call: Call, retained: Retained, now_ms: int) -> None:
    if call.as_json:
        call.out.record("retention", **record(retained, now_ms))
        return
    length = "" if retained.stream_length is None else f"; length {retained.stream_length:,}{_first(retained, now_ms)}"
    call.out.line(f"{retained.stream}: {retained}{length}")


def _first(retained: Retained, now_ms: int) -> str:
    age_s = first_age_s(retained, now_ms)
    return "" if age_s is None or retained.trimmed else f", the first {span(age_s)} old"


def first_age_s(retained: Retained, now_ms: int) -> float | None:
    """The age of the entry that was the first before the last slice."""
    return None if retained.first_id is None else (now_ms - milliseconds_of(retained.first_id.encode())) / 1000


def record(retained: Retained, now_ms: int) -> dict[str, Any]:
    """For machines; ``would_trim_is_least``: there may be more."""
    held = None if retained.held is None else dataclasses.asdict(retained.held)
    return {
        "stream": retained.stream,
        "dry_run": retained.dry_run,
        "trimmed": retained.trimmed,
        "would_trim": retained.would_trim,
        "would_trim_is_least": None if retained.would_trim is None else retained.would_trim >= MOST_COUNTED,
        "complete": retained.complete,
        "stream_length": retained.stream_length,
        "first_entry_age_s": first_age_s(retained, now_ms),
        "bound": retained.bound,
        "held_by": held,
        "left_alone": retained.left_alone,
        "large_node": retained.large_node,
    }
