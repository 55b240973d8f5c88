"""May an index that is missing be created? Asked only then: INDEX_NAME may be an alias that is missing for a moment, and an
index under its name would undo the swap. Imported only where one is missing."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

from redis.exceptions import ResponseError

from monitor.index import definition_of
from shared.redis_client import RedisLink, mapping_of
from shared.retry import code_of
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")

MOST_LOOKED_AT: Final = 200


async def reason_against(link: RedisLink, settings: StreamSettings, name: str, aliases: Collection[str]) -> str | None:
    """Why no index is created under this name; None: it may be.

    Where the other indexes may not be looked at (FT._LIST), it is created, and a log line says so.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
    """
    if settings.index_create == "never":
        return f"{name} is missing, and INDEX_CREATE is never"
    if name in aliases:
        return f"{name} is missing; it was an alias of another index before, so none is created under its name"
    if link.is_cluster:  # each shard's index has this prefix
        return None
    try:
        other = await _other_with_prefix(link, settings.hash_prefix.encode(), name.encode())
    except ResponseError as error:
        logger.info("%s: %s is created; whether another index covers its hashes is not known (%s)",
                    settings.label, name, code_of(error))  # fmt: skip
        return None
    if other is None:
        return None
    return (
        f"{name} is missing, and {other.decode('utf-8', 'replace')} covers its hashes already: name that one in INDEX_NAME, or "
        "give it this name as an alias (FT.ALIASADD)"
    )


async def _other_with_prefix(link: RedisLink, prefix: bytes, name: bytes) -> bytes | None:
    """Another index that has exactly this prefix; one without a prefix covers everything and does not count."""
    names = [one for one in await link.call("FT._LIST") if one != name]
    replies = await link.pipelined([("FT.INFO", one) for one in names[:MOST_LOOKED_AT]])
    for one, reply in zip(names, replies, strict=False):
        if not isinstance(reply, Exception) and _prefixes(reply) == [prefix]:
            return bytes(one)
    return None


def _prefixes(reply: Any) -> list[bytes]:
    prefixes: list[bytes] = definition_of(mapping_of(reply)).get(b"prefixes", [])
    return prefixes
