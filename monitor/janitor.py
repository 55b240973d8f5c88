"""One tick: every stream that the settings name is swept, in one budget, and each sweep's report is logged."""

from __future__ import annotations

import asyncio
import logging

from monitor.context import ResumeState, SweepContext
from monitor.report import SweepReport
from monitor.sweep import Sweep
from shared.errors import TickFailed
from shared.redis_client import open_link
from shared.settings import Settings, StreamSettings
from shared.telemetry import Telemetry, of_process

logger = logging.getLogger("monitor")

LONGEST_ROUND_TRIP_S = 5.0
CONNECTIONS_BESIDE_SETTLING = 4
"""For each stream: the walk, the index, dead letters."""


class Janitor:
    """Sweeps what ``settings`` name, tick after tick, over one pool of connections. Belongs to one event loop."""

    def __init__(self, settings: Settings, telemetry: Telemetry | None = None) -> None:
        """``telemetry``: where the sweeps are told of; by default, wherever the environment says."""
        self.settings = settings
        self.telemetry = of_process() if telemetry is None else telemetry
        # Half the budget: a connection that has gone silent leaves time for another try.
        self._link = open_link(
            settings.redis,
            (settings.concurrency + CONNECTIONS_BESIDE_SETTLING) * len(settings.streams),
            min(LONGEST_ROUND_TRIP_S, settings.budget_s / 2),
        )
        self._resume = {stream: ResumeState() for stream in settings.streams}
        self.sweeps: tuple[Sweep, ...] = ()
        """Those of the tick that is under way, or of the last one; in the order of ``settings.streams``."""

    async def tick(self) -> tuple[SweepReport, ...]:
        """Sweep each stream once and log its report; the reports of sweeps that ended early say why in ``error``."""
        self.sweeps = tuple(self._sweep(stream) for stream in self.settings.streams)
        reports = tuple(await asyncio.gather(*(_reported(sweep) for sweep in self.sweeps)))
        await self.telemetry.flush(self.settings.interval_s)
        return reports

    def _sweep(self, stream: StreamSettings) -> Sweep:
        settings = self.settings
        telemetry = self.telemetry.of_group(stream.stream, stream.group, settings.interval_s)
        context = SweepContext(
            self._link, stream, settings.page_size, settings.concurrency, settings.budget_s, telemetry
        )
        return Sweep(context, self._resume[stream])

    async def close(self) -> None:
        """Close the connections; the janitor can still be used and would open new ones."""
        await self._link.close()


async def _reported(sweep: Sweep) -> SweepReport:
    report = await sweep.run()
    log(report)
    return report


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
