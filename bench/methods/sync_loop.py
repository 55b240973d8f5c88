"""A sync loop: claim a page, then store and acknowledge its entries one after the other."""

from __future__ import annotations

from typing import Any

from bench.methods import Settle
from bench.prepared import GROUP, MIN_IDLE_S, PAGE, PREFIX, STREAM
from bench.target import Target

CONSUMER = "sync-loop"


async def prepare(target: Target) -> Settle:
    client: Any = target.client()
    client.ping()

    def settle_page() -> int:
        rows = client.xpending_range(STREAM, GROUP, "-", "+", PAGE, idle=1_000 * MIN_IDLE_S)
        if not rows:
            return 0
        ids = [row["message_id"] for row in rows]
        for entry_id, fields in client.xclaim(STREAM, GROUP, CONSUMER, 1_000 * MIN_IDLE_S, ids):
            client.hset(PREFIX + fields[b"id"], mapping=fields)
            client.xack(STREAM, GROUP, entry_id)
        return len(ids)

    async def settle() -> None:
        while settle_page():
            pass
        client.close()

    return settle
