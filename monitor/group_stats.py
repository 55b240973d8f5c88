"""How a group stands besides what is pending: its lag, its dead letters and the stream's length, where telemetry tells them.

Sources: XINFO GROUPS (``lag`` since Redis 7.0, nil after a deletion ahead of the group), XLEN. Rights: +xinfo|groups, +xlen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from monitor.groups import groups_if_any, parse_groups
from shared.names import printable
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import StreamSettings

LONGEST_NAMED: Final = 60


def build_commands(settings: StreamSettings) -> list[Command]:
    """The commands that ask, to travel with others."""
    commands: list[Command] = [("XINFO", "GROUPS", settings.stream), ("XLEN", settings.stream)]
    return commands if settings.dead_letter_stream is None else [*commands, ("XLEN", settings.dead_letter_stream)]


def parse_replies(settings: StreamSettings, replies: Sequence[Reply]) -> tuple[int | None, int | None, int | None]:
    """Lag, dead letters and the stream's length by the replies to ``build_commands``; None where this user may not ask."""
    groups, length, *others = replies
    dead_letters = others[0] if others else None
    return _lag(groups, settings.group.encode()), _number(dead_letters), _number(length)


async def other_groups(link: RedisLink, stream: str, group: str) -> tuple[list[str], bool]:
    """The names of the groups that read ``stream`` beside ``group``, shortened, and whether any does.

    Raises:
        redis.exceptions.RedisError: not known; NOPERM without +xinfo|groups.
    """
    names = [group.name for group in await groups_if_any(link, stream)]
    others = sorted(printable(name, LONGEST_NAMED) for name in names if name != group.encode())
    return others, bool(names)


def _number(reply: Reply) -> int | None:
    return reply if isinstance(reply, int) else None


def _lag(groups: Reply, name: bytes) -> int | None:
    if isinstance(groups, Exception):
        return None
    return next((group.lag for group in parse_groups(groups) if group.name == name), None)
