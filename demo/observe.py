"""What the server says about the group, put into the scene."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from demo.scene import Consumer, Scene
from shared.settings import StreamSettings

ROWS_LOOKED_AT = 200


async def observe(client: Redis, scene: Scene) -> None:
    """One look: pending and oldest idle time of every consumer, and how much nobody has read yet."""
    settings = scene.example.stream
    group = await own_group(client, settings)
    scene.unread = int(group.get("lag") or 0)
    rows: Any = await client.xinfo_consumers(settings.stream, settings.group)
    for row in rows:
        consumer = scene.consumer(row["name"].decode("utf-8", "replace"))
        if consumer.name in scene.example.janitor_names:
            consumer.state = "on its timer"
        consumer.pending = int(row["pending"])
        consumer.oldest_idle_ms = await _oldest_idle_ms(client, settings, consumer) if consumer.pending else 0


async def own_group(client: Redis, settings: StreamSettings) -> dict[str, Any]:
    """The example's own group, among others that may read the stream."""
    groups: Any = await client.xinfo_groups(settings.stream)
    return next(dict(group) for group in groups if group["name"] == settings.group.encode())


async def _oldest_idle_ms(client: Redis, settings: StreamSettings, consumer: Consumer) -> int:
    """The longest idle time among the first rows, which were delivered first unless somebody claimed some."""
    rows: Any = await client.xpending_range(settings.stream, settings.group, "-", "+", ROWS_LOOKED_AT, consumer.name)
    return max((int(row["time_since_delivered"]) for row in rows), default=0)
