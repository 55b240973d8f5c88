"""Times, spans and numbers as people read them, and as they type them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d{1,9})(s|m|min|h|d)")
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(?:/s)?")


def span(seconds: float) -> str:
    """``0.4 s``, ``59 s``, ``3 min 5 s``, ``2 h 14 min``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    for size, name, part, part_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {part_name}"
    return f"{whole} s"


def moment(milliseconds: int) -> str:
    """A time by the server's clock, in UTC; ids may be made up, so any number has to do."""
    try:
        at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def milliseconds_at(text: str, now_ms: int) -> int:
    """``2026-05-01``, ``2026-05-01T12:00`` (UTC unless it says otherwise), or ``90m``, ``2h``, ``7d`` ago.

    Raises:
        ValueError: it is none of these.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now_ms - 1000 * int(ago[1]) * _UNITS_S[ago[2]]
    at = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return int(at.timestamp() * 1000)


def per_second(text: str) -> float:
    """``50/s`` or ``50``.

    Raises:
        ValueError: it is no rate above zero.
    """
    match = _RATE.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise ValueError("expected a number per second, like 50/s")
    return float(match[1])
