"""A stream's consumer groups, as XINFO GROUPS has them. Right: +xinfo|groups."""

from __future__ import annotations

from dataclasses import dataclass

from shared.redis_client import RedisLink, Reply


@dataclass(frozen=True, slots=True)
class Group:
    """One row of XINFO GROUPS."""

    name: bytes
    consumers: int
    pending: int
    last_delivered_id: bytes
    lag: int | None
    """None: not known, as after some deletions and trims, and below 7.0."""


async def groups_of(link: RedisLink, stream: str) -> list[Group]:
    """Every group of the stream."""
    return parse_groups(await link.call("XINFO", "GROUPS", stream))


def parse_groups(reply: Reply) -> list[Group]:
    """The reply to ``XINFO GROUPS``: rows that are a map under RESP3, a flat list under RESP2."""
    rows = (row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in reply)
    return [
        Group(row[b"name"], row[b"consumers"], row[b"pending"], row[b"last-delivered-id"], row.get(b"lag"))
        for row in rows
    ]
