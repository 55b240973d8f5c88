"""REDIS_CLUSTER=false on a cluster's node: refused before anything is settled if keys of the stream lie on other servers.

Asked once a process, and only of a server that said at the login that it belongs to a cluster, in forms that do no harm: the
server looks where a key lies before it looks at what is wrong with the rest. A single shard, or one hash tag for stream, hashes
and dead letters, goes on working.
"""

from __future__ import annotations

from typing import Final

from shared.errors import RedisRefused
from shared.redis_client import Command, RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings

PROBES: Final = 16
"""Hash keys to ask about: on three shards or more, so many never lie on one."""


async def refuse_keys_elsewhere(link: RedisLink, settings: StreamSettings) -> None:
    """Go on only if every key that the stream's action writes is served here.

    Raises:
        RedisRefused: this server redirects for one of the keys that the stream's action writes.
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
    """
    if not link.is_clusters_node:
        return
    replies = await link.pipelined(_harmless(settings))
    if any(isinstance(reply, Exception) and code_of(reply) in ("MOVED", "ASK") for reply in replies):
        raise RedisRefused(
            "this server belongs to a Redis Cluster, and keys that would be written lie on its other servers: set "
            "REDIS_CLUSTER=true (or give stream, HASH_PREFIX and DEAD_LETTER_STREAM one {hash tag})"
        )


def _harmless(settings: StreamSettings) -> list[Command]:
    commands: list[Command] = []
    if settings.action == "store":
        commands += [("HSET", f"{settings.hash_prefix}probe-{number}", "f", "v", "odd") for number in range(PROBES)]
    if settings.action == "requeue":
        commands.append(("XADD", settings.requeue_target, "not-an-id", "f", "v"))
    if settings.dead_letter_stream is not None:
        commands.append(("XADD", settings.dead_letter_stream, "not-an-id", "f", "v"))
    return commands
