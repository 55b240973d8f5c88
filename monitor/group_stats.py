"""How a group stands besides what is pending: its lag and its dead letters, asked for only where telemetry tells them.

Sources: XINFO GROUPS (``lag`` since Redis 7.0, nil after a deletion ahead of the group), XLEN. Rights: +xinfo|groups, +xlen.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.redis_client import Command, Reply
from shared.settings import StreamSettings


def question(settings: StreamSettings) -> list[Command]:
    """The commands that ask, to travel with others."""
    groups: Command = ("XINFO", "GROUPS", settings.stream)
    return [groups] if settings.dead_letter_stream is None else [groups, ("XLEN", settings.dead_letter_stream)]


def answer(settings: StreamSettings, replies: Sequence[Reply]) -> tuple[int | None, int | None]:
    """Lag and dead letters by the replies to ``question``; None for what the server does not tell this user."""
    groups, *lengths = replies
    dead_letters = lengths[0] if lengths else None
    return _lag(groups, settings.group.encode()), dead_letters if isinstance(dead_letters, int) else None


def _lag(groups: Reply, group: bytes) -> int | None:
    if isinstance(groups, Exception):
        return None
    for row in groups:
        fields = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
        if fields[b"name"] == group:
            lag: int | None = fields.get(b"lag")
            return lag
    return None
