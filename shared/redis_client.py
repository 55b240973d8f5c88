"""One Redis, spoken to through a pool of asyncio connections: bytes in and out, raw replies, no retries of its own.

Replies come as the server sent them (no response callbacks): every reply is read in one place of ours, in bytes, since
an entry may hold a field twice and bytes that are no UTF-8.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from shared.settings import EntraSettings, RedisSettings

if sys.version_info >= (3, 11):
    from asyncio import timeout as within
else:  # redis-py brings this package on 3.10
    from async_timeout import timeout as within

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Argument]
Reply: TypeAlias = Any
"""What a command answered; from ``pipelined`` also the exception that it answered with."""

HEALTH_CHECK_INTERVAL_S = 45  # Azure closes a connection that was idle for ten minutes
TOKEN_SHARE_OF_TIMEOUT = 0.8


class RedisLink:
    """The way to one Redis. Connects at its first command; belongs to the event loop it was first used in."""

    def __init__(self, settings: RedisSettings, most_connections: int, timeout_s: float) -> None:
        """``timeout_s`` bounds each round trip, connecting included, in seconds."""
        self._timeout_s = timeout_s
        self._client = Redis(
            host=settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password,
            # One timer a round trip, below, not one a reply.
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            # One layer of retries only, and it is ours: a retried XCLAIM answers [] though the first claimed all.
            retry=Retry(NoBackoff(), 0),
            health_check_interval=HEALTH_CHECK_INTERVAL_S,
            max_connections=most_connections,
            client_name="stream-janitor",
            protocol=3,
            # Would be another command at connect, which a minimal ACL refuses.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **_tls(settings),
        )
        self._client.response_callbacks.clear()
        if settings.entra is not None:
            self._log_in_with_tokens(settings.entra, settings.tls)

    def _log_in_with_tokens(self, settings: EntraSettings, tls: bool) -> None:
        from shared.entra import connection_options, token_source

        # A share of the round trip's time: what a command waits for is then said to be the token, not Redis.
        options = connection_options(token_source(settings, TOKEN_SHARE_OF_TIMEOUT * self._timeout_s), tls)
        pool = self._client.connection_pool
        pool.connection_class = options.pop("connection_class")
        pool.connection_kwargs.update(options)

    async def call(self, *command: Argument) -> Reply:
        """One command's reply.

        Raises:
            redis.exceptions.ResponseError: the server's refusal; it did nothing.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: it may have run or not.
        """
        try:
            async with within(self._timeout_s):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except asyncio.TimeoutError:
            raise redis_errors.TimeoutError("no reply in time") from None

    async def pipelined(self, commands: Iterable[Command]) -> list[Reply]:
        """Send all commands in one write on one connection; each reply, or the error it was, in its place. No MULTI.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may have run or not.
        """
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with within(self._timeout_s):
                return await pipeline.execute(raise_on_error=False)
        except asyncio.TimeoutError:
            raise redis_errors.TimeoutError("no reply in time") from None

    async def reconnect(self) -> None:
        """Drop every connection: the next command goes out on a new one."""
        await self._client.connection_pool.disconnect()

    async def close(self) -> None:
        await self._client.aclose()


def _tls(settings: RedisSettings) -> dict[str, Any]:
    if not settings.tls:
        return {}
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": settings.tls_ca_file,
    }


def raise_first(replies: Sequence[Reply]) -> None:
    """Raise the first error among ``replies``, for a pipeline whose commands all have to work."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
