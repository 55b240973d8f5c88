"""The bell: an Azure Functions timer that has the janitor sweep. Nothing else here knows Azure."""

import asyncio
import logging
import os
import time

import azure.functions as func

from monitor.janitor import Janitor, raise_for
from shared.settings import DEFAULT_SCHEDULE, Settings

logger = logging.getLogger("monitor")

app = func.FunctionApp()


class _Instance:
    """What a warm instance keeps between ticks."""

    janitor: Janitor | None = None
    loop: asyncio.AbstractEventLoop | None = None
    last_began_s: float | None = None
    last_took_s: float = 0.0


# A timer of more than one fire a minute gets no schedule monitor from the platform, so there is none to ask for.
@app.timer_trigger(
    arg_name="timer",
    schedule=os.environ.get("MONITOR_SCHEDULE", "").strip() or DEFAULT_SCHEDULE,
    use_monitor=False,
)
async def monitor(timer: func.TimerRequest) -> None:
    """Sweep once. Raises if settings are wrong or Redis is away or refuses; not because of bad entries."""
    settings = Settings.from_env()
    began_s = time.monotonic()
    _tell_lateness(timer, began_s, settings.interval_s)
    _Instance.last_began_s = began_s
    try:
        raise_for(await (await _janitor(settings)).tick())
    finally:
        _Instance.last_took_s = time.monotonic() - began_s


async def _janitor(settings: Settings) -> Janitor:
    """The instance's janitor: one client for all ticks, made anew if the event loop or the settings are others."""
    loop = asyncio.get_running_loop()
    if _Instance.janitor is None or _Instance.loop is not loop or _Instance.janitor.settings != settings:
        if _Instance.janitor is not None and _Instance.loop is loop:
            await _Instance.janitor.close()
        _Instance.janitor, _Instance.loop = Janitor(settings), loop
    return _Instance.janitor


def _tell_lateness(timer: func.TimerRequest, began_s: float, interval_s: float) -> None:
    """The platform does not tell: past_due is never set at this rate, and ticks missed in an overrun fall into one."""
    if timer.past_due:
        logger.warning("this tick is past due")
    if _Instance.last_took_s >= interval_s:
        logger.warning("the previous tick took %.1f s, longer than the interval", _Instance.last_took_s)
    if _Instance.last_began_s is not None and began_s - _Instance.last_began_s >= 1.5 * interval_s:
        logger.warning("this tick is late: %.1f s after the previous one", began_s - _Instance.last_began_s)
