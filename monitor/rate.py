"""Where the janitors of a group keep the window of RECOVERY_RATE_LIMIT; rate.lua says how it works."""

from __future__ import annotations

from shared.own_keys import RATE, own_key
from shared.settings import StreamSettings


def rate_key(settings: StreamSettings) -> str:
    """The window's key; in a cluster in the stream's slot, since claim and charge are one script."""
    return own_key(settings.stream, RATE, settings.group)
