"""Clients of a Redis Cluster for the demo's programs: patient while a master is replaced, sure of what they wrote.

redis-py's own cluster clients use up their retries at once while a dead master has no successor yet, and add an entry
twice if the reply to the first XADD was lost with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import redis.asyncio.cluster
import redis.cluster
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    RedisClusterException,
    SlotNotCoveredError,
    TimeoutError,
    TryAgainError,
)

SCHEME: Final = "redis+cluster:"
PATIENCE_S: Final = 30.0
PAUSE_S: Final = 0.1
WAIT_MS: Final = 1000
CHANGING: Final = (
    *(ConnectionError, TimeoutError, ClusterDownError, SlotNotCoveredError, RedisClusterException),
    *(AskError, TryAgainError),  # MOVED is a kind of ASK in redis-py
)
"""Errors of a cluster that is about to change: soon it answers again."""
IS_THERE: Final = "equal or smaller than the target stream top item"


def client_of(url: str) -> Redis:
    """For the pipeline's programs: speaks to the server, or to the cluster, that the URL names."""
    return cast(Redis, SureCluster.from_url(_plain(url))) if url.startswith(SCHEME) else Redis.from_url(url)


def observer_of(url: str) -> AsyncRedis:
    """For looking and checking. RESP2: replies of FT.SEARCH come as redis-cli shows them."""
    if url.startswith(SCHEME):
        return cast(AsyncRedis, PatientCluster.from_url(_plain(url), protocol=2))
    return AsyncRedis.from_url(url, protocol=2)


def _plain(url: str) -> str:
    return url.replace(SCHEME, "redis:")


class PatientCluster(redis.asyncio.cluster.RedisCluster):
    """Asks again until a cluster that is changing answers."""

    async def execute_command(self, *command: Any, **more: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await super().execute_command(*command, **more)
            except CHANGING:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def indexes(self, name: str) -> tuple[str, ...]:
        """What an index of this name is called: by that name, or on each shard by that and a hash tag of its own."""
        await self.initialize()
        listed = [await node.execute_command("FT._LIST") for node in self.get_primaries()]
        names = {index.decode() for indexes in listed for index in indexes}
        return (name,) if name in names else tuple(sorted(index for index in names if index.startswith(name + "{")))

    async def on_primary_of(self, key: str, *command: Any) -> Any:
        """What the master of the key's slot says."""
        await self.initialize()
        node = self.get_node_from_key(key)
        return await node.execute_command(*command) if node else None


class SureCluster(redis.cluster.RedisCluster):
    """Patient too; and what it adds and stores is there only once a replica has it: a promotion costs nothing then."""

    def execute_command(self, *command: Any, **more: Any) -> Any:
        """Sends again what may have run already: commands have to be repeatable."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return super().execute_command(*command, **more)  # type: ignore[no-untyped-call]
            except CHANGING:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_S)

    _last_time_ms = 0

    def hset_surely(self, key: bytes, fields: Mapping[bytes, bytes]) -> None:
        self._write(key, [("HSET", key, *_flat(fields))])

    def xadd_surely(self, stream: str, entries: Sequence[Mapping[str, str]]) -> list[bytes]:
        """Add them under ids of the client's own, by which those that are there already are not added again."""
        time_ms = self._last_time_ms = max(self._last_time_ms + 1, time.time_ns() // 1_000_000)
        ids = [b"%d-%d" % (time_ms, number) for number in range(1, len(entries) + 1)]
        adds = [("XADD", stream, entry_id, *_flat(fields)) for entry_id, fields in zip(ids, entries, strict=True)]
        # A WAIT is about what its own connection wrote, and entries that were there already were not written by it.
        self._write(stream, [*adds, ("SET", f"{{{stream}}}:produced", ids[-1])])
        return ids

    def _write(self, key: str | bytes, commands: Sequence[Sequence[Any]]) -> None:
        """Send them to the key's master, again until it has run them all and a replica confirmed it."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._has_written(key, commands):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no replica confirmed it within {PATIENCE_S:g} s")
            time.sleep(PAUSE_S)
            with contextlib.suppress(*CHANGING):
                self.nodes_manager.initialize()

    def _has_written(self, key: str | bytes, commands: Sequence[Sequence[Any]]) -> bool:
        try:
            server: Any = self.get_redis_connection(self.get_node_from_key(key))  # type: ignore[no-untyped-call]
            with server.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                pipeline.execute_command("WAIT", 1, WAIT_MS)
                *replies, confirmed = pipeline.execute(raise_on_error=False)
        except CHANGING:
            return False
        errors = [reply for reply in replies if isinstance(reply, Exception) and IS_THERE not in str(reply)]
        for error in errors:
            if not isinstance(error, CHANGING):
                raise error
        return not errors and confirmed >= 1


def _flat(fields: Mapping[Any, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
