"""Queries as one would type them in redis-cli, and what they find."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

HITS_SHOWN = 3
# In dialect 1, the servers' default, `@user:jo* | @location:India` finds the users only: the first field is applied
# to the whole union. Dialect 2 reads each side by itself.
DIALECT = 2
_PLAIN = re.compile(r"[\w.-]+")

Fields = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for and, if documents are to be put together instead (FT.AGGREGATE), how."""

    text: str
    steps: tuple[str, ...] = ()

    def command(self, index: str) -> tuple[str, ...]:
        dialect = ("DIALECT", str(DIALECT))
        if self.steps:
            return ("FT.AGGREGATE", index, self.text, *self.steps, *dialect)
        return ("FT.SEARCH", index, self.text, "LIMIT", "0", str(HITS_SHOWN), *dialect)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server found for one query: how many documents or groups, and the first few."""

    query: Query
    index: str
    total: int
    hits: tuple[tuple[bytes, Fields], ...]
    """Key and fields; a group has no key."""

    @property
    def typed(self) -> str:
        """The command as sent, the way redis-cli takes it."""
        return " ".join(map(_quoted, self.query.command(self.index)))


async def ask(client: Redis, index: str, query: Query) -> Answer:
    """Put one query. The client must speak RESP2."""
    total, *rows = await _reply(client, query.command(index))
    if query.steps:
        return Answer(query, index, len(rows), tuple((b"", _fields(row)) for row in rows))
    keys, bodies = rows[0::2], rows[1::2]
    return Answer(query, index, int(total), tuple(zip(keys, map(_fields, bodies), strict=True)))


async def count_documents(client: Redis, index: str) -> int:
    """How many documents the index holds."""
    return int((await _reply(client, ("FT.SEARCH", index, "*", "LIMIT", "0", "0")))[0])


async def _reply(client: Redis, command: tuple[str, ...]) -> list[Any]:
    return cast(list[Any], await client.execute_command(*command))  # type: ignore[no-untyped-call]


def _quoted(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fields(body: list[bytes] | None) -> Fields:
    """A document that vanished between the search and the reading has no body."""
    flat: Iterator[bytes] = iter(body or ())
    return dict(zip(flat, flat, strict=True))
