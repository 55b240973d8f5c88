"""The way to Redis, one server or a cluster of them: bytes in and out, raw replies, no retries of its own.

Replies come as the server sent them (no response callbacks): every reply is read in one place of ours, in bytes, since
an entry may hold a field twice and bytes that are no UTF-8.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from shared.advice import Circumstances, note
from shared.bulk import MOST_REPLY_BYTES, ConnectionLost, Replies, ReplyLate, packed
from shared.connection import PlainConnection, ServerFacts, TlsConnection
from shared.settings import EntraSettings, RedisSettings

if TYPE_CHECKING:
    from shared.connection import BulkConnection
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

    @property
    def is_clusters_node(self) -> bool:
        """Whether they go to one server, which said at the login that it belongs to a cluster."""

    answers: int
    """How many batches were answered so far, whatever with."""

    async def call(self, *command: Argument) -> Reply:
        """One command's reply.

        Raises:
            redis.exceptions.ResponseError: the server's refusal; it did nothing.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: it may have run or not.
        """

    async def pipelined(self, commands: Iterable[Command]) -> Replies:
        """Send all commands in one write a server; each reply, or the error it was, in its place. No MULTI.

        A command without a key goes where the first one with a key goes. In a cluster, a server that is out of reach is
        the reply of its own commands.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may have run or not; of these
            ``ConnectionLost`` (``ReplyTooLarge`` among them) and ``ReplyLate`` say how many bytes of replies had come.
        """

    async def write_and_wait(self, commands: Iterable[Command], replicas: int | None) -> Replies:
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
        self,
        settings: RedisSettings,
        most_connections: int,
        timeout_s: float,
        tokens: TokenSource | None = None,
        most_reply_bytes: int = MOST_REPLY_BYTES,
    ) -> None:
        """``timeout_s`` bounds each round trip, connecting included, in seconds; ``tokens``: those of other links too;
        ``most_reply_bytes``: a batch whose replies are larger is a ``ReplyTooLarge``."""
        self._settings = settings
        self._timeout_s = timeout_s
        self.answers = 0
        self._was_confirmed = True
        self._turns: dict[int, asyncio.Semaphore] = {}
        # In a cluster a replica may be asked for the others, and redirects every command with a key.
        self.facts = ServerFacts(refuses_replicas=not settings.cluster)
        self._idle: list[BulkConnection] = []
        """Those at the end are connected and were used last. All of them are in the pool's care, as connections in use."""
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
        ours: dict[str, Any] = {"facts": self.facts, "most_reply_bytes": most_reply_bytes}
        if settings.tls:
            self._connect_by(connection_class=TlsConnection, tls_name=settings.tls_name or settings.host, **ours)
        else:
            self._connect_by(connection_class=PlainConnection, **ours)
        if settings.entra is not None:
            from shared.entra import connection_options

            self._connect_by(**connection_options(tokens or tokens_for(settings.entra, timeout_s), settings.tls))

    def _connect_by(self, connection_class: type[Any], **options: object) -> None:
        pool = self._client.connection_pool
        pool.connection_class = connection_class
        pool.connection_kwargs.update(options)

    @property
    def address(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    @property
    def is_clusters_node(self) -> bool:
        return self.facts.mode == "cluster"

    async def call(self, *command: Argument) -> Reply:
        (reply,) = await self._exchanged(*packed((command,)))
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def pipelined(self, commands: Iterable[Command]) -> Replies:
        message, count = packed(commands)
        return await self._exchanged(message, count) if count else Replies()

    async def _exchanged(self, message: bytes, count: int) -> Replies:
        connection: BulkConnection | None = None
        try:
            async with within(self._timeout_s):
                connection = self._take()
                if not connection.is_ready:
                    await self._make_ready(connection)
                replies = await connection.exchange(message, count)
        except asyncio.TimeoutError:
            late = ReplyLate("no reply in time")
            raise self._located(late, connection) from None
        except RedisError as error:
            raise self._located(error, connection)  # noqa: B904
        finally:
            if connection is not None:
                self._put_back(connection)
        self.answers += 1
        return replies

    def _take(self) -> BulkConnection:
        """A connection of nobody else's, connected if there is such a one.

        Raises:
            redis.exceptions.MaxConnectionsError: ``most_connections`` are in use.
        """
        if self._idle:
            return self._idle.pop()
        connection: BulkConnection = self._client.connection_pool.get_available_connection()  # type: ignore[no-untyped-call]
        return connection

    def _put_back(self, connection: BulkConnection) -> None:
        self._idle.insert(len(self._idle) if connection.is_connected else 0, connection)

    async def _make_ready(self, connection: BulkConnection) -> None:
        if connection.is_connected:  # the server closed it while it lay idle, or sent what nobody asked for
            await connection.drop()
        if self.facts.answered:
            await connection.connect()  # type: ignore[no-untyped-call]
            return
        from shared.reach import connect_first

        settings = self._settings
        await connect_first(connection.connect, settings.host, settings.port, settings.tls, self._timeout_s)

    def _located(self, error: RedisError, connection: BulkConnection | None) -> RedisError:
        """``error`` with what is known here: which server, how far it got, what is odd about the login."""
        if isinstance(error, (ConnectionLost, ReplyLate)) and connection is not None:
            error.received_bytes = connection.received_bytes
        password = self._settings.password or ""
        note(error, Circumstances(self.address, password.endswith(("\n", "\r"))))
        return error

    async def write_and_wait(self, commands: Iterable[Command], replicas: int | None) -> Replies:
        if not replicas:
            return await self.pipelined(commands)
        wait_ms = WAIT_TIMEOUT_MS if self._was_confirmed else WAIT_AGAIN_MS
        replies = await self.pipelined([*commands, ("WAIT", replicas, wait_ms)])
        confirmed = replies.pop()
        if isinstance(confirmed, Exception):
            raise confirmed
        self._was_confirmed = confirmed >= replicas
        if not self._was_confirmed:
            replies[:] = [reply if isinstance(reply, Exception) else TooFewReplicas() for reply in replies]
        return replies

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


def mapping_of(reply: Reply) -> dict[bytes, Any]:
    """A map as RESP3 sends it, or the flat list that RESP2 and old modules send."""
    if isinstance(reply, dict):
        return reply
    return {reply[i]: reply[i + 1] for i in range(0, len(reply) - 1, 2) if isinstance(reply[i], bytes)}


def raise_first(replies: Sequence[Reply]) -> None:
    """Raise the first error among ``replies``, for a pipeline whose commands all have to work."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
