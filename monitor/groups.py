"""A stream's consumer groups, as XINFO GROUPS has them. Right: +xinfo|groups."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from shared.redis_client import RedisLink, Reply, mapping_of


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


async def groups_if_any(link: RedisLink, stream: str) -> list[Group]:
    """Every group of the stream; none where there is no such stream.

    Raises:
        redis.exceptions.RedisError: not known; NOPERM without +xinfo|groups.
    """
    try:
        return await groups_of(link, stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return []


def parse_groups(reply: Reply) -> list[Group]:
    """The reply to ``XINFO GROUPS``: rows that are a map under RESP3, a flat list under RESP2."""
    return [
        Group(row[b"name"], row[b"consumers"], row[b"pending"], row[b"last-delivered-id"], row.get(b"lag"))
        for row in map(mapping_of, reply)
    ]
