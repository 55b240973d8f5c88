"""FastStream's claiming subscriber: StreamSub with min_idle_time, otherwise its defaults, logging off.

It claims one entry at a time by XAUTOCLAIM, calls the handler, and acknowledges when that returns.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import Redis, RedisStreamMessage

from bench.methods import Settle
from bench.prepared import GROUP, MIN_IDLE_S, PREFIX, STREAM
from bench.target import Target

CONSUMER = "faststream"


async def prepare(target: Target) -> Settle:
    no_logger: Any = None  # accepted, though not by the annotation
    broker = RedisBroker(f"redis://127.0.0.1:{target.port}", logger=no_logger)
    await broker.connect()
    stored = 0
    all_stored = asyncio.Event()
    abandoned = StreamSub(STREAM.decode(), group=GROUP.decode(), consumer=CONSUMER, min_idle_time=1_000 * MIN_IDLE_S)

    @broker.subscriber(stream=abandoned)
    async def store(message: RedisStreamMessage, redis: Redis) -> None:
        nonlocal stored
        fields: Any = message.raw_message["data"]
        await redis.hset(PREFIX + fields[b"id"], mapping=fields)
        stored += 1
        if stored == target.entries:
            all_stored.set()

    async def settle() -> None:
        await broker.start()
        await all_stored.wait()
        # The last acknowledgement follows its handler; stopping waits for it.
        await broker.stop()

    return settle
