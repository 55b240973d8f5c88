"""Reads entries of a stream by their ids, byte for byte, no more at a time than the link can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final

from redis import exceptions as redis_errors

from monitor.portion import Portion
from shared.redis_client import RedisLink, raise_first

MOST_LOSSES: Final = 2
"""How often the reply for one entry alone may be lost, on a server that answers otherwise, until it is named."""


class TooLargeToCarry(Exception):
    """The reply with the first of the entries is lost each time, though it is asked for alone and the server answers."""


class EntryReader:
    """Reads the entries of one stream. ``portion.size`` says how many to ask for."""

    def __init__(self, link: RedisLink, stream: str, portion: Portion) -> None:
        self._link = link
        self._stream = stream
        self._losses: dict[bytes, int] = {}
        self._alone = asyncio.Lock()
        self.portion = portion

    async def read(self, ids: Sequence[bytes]) -> list[list[bytes] | None]:
        """Each entry's names and values in turn; None for one that the stream does not have.

        Raises:
            TooLargeToCarry: the first of ``ids`` cannot be carried, even alone.
            redis.exceptions.RedisError: nothing is known; repeating is safe, with at most ``portion.size`` ids.
        """
        if self.portion.is_careful:
            async with self._alone:
                return await self._read_or_lose(ids)
        return await self._read_or_lose(ids)

    async def _read_or_lose(self, ids: Sequence[bytes]) -> list[list[bytes] | None]:
        try:
            held = await self._read(ids)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self.portion.was_lost()
            if len(ids) == 1 and await self._cannot_come(ids[0]):
                raise TooLargeToCarry from None
            raise
        self._losses.pop(ids[0], None)
        present = held if None not in held else [fields for fields in held if fields is not None]
        self.portion.came(len(ids), sum(map(len, chain.from_iterable(present))))  # type: ignore[arg-type]
        return held

    async def _cannot_come(self, entry_id: bytes) -> bool:
        """Whether it was this entry's reply that was lost too often, and not the server."""
        losses = self._losses[entry_id] = self._losses.get(entry_id, 0) + 1
        if losses < MOST_LOSSES:
            return False
        await self._link.call("TIME")  # a server that is away is no fault of the entry
        del self._losses[entry_id]
        return True

    async def _read(self, ids: Sequence[bytes]) -> list[list[bytes] | None]:
        rows = await self._link.call("XRANGE", self._stream, ids[0], ids[-1], "COUNT", len(ids))
        if [row[0] for row in rows] == ids:  # they lie side by side, as most do
            return [row[1] for row in rows]
        found: dict[bytes, list[bytes]] = dict(rows)
        apart = [entry_id for entry_id in ids if entry_id not in found]
        replies = await self._link.pipelined([("XRANGE", self._stream, entry_id, entry_id) for entry_id in apart])
        raise_first(replies)
        found.update((reply[0][0], reply[0][1]) for reply in replies if reply)
        return [found.get(entry_id) for entry_id in ids]
