"""One tick: every stream that the settings name is swept, in one budget, and each sweep's report is logged."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from monitor.context import ResumeState, SweepContext
from monitor.report import SweepReport
from monitor.sweep import Sweep
from shared.errors import TickFailed
from shared.names import printable
from shared.redis_client import open_link
from shared.settings import Settings, StreamSettings
from shared.telemetry import Telemetry, of_process

if TYPE_CHECKING:
    from monitor.handling.runner import Runner

logger = logging.getLogger("monitor")

LONGEST_ROUND_TRIP_S = 5.0
CONNECTIONS_BESIDE_SETTLING = 4
"""For each stream: the walk, the index, dead letters."""


class Janitor:
    """Sweeps what ``settings`` name, tick after tick, over one pool of connections. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry | None = None, *, show_tracebacks: bool = False
    ) -> None:
        """``telemetry``: where the sweeps are told of; by default, wherever the environment says.

        ``show_tracebacks``: log those of handlers, which may quote entries.
        """
        self.settings = settings
        self.telemetry = of_process() if telemetry is None else telemetry
        # Half the budget: a connection that has gone silent leaves time for another try.
        self._link = open_link(
            settings.redis,
            (settings.concurrency + CONNECTIONS_BESIDE_SETTLING) * len(settings.streams),
            min(LONGEST_ROUND_TRIP_S, settings.budget_s / 2),
        )
        self.runner = _runner(settings, show_tracebacks)
        """Where handlers run; None where no stream has one."""
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
            self._link, stream, settings.page_size, settings.concurrency, settings.budget_s, telemetry, self.runner
        )
        return Sweep(context, self._resume[stream])

    async def close(self) -> None:
        """Close the connections, which would be opened again, and the handlers for good."""
        await self._link.close()
        if self.runner is not None:
            await self.runner.close()


def _runner(settings: Settings, show_tracebacks: bool) -> Runner | None:
    if all(stream.action != "handle" for stream in settings.streams):
        return None
    from monitor.handling.runner import Runner  # only then: a cold start pays for imports

    return Runner(settings.handler_concurrency, show_tracebacks)


async def _reported(sweep: Sweep) -> SweepReport:
    report = await sweep.run()
    log(report, sweep.was_stopped)
    return report


def log(report: SweepReport, was_stopped: bool = False) -> None:
    """One line for people, and the same as attributes of the record for machines.

    A failed sweep is an ERROR; one that is not complete a WARNING, unless the rate limit or a stop is why, and so is a
    server's clock that was set back; so that a
    platform's severity filters find them.
    """
    fields = report.as_dict()
    attributes = {f"sweep_{name}": value for name, value in fields.items() if isinstance(value, (str, int, float))}
    level = logging.DEBUG if report.is_quiet else logging.INFO
    if report.error:
        level = logging.ERROR
    elif report.server_clock or not (report.complete or report.rate_limited or was_stopped):
        level = logging.WARNING
    logger.log(level, "%s", report, extra={"report": fields, **attributes})


def raise_for(reports: tuple[SweepReport, ...]) -> None:
    """Raise for the sweeps that ended in an error, after all were reported; bad entries are no reason.

    Raises:
        TickFailed: with what each of them met.
    """
    failed = [
        f"{printable(report.stream)}/{printable(report.group)}: {report.error}" for report in reports if report.error
    ]
    if failed:
        raise TickFailed("; ".join(failed))
