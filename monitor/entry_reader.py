"""Reads entries of a stream by their ids, byte for byte, no more at a time than the link can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final

from redis import exceptions as redis_errors

from monitor.portion import Portion
from shared.bulk import ReplyTooLarge
from shared.redis_client import RedisLink, raise_first

TOO_LARGE: Final = (
    "too large to carry: its reply is lost each time (the link, or client-output-buffer-limit); a script may settle it"
)
LOST: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError)
NOTHING_THERE: Final = ("0-1", "0-1")
"""A range that asks the stream's own server, in a cluster too, and costs nothing."""
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
        except LOST as error:
            self.portion.was_lost()
            held = await self._read_again(ids, error)
        self._losses.pop(ids[0], None)
        present = held if None not in held else [fields for fields in held if fields is not None]
        self.portion.came(len(ids), sum(map(len, chain.from_iterable(present))))  # type: ignore[arg-type]
        return held

    async def _read_again(self, ids: Sequence[bytes], error: Exception) -> list[list[bytes] | None]:
        """After a lost reply: the next attempt asks for one entry; one that was asked for alone is asked for once more."""
        if len(ids) > 1:
            if isinstance(error, ReplyTooLarge):  # for all of them together; not for one alone
                raise redis_errors.ConnectionError("too many entries at a time") from None
            raise error
        if isinstance(error, ReplyTooLarge):
            raise TooLargeToCarry from None
        losses = self._losses[ids[0]] = self._losses.get(ids[0], 0) + 1
        if losses < MOST_LOSSES:
            raise error
        # A server that is away, or was until now, is no fault of the entry.
        await self._link.call("XRANGE", self._stream, *NOTHING_THERE)
        try:
            return await self._read(ids)
        except LOST:
            del self._losses[ids[0]]
            raise TooLargeToCarry from None

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
