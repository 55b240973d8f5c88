"""The way to Redis, one server or a cluster of them: bytes in and out, raw replies, no retries of its own.

Replies come as the server sent them (no response callbacks): every reply is read in one place of ours, in bytes, since
an entry may hold a field twice and bytes that are no UTF-8.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from shared.settings import EntraSettings, RedisSettings

if TYPE_CHECKING:
    from shared.entra import TokenSource

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
WAIT_TIMEOUT_MS: Final = 1000
WAIT_AGAIN_MS: Final = 20
"""Where the last confirmation did not come: a replica that is gone must not cost every batch a second."""


class TooFewReplicas(Exception):
    """The reply of a write that worked, but that fewer replicas confirmed than were asked for."""


class RedisLink(Protocol):
    """The way to Redis. Connects at its first command; belongs to the event loop it was first used in."""

    is_cluster: bool
    """Whether commands go to several servers, one of which may be in trouble while the others are well."""

    async def call(self, *command: Argument) -> Reply:
        """One command's reply.

        Raises:
            redis.exceptions.ResponseError: the server's refusal; it did nothing.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: it may have run or not.
        """

    async def pipelined(self, commands: Iterable[Command]) -> list[Reply]:
        """Send all commands in one write a server; each reply, or the error it was, in its place. No MULTI.

        A command without a key goes where the first one with a key goes. In a cluster, a server that is out of reach is
        the reply of its own commands.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may have run or not.
        """

    async def written(self, commands: Iterable[Command], replicas: int | None) -> list[Reply]:
        """Like ``pipelined``; a write that fewer than ``replicas`` replicas of its server confirmed is a ``TooFewReplicas``.

        ``replicas`` None: 1 in a cluster that has replicas, else 0. WAIT counts what was written on its own connection
        (Redis 3.0), so it ends the same write.

        Raises:
            redis.exceptions.ResponseError: WAIT was refused; the commands may have run.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may have run or not.
        """

    def turn_at(self, key: Argument, at_once: int) -> AbstractAsyncContextManager[object]:
        """A turn to keep the server busy that has ``key``, in order; ``at_once`` of those who ask for as many have one.

        A server has one thread: whatever more is under way only lengthens the time in which it serves nobody else.
        """

    async def load_script(self, text: str) -> None:
        """SCRIPT LOAD, on every server that may be asked to run it."""

    async def reconnect(self) -> None:
        """Drop every connection: the next command goes out on a new one."""

    async def close(self) -> None: ...


class ServerLink:
    """The way to one server."""

    is_cluster = False

    def __init__(
        self, settings: RedisSettings, most_connections: int, timeout_s: float, tokens: TokenSource | None = None
    ) -> None:
        """``timeout_s`` bounds each round trip, connecting included, in seconds; ``tokens``: those of other links too."""
        self._timeout_s = timeout_s
        self._was_confirmed = True
        self._turns: dict[int, asyncio.Semaphore] = {}
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
        if settings.tls:
            self._connect_by(connection_class=TlsConnection, tls_name=settings.tls_name or settings.host)
        if settings.entra is not None:
            from shared.entra import connection_options

            self._connect_by(**connection_options(tokens or tokens_for(settings.entra, timeout_s), settings.tls))

    def _connect_by(self, connection_class: type[Any], **options: object) -> None:
        pool = self._client.connection_pool
        pool.connection_class = connection_class
        pool.connection_kwargs.update(options)

    async def call(self, *command: Argument) -> Reply:
        try:
            async with within(self._timeout_s):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except asyncio.TimeoutError:
            raise redis_errors.TimeoutError("no reply in time") from None

    async def pipelined(self, commands: Iterable[Command]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with within(self._timeout_s):
                return await pipeline.execute(raise_on_error=False)
        except asyncio.TimeoutError:
            raise redis_errors.TimeoutError("no reply in time") from None

    async def written(self, commands: Iterable[Command], replicas: int | None) -> list[Reply]:
        if not replicas:
            return await self.pipelined(commands)
        wait_ms = WAIT_TIMEOUT_MS if self._was_confirmed else WAIT_AGAIN_MS
        *replies, confirmed = await self.pipelined([*commands, ("WAIT", replicas, wait_ms)])
        if isinstance(confirmed, Exception):
            raise confirmed
        self._was_confirmed = confirmed >= replicas
        if self._was_confirmed:
            return replies
        return [reply if isinstance(reply, Exception) else TooFewReplicas() for reply in replies]

    def turn_at(self, key: Argument, at_once: int) -> AbstractAsyncContextManager[object]:
        return self._turns.setdefault(at_once, asyncio.Semaphore(at_once))

    async def load_script(self, text: str) -> None:
        await self.call("SCRIPT", "LOAD", text)

    async def reconnect(self) -> None:
        await self._client.connection_pool.disconnect()

    async def close(self) -> None:
        await self._client.aclose()


def tokens_for(settings: EntraSettings, timeout_s: float) -> TokenSource:
    from shared.entra import token_source

    # A share of the round trip's time: what a command waits for is then said to be the token, not Redis.
    return token_source(settings, TOKEN_SHARE_OF_TIMEOUT * timeout_s)


def open_link(settings: RedisSettings, most_connections: int, timeout_s: float) -> RedisLink:
    """The way to what ``settings`` name: one server, or the cluster that it belongs to. Connects to nothing yet."""
    if not settings.cluster:
        return ServerLink(settings, most_connections, timeout_s)
    from shared.cluster import ClusterLink  # only then: a cold start pays for imports

    return ClusterLink(settings, most_connections, timeout_s)


class TlsConnection(SSLConnection):
    """Verifies the certificate against ``tls_name``: a cluster may name its servers by addresses that are in none."""

    def __init__(self, *, tls_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._tls_name = tls_name

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self._tls_name}


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
