"""``sweep`` and ``run``: one sweep by hand, and the schedule without Azure."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import click
from rich.progress import Progress

from monitor import server_clock
from monitor.actions import Observer, action_class
from monitor.cli.call import Call, Stop, command, stop_on_signals, worst
from monitor.cli.dry_run import dry_run
from monitor.cli.exits import FAILED, FINE, INTERRUPTED, UsageProblem
from monitor.cli.look import summary_and_time
from monitor.cli.main import commands
from monitor.cli.timer import Timer
from monitor.context import ResumeState, SweepContext
from monitor.forecast import Forecast
from monitor.heartbeat import beat
from monitor.index import OFF, IndexInfo, SearchIndex
from monitor.janitor import Janitor
from monitor.outcomes import WITH_HASH, Outcome
from monitor.report import NOT_ASKED, SweepReport, Tally, report_of
from monitor.sweep import Sweep
from shared.retry import Deadline
from shared.schedule import fires
from shared.settings import DEFAULT_SCHEDULE, Settings, StreamSettings
from shared.suspicious_settings import warn_of_suspicious_settings
from shared.telemetry import Telemetry, of_process

INTERVALS_ALIVE = 3
HUNG_SWEEPS = 3
"""``run`` ends after so many sweeps in a row in which every handler call hung: no thread can be ended, only the process."""
LOOKS_PER_S = 10
LONGEST_NAP_S = 30.0
"""The clock may be set meanwhile; how late that is noticed at most."""


@command(commands, "sweep")
@click.option("--dry-run", is_flag=True, help="Read only, and tell what a sweep would do.")
@click.option(
    "--budget", type=click.FloatRange(min=0.1), metavar="S", help="Seconds it may take, instead of SWEEP_BUDGET_SEC."
)
async def sweep(call: Call, dry_run: bool, budget: float | None) -> int:
    """Sweep each group once and print the report."""
    warn_of_suspicious_settings(call.environment)
    settings = call.settings if budget is None else dataclasses.replace(call.settings, budget_s=budget)
    return await (_dry_run(call, settings) if dry_run else _sweep(call, settings))


async def _sweep(call: Call, settings: Settings) -> int:
    async with _janitor(call, of_process(), settings) as janitor:

        def stop_sweeps() -> None:
            for one in janitor.sweeps:
                one.stop()

        with stop_on_signals(stop_sweeps) as stop, call.out.bar() as bar:
            reports = await _watched(janitor, bar)
        _print(call, reports)
        code = worst([FINE, *_tell_errors(call, janitor)])
    return INTERRUPTED if stop and code == FINE else code


@asynccontextmanager
async def _janitor(call: Call, telemetry: Telemetry, settings: Settings) -> AsyncIterator[Janitor]:
    janitor = Janitor(settings, telemetry, show_tracebacks=call.debug)
    try:
        yield janitor
    finally:
        await janitor.close()


async def _watched(janitor: Janitor, bar: Progress) -> tuple[SweepReport, ...]:
    """One tick, its progress on the bar."""
    tick = asyncio.ensure_future(janitor.tick())
    task = bar.add_task("sweep", total=None)
    try:
        while not tick.done():
            await asyncio.wait([tick], timeout=1 / LOOKS_PER_S)
            seen = [one.progress for one in janitor.sweeps]
            bar.update(task, total=sum(total for total, _ in seen) or None, completed=sum(done for _, done in seen))
    finally:
        if not tick.done():
            tick.cancel()
    return await tick


def _print(call: Call, reports: tuple[SweepReport, ...], dry_run: bool = False) -> None:
    for report in reports:
        if call.as_json:
            call.out.record("sweep", dry_run=dry_run, **report.as_dict())
        else:
            call.out.line(f"dry run: {report}" if dry_run else str(report))
    call.out.flush()


def _tell_errors(call: Call, janitor: Janitor) -> list[int]:
    """One line for each sweep that ended early; their exit codes."""
    return [call.tell(one.error) for one in janitor.sweeps if one.error is not None]


async def _dry_run(call: Call, settings: Settings) -> int:
    async with call.link() as link:
        with call.out.bar() as bar:

            async def one(stream: StreamSettings) -> None:
                if isinstance(action_class(stream), Observer):  # a sweep of it writes nothing as it is
                    context = SweepContext(link, stream, settings.page_size, settings.concurrency, settings.budget_s)
                    looking = Sweep(context, ResumeState())
                    _print(call, (await looking.run(),), dry_run=True)
                    if looking.error:
                        raise looking.error
                    return
                began, end = Deadline.after(0), Deadline.after(settings.budget_s)
                summary, now_ms = await summary_and_time(link, stream)
                tally, complete = Tally(), True
                task = bar.add_task("dry run", total=summary.total)
                async for rows, expected in dry_run(link, stream, summary, now_ms, settings.page_size):
                    bar.update(task, advance=rows)
                    for entry_id, forecast in expected:
                        _count(tally, forecast, entry_id)
                    if end.is_over():
                        complete = False
                        break
                uses_index = action_class(stream).uses_index
                index = await SearchIndex(link, stream).ask() if uses_index else IndexInfo(OFF)
                clock = await server_clock.look(link, stream, summary, now_ms)
                report = report_of(
                    stream, summary, now_ms, tally, clock, index=index.status, settle_mode="none",
                    complete=complete, duration_s=-began.left_s(),
                )  # fmt: skip
                _print(call, (report,), dry_run=True)

            return await call.each_stream(one)


def _count(tally: Tally, expected: Forecast, entry_id: bytes) -> None:
    if expected.outcome in WITH_HASH or expected.outcome is Outcome.REQUEUED:
        tally.add(expected.outcome)
    elif expected.outcome is not None:
        tally.name(expected.outcome, expected.reason, entry_id)


@command(commands, "run")
@click.option("--verbose", is_flag=True, help="Print the reports of sweeps that found nothing to do as well.")
@click.option(
    "--heartbeat",
    metavar="FILE",
    help="Say in FILE that attempts are finished, for python -m monitor.heartbeat [--ready] FILE as a probe.",
)
async def run(call: Call, verbose: bool, heartbeat: str | None) -> int:
    """Sweep on MONITOR_SCHEDULE until SIGTERM, which finishes the batch in hand and exits with 0.

    Exits with 1 after three sweeps in a row in which every handler call hung, so that a supervisor starts it again.
    """
    warn_of_suspicious_settings(call.environment)
    settings = call.settings
    schedule = call.environment.get("MONITOR_SCHEDULE", "").strip() or DEFAULT_SCHEDULE
    alive = Heartbeat(Path(heartbeat), schedule, settings.interval_s) if heartbeat else None
    if alive and (problem := alive.beat()):
        raise UsageProblem(f"--heartbeat {heartbeat}: {problem}")
    async with _janitor(call, of_process(can_be_scraped=True), settings) as janitor:

        def stop_sweeps() -> None:
            for one in janitor.sweeps:
                one.stop()

        with stop_on_signals(stop_sweeps) as stop:
            call.out.note(f"sweeping on the schedule {schedule}, in UTC; SIGTERM ends it")
            timer, hung = Timer(schedule), 0
            while hung < HUNG_SWEEPS and await _is_due(call, timer, stop):
                reports = await janitor.tick()
                hung = hung + 1 if janitor.runner is not None and janitor.runner.all_hung else 0
                _print(call, tuple(report for report in reports if verbose or call.as_json or not report.is_quiet))
                _tell_errors(call, janitor)
                _tell_lateness(call, reports, settings.interval_s)
                answered = any(report.index != NOT_ASKED for report in reports)
                if alive and (problem := alive.beat(answered)):
                    call.out.note(f"warning: the heartbeat could not be written: {problem}")
    if hung >= HUNG_SWEEPS:
        call.out.note(
            f"error: every handler call hung in {hung} sweeps in a row; ended, so that a supervisor starts it again"
        )
        return FAILED
    call.out.note("ended")
    return INTERRUPTED if stop.by is signal.SIGINT else FINE


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The file that says how long ``run`` may be believed to live: from each attempt's end on for three intervals."""

    path: Path
    schedule: str
    interval_s: float

    def beat(self, answered: bool = False) -> str | None:
        """Write it, and whether Redis ``answered`` in the attempt; what is wrong if it cannot be written."""
        now = datetime.now(timezone.utc)
        # Of a schedule with long and short intervals, those that come.
        *_, third = islice(fires(self.schedule, now), INTERVALS_ALIVE)
        lasts_s = max(INTERVALS_ALIVE * self.interval_s, (third - now).total_seconds())
        try:
            beat(self.path, lasts_s, answered)
        except OSError as error:
            return error.strerror or type(error).__name__
        return None


async def _is_due(call: Call, timer: Timer, stop: Stop) -> bool:
    """Wait for the next fire; False: asked to end."""
    while not stop:
        left_s, step_s = timer.look()
        if step_s:
            way = "back" if step_s < 0 else "forward"
            call.out.note(f"warning: the clock was set {way} by {abs(step_s):.0f} s; sweeping on, by the new time")
        if left_s <= 0:
            timer.fired()
            return True
        await stop.sleep(min(left_s, LONGEST_NAP_S))
    return False


def _tell_lateness(call: Call, reports: tuple[SweepReport, ...], interval_s: float) -> None:
    took_s = max((report.duration_s for report in reports), default=0.0)
    if took_s >= interval_s:
        call.out.note(
            f"warning: this sweep took {took_s:.1f} s, longer than the interval; the sweeps it met are left out"
        )
