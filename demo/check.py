"""The check at the end of a run: nothing that was produced is missing, changed, or still pending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from demo.names import GROUP, HASH_PREFIX, STREAM
from demo.queries import count_documents
from demo.scene import Scene

PAGE_SIZE = 500
INDEXING_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, told with the numbers that were found."""

    text: str
    holds: bool


async def check_run(client: Redis, scene: Scene) -> list[Check]:
    """Hold what the producer says it produced against the stream, the hashes, the index and the group."""
    produced, pending = scene.produced, await count_pending(client)
    documents = await _count_documents_once_indexed(client, produced)
    equal = await _count_equal_hashes(client)
    sign = "=" if produced == documents else "≠"
    failed_ticks = sum(1 for tick in scene.ticks if tick.error)
    return [
        Check(
            f"{produced:,} tweets produced {sign} {documents:,} documents in the index",
            produced == documents == await client.xlen(STREAM) and produced > 0,
        ),
        Check(f"pending = {pending:,}", pending == 0),
        Check(
            f"{equal:,} of {produced:,} hashes hold, byte for byte, what their entries held",
            equal == produced,
        ),
        Check(
            f"{len(scene.ticks)} ticks of the timer, {failed_ticks} failed; recovered: {scene.recovered:,}",
            failed_ticks == 0 and scene.recovered > 0,
        ),
    ]


async def count_pending(client: Redis) -> int:
    summary: dict[str, Any] = await client.xpending(STREAM, GROUP)
    return int(summary["pending"])


async def _count_documents_once_indexed(client: Redis, expected: int) -> int:
    """An index that was made after the first hashes takes those up in the background: wait, bounded."""
    deadline = time.monotonic() + INDEXING_TIMEOUT_S
    while True:
        try:
            documents = await count_documents(client)
        except ResponseError:
            documents = 0
        if documents >= expected or time.monotonic() > deadline:
            return documents
        await asyncio.sleep(0.1)


async def _count_equal_hashes(client: Redis) -> int:
    equal = 0
    async for entries in _pages(client):
        pipeline = client.pipeline(transaction=False)
        for _, fields in entries:
            pipeline.hgetall(HASH_PREFIX.encode() + fields[b"id"])
        hashes = await pipeline.execute()
        equal += sum(stored == fields for stored, (_, fields) in zip(hashes, entries, strict=True))
    return equal


async def _pages(client: Redis) -> AsyncIterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    start = b"-"
    while True:
        page: Any = await client.xrange(STREAM, min=start, count=PAGE_SIZE)
        if not page:
            return
        yield page
        time_ms, sequence = page[-1][0].split(b"-")
        start = b"%s-%d" % (time_ms, int(sequence) + 1)
