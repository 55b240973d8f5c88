"""A sweep's walk that only foresees: what would become of each abandoned entry."""

from __future__ import annotations

from collections.abc import AsyncIterator

from monitor.decide import last_id_worth_reading
from monitor.forecast import LEFT_ALONE, Forecast, capped, forecasts, read_fields
from monitor.patience import Patience
from monitor.pending import Summary
from monitor.redrive import page_size_after
from monitor.walk import Walk, ranges_from
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

SMALLEST_GROUP = 8


async def dry_run(
    link: RedisLink, settings: StreamSettings, summary: Summary, now_ms: int, page_size: int
) -> AsyncIterator[tuple[int, list[tuple[bytes, Forecast]]]]:
    """Walk the pending entries list as a sweep does: how many rows were looked at, and the forecasts of the abandoned ones."""
    end = last_id_worth_reading(summary, now_ms, settings.min_idle_ms)
    size, patience = SMALLEST_GROUP, Patience.of(settings)
    if not summary.total:
        return
    async for rows in Walk(link, settings, page_size).pages(ranges_from(None, end)):
        page = patience.sort(rows, mixed=True)
        yield len(rows) - page.found, []  # too young, or waiting
        for entry in (entry for group in page.groups if group.is_capped for entry in group.entries):
            yield 1, [(entry.entry_id, capped(entry, settings) or LEFT_ALONE)]
        ids = [entry.entry_id for group in page.groups if not group.is_capped for entry in group.entries]
        while ids:
            group, ids = ids[:size], ids[size:]
            fields = await read_fields(link, settings.stream, group)
            yield len(group), list(zip(group, await forecasts(link, settings, group, fields), strict=True))
            size = page_size_after(size, sum(sum(map(len, held)) for held in fields if held))
