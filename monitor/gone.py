"""Entries that were deleted from the stream while they were pending: seen gone and taken off the list in one step.

By gone.lua; where no script may run, by XCLAIM, which from Redis 7.0 on itself drops what is gone off the list; on 6.x
without scripts by a second look, which a stream that is renamed away and back in between still deceives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from monitor.batch import Batch
from monitor.outcomes import Outcome
from monitor.scripts import gone_script
from shared.redis_client import RedisLink, raise_first
from shared.retry import code_of
from shared.settings import StreamSettings

GONE, LOST, THERE = b"gone", b"lost", b"there"
CAME_AND_WENT: Final = "was not in the stream, and then was again, while it was being read"
_NO_SCRIPT_HERE: Final = ("NOPERM", "NOCOMMAND")


class Gone:
    """Says of entries that XRANGE did not find what became of them."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings
        self._script = gone_script()
        self._may_run = True

    async def take_off(self, ids: Sequence[bytes], min_idle_ms: int) -> list[bytes]:
        """For each id ``gone`` (acknowledged now), ``lost`` (someone else's by now) or ``there`` (the stream has it after all).

        An entry that was idle for less than ``min_idle_ms`` is someone else's.

        Raises:
            redis.exceptions.RedisError: any of them may be off the list; repeating then says ``lost`` of those.
        """
        if self._may_run:
            try:
                return await self._by_script(ids, min_idle_ms)
            except ResponseError as error:
                if code_of(error) not in _NO_SCRIPT_HERE:
                    raise
                self._may_run = False
        return await self._by_claim(ids, min_idle_ms)

    async def count(self, ids: Sequence[bytes], min_idle_ms: int, batch: Batch) -> None:
        """``take_off``, with what became of each noted in ``batch``."""
        for entry_id, word in zip(ids, await self.take_off(ids, min_idle_ms), strict=True):
            if word == GONE:
                batch.deleted.append(entry_id)
            elif word == THERE:
                batch.named.append((Outcome.FAILED, CAME_AND_WENT, entry_id))
            else:
                batch.lost += 1

    async def _by_script(self, ids: Sequence[bytes], min_idle_ms: int) -> list[bytes]:
        settings = self._settings
        arguments = self._script.named(group=settings.group, min_idle_ms=min_idle_ms)
        words: list[bytes] = await self._script.run(self._link, (settings.stream,), (*arguments, *ids))
        return words

    async def _by_claim(self, ids: Sequence[bytes], min_idle_ms: int) -> list[bytes]:
        return [await self._one_by_claim(entry_id, min_idle_ms) for entry_id in ids]  # lost entries are few

    async def _one_by_claim(self, entry_id: bytes, min_idle_ms: int) -> bytes:
        """One write, so that little comes between: still pending? XCLAIM it; on the list afterwards? in the stream?"""
        settings = self._settings
        row = ("XPENDING", settings.stream, settings.group, entry_id, entry_id, 1)
        claim = ("XCLAIM", settings.stream, settings.group, settings.consumer, min_idle_ms, entry_id, "JUSTID")
        look = ("XRANGE", settings.stream, entry_id, entry_id)
        replies = await self._link.pipelined([row, claim, row, look])
        raise_first(replies)
        before, claimed, after, found = replies
        if found:
            return THERE
        if not before:
            return LOST
        if not after:
            return GONE  # 7.0 and later: the XCLAIM dropped it
        if not claimed:
            return LOST  # idle for too short a time: someone took it
        # Below 7.0 a claim does not tell. It was missing before, it is missing now, and it is ours.
        acknowledged = await self._link.call("XACK", settings.stream, settings.group, entry_id)
        return GONE if acknowledged else LOST
