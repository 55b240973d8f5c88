"""``groups ls``: every group that reads a stream, and how far each has come."""

from __future__ import annotations

from monitor.cli.call import Call, command
from monitor.cli.escape import encoded, shortened
from monitor.cli.look import server_time_ms
from monitor.cli.main import commands
from monitor.cli.output import columns
from monitor.cli.words import span
from monitor.groups import Group, groups_of
from monitor.pending import milliseconds_of
from monitor.stream_retention import stream_policy
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

WIDTHS = (24, -12, -9, -16, -34, -10)
HEADER = ("GROUP", "LAG", "PENDING", "OLDEST PENDING", "LAST DELIVERED", "CONSUMERS")
NEVER = b"0-0"
UNKNOWN = "unknown"


@commands.group("groups")
def groups() -> None:
    """The consumer groups of the streams, the janitor's own and others."""


@command(groups, "ls")
async def ls(call: Call) -> int:
    """List the groups of each stream, those that lag most first. A lag is unknown below Redis 7.0 and after some deletions."""
    seen: set[str] = set()
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            if settings.stream in seen:  # another item of STREAMS names it too
                return
            seen.add(settings.stream)
            found = await groups_of(link, settings.stream)
            if found and not call.as_json:
                call.out.line(shortened(settings.stream.encode(), 100), style="bold")
                call.out.line(columns(HEADER, WIDTHS), style="bold")
            oldest, now_ms = await _oldest_pending(link, settings.stream, found), await server_time_ms(link)
            for group in sorted(found, key=lambda one: (-1 if one.lag is None else -one.lag, one.name)):
                _print(call, settings, group, oldest.get(group.name), now_ms)

        return await call.each_stream(one)


async def _oldest_pending(link: RedisLink, stream: str, found: list[Group]) -> dict[bytes, bytes]:
    """The oldest pending id of each group that has one: one row each, as the summary walks all consumers."""
    pending = [group.name for group in found if group.pending]
    replies = await link.pipelined(("XPENDING", stream, name, "-", "+", 1) for name in pending) if pending else []
    return {name: rows[0][0] for name, rows in zip(pending, replies, strict=True) if isinstance(rows, list) and rows}


def _print(call: Call, settings: StreamSettings, group: Group, oldest: bytes | None, now_ms: int) -> None:
    policy = stream_policy(settings)
    is_own = group.name.decode("utf-8", "replace") in settings.own_groups
    is_ignored = policy is not None and policy.ignores(group.name)
    oldest_age_s, delivered_age_s = _age_s(oldest, now_ms), _age_s(group.last_delivered_id, now_ms)
    if call.as_json:
        call.out.record(
            "group", stream=settings.stream, name=encoded(group.name), lag=group.lag, pending=group.pending,
            oldest_pending_age_s=oldest_age_s, last_delivered_id=group.last_delivered_id.decode(),
            last_delivered_age_s=delivered_age_s, consumers=group.consumers, is_own=is_own,
            is_ignored=is_ignored,
        )  # fmt: skip
        return
    delivered = "nothing" if delivered_age_s is None else f"{group.last_delivered_id.decode()}, {span(delivered_age_s)}"
    name = shortened(group.name, 60) + (" (ignored)" if is_ignored else "")
    lag = UNKNOWN if group.lag is None else f"{group.lag:,}"
    oldest_pending = "" if oldest_age_s is None else span(oldest_age_s)
    cells = (name, lag, f"{group.pending:,}", oldest_pending, delivered, f"{group.consumers:,}")
    call.out.line(columns(cells, WIDTHS))


def _age_s(entry_id: bytes | None, now_ms: int) -> float | None:
    return None if entry_id is None or entry_id == NEVER else (now_ms - milliseconds_of(entry_id)) / 1000
