"""Script or pipelines: by which way a stream's entries are settled, and why; one rule for every action that has both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class SettleMode:
    """How a stream's entries are settled, and why so."""

    name: str
    """``script`` or ``gather``; ``none`` where nothing is settled."""
    reason: str
    asked_by: str | None = None
    """The setting that asks for it, whatever the server allows."""
    is_refused: bool = False
    """SETTLE_MODE is script, and the server does not let a script settle."""


async def settle_mode_of(settings: StreamSettings, why_no_script: Callable[[], Awaitable[str | None]]) -> SettleMode:
    """By the settings, and by what the server says: ``why_no_script`` asks it, None if a script may.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    for setting, asks in (("SETTLE_MODE", settings.settle_mode == "gather"), ("ACK_REPLICAS", settings.ack_replicas)):
        if asks:
            return SettleMode("gather", f"{setting} asks for it", setting)
    reason = await why_no_script()
    if reason is None:
        return SettleMode("script", "a script may")
    if settings.settle_mode == "script":
        return SettleMode("script", reason, is_refused=True)
    return SettleMode("gather", reason)
