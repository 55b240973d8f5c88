"""The original article's seven FT.SEARCH queries, as one would type them in redis-cli, and what they find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from demo.names import INDEX

HITS_SHOWN = 3
# In dialect 1, the servers' default, `@user:jo* | @location:India` finds the users only: the first field is applied
# to the whole union. Dialect 2 reads each side by itself.
DIALECT = 2
QUERIES = (
    "hello",
    "hello|world",
    "@location:India",
    "@user:jo* @location:India",
    "@user:jo* | @location:India",
    "@hashtags:{cov*}",
    "@hashtags:{cov*|Med*}",
)

Fields = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server found for one query: how many documents, and the first few."""

    query: str
    total: int
    hits: tuple[tuple[bytes, Fields], ...]

    @property
    def typed(self) -> str:
        """The command as sent, the way redis-cli takes it."""
        plain = self.query.isalnum()
        query = self.query if plain else '"' + self.query.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"FT.SEARCH {INDEX} {query} LIMIT 0 {HITS_SHOWN} DIALECT {DIALECT}"


async def ask(client: Redis, query: str) -> Answer:
    """Search for one query. The client must speak RESP2."""
    total, *pairs = await _search(client, query, HITS_SHOWN)
    keys, bodies = pairs[0::2], pairs[1::2]
    return Answer(query, int(total), tuple(zip(keys, map(_fields, bodies), strict=True)))


async def count_documents(client: Redis) -> int:
    """How many documents the index holds."""
    return int((await _search(client, "*", 0))[0])


async def _search(client: Redis, query: str, hits: int) -> list[Any]:
    command = ("FT.SEARCH", INDEX, query, "LIMIT", 0, hits, "DIALECT", DIALECT)
    return cast(list[Any], await client.execute_command(*command))  # type: ignore[no-untyped-call]


def _fields(body: list[bytes] | None) -> Fields:
    """A document that vanished between the search and the reading has no body."""
    flat: Iterator[bytes] = iter(body or ())
    return dict(zip(flat, flat, strict=True))
