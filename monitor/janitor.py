"""One tick: every stream that the settings name is swept, in one budget, and each sweep's report is logged."""

from __future__ import annotations

import asyncio
import logging

from monitor.report import SweepReport
from monitor.sweep import Carried, Sweep
from shared.errors import TickFailed
from shared.redis_client import RedisLink
from shared.settings import Settings, StreamSettings

logger = logging.getLogger("monitor")

LONGEST_ROUND_TRIP_S = 5.0


class Janitor:
    """Sweeps what ``settings`` name, tick after tick, over one pool of connections. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Half the budget: a connection that has gone silent leaves time for another try.
        self._link = RedisLink(settings.redis, settings.concurrency, min(LONGEST_ROUND_TRIP_S, settings.budget_s / 2))
        self._carried = {stream: Carried() for stream in settings.streams}

    async def tick(self) -> tuple[SweepReport, ...]:
        """Sweep each stream once and log its report; the reports of sweeps that ended early say why in ``error``."""
        return tuple(await asyncio.gather(*(self._sweep(stream) for stream in self.settings.streams)))

    async def _sweep(self, stream: StreamSettings) -> SweepReport:
        settings = self.settings
        sweep = Sweep(
            self._link,
            stream,
            settings.page_size,
            settings.concurrency,
            settings.budget_s,
            self._carried[stream],
        )
        report = await sweep.run()
        log(report)
        return report

    async def close(self) -> None:
        """Close the connections; the janitor can still be used and would open new ones."""
        await self._link.close()


def log(report: SweepReport) -> None:
    """One line for people, and the same as attributes of the record for machines."""
    fields = report.as_dict()
    attributes = {f"sweep_{name}": value for name, value in fields.items() if isinstance(value, (str, int, float))}
    level = logging.DEBUG if report.is_quiet else logging.INFO
    logger.log(level, "%s", report, extra={"report": fields, **attributes})


def raise_for(reports: tuple[SweepReport, ...]) -> None:
    """Raise for the sweeps that ended in an error, after all were reported; bad entries are no reason.

    Raises:
        TickFailed: with what each of them met.
    """
    failed = [f"{report.stream}/{report.group}: {report.error}" for report in reports if report.error]
    if failed:
        raise TickFailed("; ".join(failed))
