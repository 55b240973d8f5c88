"""A small local timer host: calls the app's real timer function on its real schedule, as the platform would.

It imports function_app, asks it for the function named `monitor`, and reads the schedule from that function's
own trigger (`%NAME%` stands for an app setting). One run at a time; what was missed during a long run is not
made up for. After each run one line tells its reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, cast

from azure.functions.timer import TimerRequest

from demo.wire import Stop, tell
from shared.schedule import fires

FUNCTION = "monitor"

TimerFunction = Callable[[TimerRequest], Awaitable[None]]

_SETTING_REFERENCE = re.compile(r"%([^%]+)%")


def load_timer_function() -> tuple[TimerFunction, str]:
    """The app's function and its schedule, settings put in, as the platform's own worker would find them."""
    app = importlib.import_module("function_app").app
    for function in app.get_functions():
        if function.get_function_name() == FUNCTION:
            schedule = function.get_trigger().get_dict_repr()["schedule"]
            return cast(TimerFunction, function.get_user_function()), _settings_put_in(schedule)
    raise LookupError(f"function_app has no function named {FUNCTION!r}")


def _settings_put_in(schedule: str) -> str:
    return _SETTING_REFERENCE.sub(lambda reference: os.environ[reference[1]], schedule)


class ReportCollector(logging.Handler):
    """Keeps what is logged during one tick: reports, and what a person should see."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.reports: list[dict[str, Any]] = []
        self.remarks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        report = getattr(record, "report", None)
        if isinstance(report, dict):
            self.reports.append({**report, "line": record.getMessage()})
        elif record.levelno >= logging.WARNING and record.name != "root":
            # azure.functions itself logs to the root logger, about what does not concern a timer.
            self.remarks.append(f"{record.levelname}: {record.getMessage()}")

    def taken(self) -> dict[str, Any]:
        taken = {"reports": self.reports, "remarks": self.remarks}
        self.reports, self.remarks = [], []
        return taken


async def run_ticks(function: TimerFunction, schedule: str, collector: ReportCollector, stop: Stop) -> None:
    """Tick until told to stop; a tick that has begun is finished, and a failed one is told."""
    for number in itertools.count(1):
        due = next(fires(schedule, datetime.now(timezone.utc)))
        tell(next_due=due.timestamp())
        await _sleep_until(due, stop)
        if stop:
            return
        started = time.perf_counter()
        error = await _failure_of(function)
        took_s = time.perf_counter() - started
        tell(tick=number, due=due.timestamp(), took_s=took_s, error=error, **collector.taken())


async def _sleep_until(due: datetime, stop: Stop) -> None:
    while not stop and (left_s := (due - datetime.now(timezone.utc)).total_seconds()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(0.1, left_s))  # in short naps: the end of the starter sends no event


async def _failure_of(function: TimerFunction) -> str | None:
    """Run one tick. The platform goes on after any failure, and so does this host."""
    try:
        await function(TimerRequest(past_due=False))
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    stop, collector = Stop(), ReportCollector()
    logging.getLogger().addHandler(collector)
    logging.getLogger(FUNCTION).setLevel(logging.DEBUG)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for facts, whatever the app may print
        function, schedule = load_timer_function()
        asyncio.run(run_ticks(function, schedule, collector, stop))
    return 0


if __name__ == "__main__":
    sys.exit(main())
