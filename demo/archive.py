"""A second group that reads the stream too, and keeps what it read: with it the checks hold although the stream is trimmed.

It is read in batches and acknowledged, as any group is; retention may take no entry away before it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

GROUP: Final = "archive"
BATCH: Final = 500
BLOCK_MS: Final = 200


class Archive:
    """The entries by their ids, each as the stream had it."""

    def __init__(self) -> None:
        self.entries: dict[bytes, dict[bytes, bytes]] = {}

    async def read(self, client: Redis, stream: str) -> None:
        """Read what is new to the group, for as long as nobody cancels."""
        while True:
            with contextlib.suppress(RedisError):  # a read that failed is made up for by the next one
                await self._read_some(client, stream)
            await asyncio.sleep(0)

    async def _read_some(self, client: Redis, stream: str) -> None:
        replies: Any = await client.xreadgroup(GROUP, "archivist", {stream: ">"}, count=BATCH, block=BLOCK_MS)
        for entries in _entries_of(replies):
            self.entries.update(entries)
            await client.xack(stream, GROUP, *(entry_id for entry_id, _ in entries))

    async def pages(self, size: int) -> AsyncIterator[list[tuple[bytes, dict[bytes, bytes]]]]:
        """All of them, a page at a time."""
        entries = list(self.entries.items())
        for at in range(0, len(entries), size):
            yield entries[at : at + size]


def _entries_of(replies: Any) -> list[list[tuple[bytes, dict[bytes, bytes]]]]:
    """A map under RESP3, whose values are lists of pages; pairs under RESP2."""
    if isinstance(replies, dict):
        return [page for pages in replies.values() for page in pages if page]
    return [page for _, page in replies or () if page]


@contextlib.asynccontextmanager
async def archiving(client: Redis, stream: str) -> AsyncIterator[Archive]:
    """The group, made before anything is produced, and read until the end."""
    archive = Archive()
    await client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    task = asyncio.create_task(archive.read(client, stream))
    try:
        yield archive
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
