"""The bell: an Azure Functions timer that has the janitor sweep. Nothing else here knows Azure."""

import asyncio
import logging
import os
import time
import typing

import azure.functions as func

from monitor.janitor import Janitor, raise_for
from shared.settings import DEFAULT_SCHEDULE, Settings
from shared.telemetry import Telemetry, of_process

logger = logging.getLogger("monitor")

app = func.FunctionApp()

# What a caller that has no context leaves out. Not None: on 3.10 that makes the hint Optional, which the platform's worker
# refuses, as it does Context | None.
NO_CONTEXT = typing.cast(func.Context, object())


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
async def monitor(timer: func.TimerRequest, context: func.Context = NO_CONTEXT) -> None:
    """Sweep once. Raises if settings are wrong or Redis is away or refuses; not because of bad entries."""
    if _Instance.last_began_s is None:
        _warn_of_suspicious_settings()  # before they are read: a misspelt name is why another one is missing
    settings = Settings.from_env()
    began_s = time.monotonic()
    _tell_lateness(timer, began_s, settings.interval_s)
    is_cold, _Instance.last_began_s = _Instance.last_began_s is None, began_s
    try:
        janitor = await _janitor(settings, of_process(function="monitor"))
        invocation_id = getattr(context, "invocation_id", "")
        with janitor.telemetry.invocation(getattr(context, "trace_context", None), invocation_id, is_cold):
            raise_for(await janitor.tick())
    finally:
        _Instance.last_took_s = time.monotonic() - began_s


def _warn_of_suspicious_settings() -> None:
    from shared.suspicious_settings import warn_of_suspicious_settings

    warn_of_suspicious_settings()


async def _janitor(settings: Settings, telemetry: Telemetry) -> Janitor:
    """The instance's janitor: one client for all ticks, made anew if the event loop or the settings are others."""
    loop, janitor = asyncio.get_running_loop(), _Instance.janitor
    is_fit = janitor is not None and (janitor.settings, janitor.telemetry) == (settings, telemetry)
    if janitor is None or _Instance.loop is not loop or not is_fit:
        if janitor is not None and _Instance.loop is loop:
            await janitor.close()
        janitor = _Instance.janitor = Janitor(settings, telemetry)
        _Instance.loop = loop
    return janitor


def _tell_lateness(timer: func.TimerRequest, began_s: float, interval_s: float) -> None:
    """The platform does not tell: past_due is never set at this rate, and ticks missed in an overrun fall into one."""
    if timer.past_due:
        logger.warning("this tick is past due")
    if _Instance.last_took_s >= interval_s:
        logger.warning("the previous tick took %.1f s, longer than the interval", _Instance.last_took_s)
    if _Instance.last_began_s is not None and began_s - _Instance.last_began_s >= 1.5 * interval_s:
        logger.warning("this tick is late: %.1f s after the previous one", began_s - _Instance.last_began_s)
