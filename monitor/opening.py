"""The opening of a sweep, one round trip: what is pending, the server's time, the index, and what telemetry wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from monitor import group_stats
from monitor.actions import Retry
from monitor.context import SweepContext
from monitor.index import OFF, IndexInfo, SearchIndex
from monitor.pending import Summary, age_s, summary_of, time_ms
from monitor.report import NOT_ASKED
from monitor.server_clock import RIGHT, ServerClock, look
from shared.errors import JanitorError, RedisRefused
from shared.names import quoted
from shared.redis_client import Command, RedisLink, Reply
from shared.retry import code_of, to_user_error
from shared.settings import StreamSettings
from shared.telemetry import Standing

if TYPE_CHECKING:
    from monitor.stream_retention import StreamRetention

NOTHING_PENDING: Final = Summary(0, None, None)
INDEX_NOT_ASKED: Final = IndexInfo(NOT_ASKED)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a sweep knows when it begins."""

    summary: Summary = NOTHING_PENDING
    now_ms: int = 0
    """The server's clock."""
    index: IndexInfo = INDEX_NOT_ASKED
    standing: Standing | None = None
    """None where telemetry is off."""

    clock: ServerClock = RIGHT
    """Whether the server's clock can be trusted."""


async def open_sweep(
    context: SweepContext, index: SearchIndex | None, retry: Retry, retention: StreamRetention | None = None
) -> Opening:
    """Ask the server; create the index where it is missing. ``retention`` trims its first slice if nothing is pending.

    Raises:
        JanitorError: there is no such group, the key is no stream, or a right is missing.
        redis.exceptions.RedisError: the server could not be asked.
    """
    settings = context.settings
    about_index = await retry(index.build_commands) if index else []
    about_group = group_stats.build_commands(settings) if context.telemetry.is_on else []
    commands: list[Command] = [
        ("XPENDING", settings.stream, settings.group),
        ("TIME",),
        *about_index,
        *about_group,
        *(retention.opening() if retention else ()),
    ]
    pending, now, *others = await retry(lambda: _first_replies(context.link, settings, commands))
    summary, now_ms = summary_of(pending), time_ms(now)
    info = index.parse_replies(others[: len(about_index)]) if index else IndexInfo(OFF)
    others = others[len(about_index) :]
    clock = await retry(lambda: look(context.link, settings, summary, now_ms))
    standing = None
    if about_group:
        lag, dead_letters, length = group_stats.parse_replies(settings, others[: len(about_group)])
        oldest_s = clock.age_s(age_s(summary.smallest_id, now_ms))
        behind_s = clock.ahead_ms / 1000 if clock.was_set_back else 0.0
        standing = Standing(summary.total, oldest_s, lag, dead_letters, length, 0.0, behind_s)
    if retention:
        retention.opened(others[len(about_group) :])
    if index and info.is_missing:
        info = await index.create(info.missing)
    return Opening(summary, now_ms, info, standing, clock)


async def _first_replies(link: RedisLink, settings: StreamSettings, commands: Sequence[Command]) -> list[Reply]:
    """XPENDING and TIME have to work; what the others answer is only noted."""
    replies = await link.pipelined(commands)
    for command, reply in zip(commands[:2], replies, strict=False):
        if isinstance(reply, Exception):
            raise opening_error(reply, str(command[0]), settings) or reply
    return replies


def in_words(error: Exception, doing: str, settings: StreamSettings) -> JanitorError:
    """``error`` with what to do; a group that is gone in mid-sweep is explained as one that was never there."""
    if code_of(error) == "NOGROUP":
        return no_group(settings.stream, settings.group)
    return to_user_error(error, doing)


def no_group(stream: str, group: str) -> RedisRefused:
    """Names the group that is missing, and the command that makes it."""
    text = f"there is no consumer group {group!r} on the stream {stream!r}"
    if set(stream + group) & set("*?"):
        return RedisRefused(
            f"{text}: a name is a name here, no pattern; check STREAM_NAME and STREAM_CONSUMER_GROUP_NAME"
        )
    return RedisRefused(f"{text}; create it with: XGROUP CREATE {quoted(stream)} {quoted(group)} 0 MKSTREAM")


def opening_error(error: Exception, command: str, settings: StreamSettings) -> JanitorError | None:
    """What the refusal of a sweep's first commands means; None for an error that another layer explains."""
    code = code_of(error)
    if code == "NOGROUP":
        return no_group(settings.stream, settings.group)
    if code == "WRONGTYPE":
        return RedisRefused(f"STREAM_NAME {settings.stream!r} is a key of another type, not a stream")
    return to_user_error(error, command) if code == "NOPERM" else None
