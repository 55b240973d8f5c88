"""Queries as one would type them in redis-cli, and what they find."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from demo.clustered import PatientCluster

HITS_SHOWN = 3
# In dialect 1, the servers' default, `@user:jo* | @location:India` finds the users only: the first field is applied
# to the whole union. Dialect 2 reads each side by itself.
DIALECT = 2
_PLAIN = re.compile(r"[\w.{}-]+")

Fields = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for and, if documents are to be put together instead (FT.AGGREGATE), how."""

    text: str
    steps: tuple[str, ...] = ()

    def command(self, index: str, only_keys: bool = False) -> tuple[str, ...]:
        dialect = ("DIALECT", str(DIALECT))
        if self.steps:
            return ("FT.AGGREGATE", index, self.text, *self.steps, *dialect)
        no_content = ("NOCONTENT",) if only_keys else ()
        return ("FT.SEARCH", index, self.text, *no_content, "LIMIT", "0", str(HITS_SHOWN), *dialect)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server found for one query: how many documents or groups, and the first few."""

    query: Query
    index: str
    total: int
    hits: tuple[tuple[bytes, Fields], ...]
    """Key and fields; a group has no key."""
    other_indexes: tuple[str, ...] = ()
    """Of a cluster's other shards, which were asked likewise."""

    @property
    def typed(self) -> str:
        """The command as sent, the way redis-cli takes it."""
        return " ".join(map(_quoted, self.query.command(self.index, only_keys=bool(self.other_indexes))))


async def ask(client: Redis, index: str, query: Query) -> Answer:
    """Put one query. The client must speak RESP2."""
    if isinstance(client, PatientCluster):
        return await _ask_each_shard(client, index, query)
    total, *rows = await _reply(client, query.command(index))
    if query.steps:
        return Answer(query, index, len(rows), tuple((b"", _fields(row)) for row in rows))
    keys, bodies = rows[0::2], rows[1::2]
    return Answer(query, index, int(total), tuple(zip(keys, map(_fields, bodies), strict=True)))


async def _ask_each_shard(client: PatientCluster, index: str, query: Query) -> Answer:
    """A shard's index finds all that lies there, but has the fields only of what lies in the slot of its own name."""
    names = await client.indexes(index)
    replies = [await client.on_primary_of(name, *query.command(name, only_keys=True)) for name in names]
    keys = [key for _, *found in replies for key in found][:HITS_SHOWN]
    hits = tuple([(key, cast(Fields, await client.hgetall(key))) for key in keys])
    return Answer(query, names[0], sum(int(total) for total, *_ in replies), hits, names[1:])


async def count_documents(client: Redis, index: str) -> int:
    """How many documents the index holds, or those of all shards together."""
    command = ("*", "LIMIT", "0", "0")
    if isinstance(client, PatientCluster):
        names = await client.indexes(index)
        return sum([int((await client.on_primary_of(name, "FT.SEARCH", name, *command))[0]) for name in names])
    return int((await _reply(client, ("FT.SEARCH", index, *command)))[0])


async def _reply(client: Redis, command: tuple[str, ...]) -> list[Any]:
    return cast(list[Any], await client.execute_command(*command))  # type: ignore[no-untyped-call]


def _quoted(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fields(body: list[bytes] | None) -> Fields:
    """A document that vanished between the search and the reading has no body."""
    flat: Iterator[bytes] = iter(body or ())
    return dict(zip(flat, flat, strict=True))
