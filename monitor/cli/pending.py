"""``pending``: the entries that are pending. When one was last delivered is now minus its idle time, not its id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import click

from monitor.cli.call import Call, command
from monitor.cli.escape import encoded, encoded_pairs, pairs_shown, shortened
from monitor.cli.look import summary_and_time
from monitor.cli.main import commands
from monitor.cli.output import columns
from monitor.cli.words import moment, span
from monitor.decide import is_abandoned, last_id_worth_reading
from monitor.forecast import read_fields
from monitor.pending import FIRST, LAST, PendingEntry, Summary, following
from monitor.redrive import page_size_after
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

WIDTHS = (20, 20, -12, 20, -10, 0)
HEADER = ("ENTRY", "CONSUMER", "IDLE", "LAST DELIVERED", "DELIVERIES", "FIELDS")
PAGE = 1000
SMALLEST_PAGE = 8


@command(commands, "pending")
@click.option("--min-idle", type=click.FloatRange(min=0), metavar="S", default=0.0, help="Only those idle for so long.")
@click.option("--consumer", metavar="C", help="Only those pending at this consumer.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", default=50, show_default=True)
async def pending(call: Call, min_idle: float, consumer: str | None, limit: int) -> int:
    """List pending entries, the oldest first, and what they hold."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            summary, now_ms = await summary_and_time(link, settings)
            listing, left, more = _Listing(call, settings, now_ms), limit, False
            async for rows in _rows(link, settings, summary, now_ms, int(min_idle * 1000), consumer):
                fitting, left, more = rows[:left], left - len(rows[:left]), len(rows) > left
                await listing.show(link, fitting)
                if more or not left:
                    break
            if not left:
                call.out.note(f"the first {limit:,} (--limit) of {summary.total:,} pending in {settings.stream}")

        return await call.each_stream(one)


async def _rows(
    link: RedisLink, settings: StreamSettings, summary: Summary, now_ms: int, min_idle_ms: int, consumer: str | None
) -> AsyncIterator[list[PendingEntry]]:
    """The rows that are asked for, page by page; the idle time is judged here, since the server would scan without end."""
    first, end = FIRST, last_id_worth_reading(summary, now_ms, min_idle_ms) if min_idle_ms else LAST
    whose = (consumer,) if consumer is not None else ()
    while summary.total:
        page = await link.call("XPENDING", settings.stream, settings.group, first, end, PAGE, *whose)
        rows = [PendingEntry._make(row) for row in page]
        yield [row for row in rows if is_abandoned(row.idle_ms, min_idle_ms)]
        if len(rows) < PAGE:
            return
        first = following(rows[-1].entry_id)


class _Listing:
    """Prints rows with what they hold, a few at a time: an entry may be of a megabyte."""

    def __init__(self, call: Call, settings: StreamSettings, now_ms: int) -> None:
        self._out = call.out
        self._settings = settings
        self._now_ms = now_ms
        self._size = SMALLEST_PAGE
        self._has_header = call.as_json

    async def show(self, link: RedisLink, rows: Sequence[PendingEntry]) -> None:
        while rows:
            group, rows = rows[: self._size], rows[self._size :]
            fields = await read_fields(link, self._settings.stream, [row.entry_id for row in group])
            for row, held in zip(group, fields, strict=True):
                self._print(row, held)
            self._size = page_size_after(self._size, sum(sum(map(len, held)) for held in fields if held))
        self._out.flush()

    def _print(self, row: PendingEntry, fields: list[bytes] | None) -> None:
        if self._out.as_json:
            self._out.record("pending_entry", **record_of(self._settings, row, fields, self._now_ms))
            return
        if not self._has_header:
            self._out.line(columns(HEADER, WIDTHS), style="bold")
            self._has_header = True
        idle = span(row.idle_ms / 1000) if row.idle_ms >= 0 else "released"
        delivered = moment(self._now_ms - row.idle_ms) if row.idle_ms >= 0 else ""
        held = "(gone from the stream)" if fields is None else pairs_shown(fields, self._out.preview_cells)
        consumer = shortened(row.consumer, 40)
        self._out.line(columns((row.entry_id.decode(), consumer, idle, delivered, str(row.deliveries), held), WIDTHS))


def record_of(settings: StreamSettings, row: PendingEntry, fields: list[bytes] | None, now_ms: int) -> dict[str, Any]:
    return {
        "stream": settings.stream,
        "group": settings.group,
        "entry_id": row.entry_id.decode(),
        "consumer": encoded(row.consumer),
        "idle_s": row.idle_ms / 1000 if row.idle_ms >= 0 else None,
        "last_delivered_ms": now_ms - row.idle_ms if row.idle_ms >= 0 else None,
        "deliveries": row.deliveries,
        "fields": None if fields is None else encoded_pairs(fields),
    }
