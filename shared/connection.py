"""One connection to Redis, as redis-py makes it, with three things of ours: batches, HELLO that may be refused, and the role.

redis-py resolves the name, speaks TLS, logs in, sets the client's name and pings where a connection was idle. Whatever goes
wrong on a connection drops it: nobody after us may meet what is left of our replies.

Sources: HELLO (Redis 6.0), RESP2 and RESP3, the ACL rules for connecting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError

from shared.bulk import MOST_REPLY_BYTES, READ_BYTES, BulkParser, ConnectionLost, Replies, ReplyMalformed
from shared.errors import JanitorError
from shared.retry import code_of

if TYPE_CHECKING:
    _ConnectionBase = Connection
else:
    _ConnectionBase = object

_REPLICA: Final = (b"replica", b"slave")
_HELLO_REFUSED: Final = frozenset(("NOCOMMAND", "NOPROTO", "NOPERM"))


class IsReplica(ReadOnlyError):
    """The server said at login that it is a replica. Nothing but the login was sent to it."""

    is_told_at_login = True

    def __init__(self) -> None:
        super().__init__("this server is a replica", status_code="READONLY")


@dataclass(slots=True)
class ServerFacts:
    """What the connections to one server have found out, and each new one goes by."""

    protocol: int = 3
    """2 once the server refused HELLO: no connection asks again."""
    role: str | None = None
    """As HELLO last told it; None: not told."""
    mode: str | None = None
    """``standalone``, ``cluster``, ``sentinel``, as HELLO told it; None: not told."""
    refuses_replicas: bool = True
    answered: bool = False
    """Whether a connection was ever made."""


class BulkConnection(_ConnectionBase):
    """A connection on which batches are exchanged."""

    def __init__(self, *, facts: ServerFacts, most_reply_bytes: int = MOST_REPLY_BYTES, **options: Any) -> None:
        super().__init__(**{**options, "parser_class": BulkParser, "protocol": facts.protocol})
        self._facts = facts
        self._bulk = cast("BulkParser", self._parser)
        self._bulk.most_bytes = most_reply_bytes

    @property
    def is_ready(self) -> bool:
        """Whether a batch can be sent on it as it is."""
        return self.is_connected and self._bulk.is_quiet

    @property
    def received_bytes(self) -> int:
        """Of replies to the batch that is under way, or was the last."""
        return self._bulk.received_bytes

    async def exchange(self, commands: bytes, count: int) -> Replies:
        """Send packed commands in one write, and read their ``count`` replies. Drops the connection on any error.

        Raises:
            redis.exceptions.ConnectionError: what was sent may have run or not.
        """
        try:
            await self.send_packed_command(commands)
            replies = await self._bulk.read_batch(count)
        except OSError as error:
            await self.drop()
            raise ConnectionLost(f"the connection was lost ({type(error).__name__})") from error
        except BaseException:
            await self.drop()
            raise
        self.next_health_check = asyncio.get_running_loop().time() + self.health_check_interval
        return replies

    async def drop(self) -> None:
        """End the connection at once. Waits for nothing, so that no cancellation can come in between."""
        writer = self._writer
        await self.disconnect(nowait=True)
        if writer is not None:
            writer.transport.abort()  # closing would first send what is still to be sent, to a server that may be silent

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "limit": READ_BYTES}

    # --- login ------------------------------------------------------------------------------------------------------------

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, by HELLO if the server knows it. No PING goes ahead of that: the login shows that the server is well.

        Raises:
            IsReplica: the server is a replica, and replicas are refused.
        """
        try:
            await self._log_in()
            self._look_at_role()
        except (RedisError, JanitorError, OSError):
            await self.drop()
            raise
        except Exception as error:  # noqa: BLE001
            await self.drop()  # redis-py would use it as it is
            raise ReplyMalformed(f"the reply to the login cannot be read ({type(error).__name__})") from None
        except BaseException:
            await self.drop()
            raise
        self._facts.answered = True

    async def _log_in(self) -> None:
        self.protocol = self._facts.protocol
        if self.protocol == 3:
            if await self._said_hello():
                return
            self._facts.protocol = self.protocol = 2
        await self._log_in_without_hello()

    async def _said_hello(self) -> bool:
        """False: this server knows no HELLO, or does not let us; nothing was done yet."""
        try:
            await super().on_connect_check_health(check_health=False)
        except (ResponseError, AuthenticationError) as error:
            if self._bulk.first_reply is not error or not self._refuses_hello(error):
                raise
            # Its text quotes the command, and so the password: nothing that is raised from here on has it as its context.
        else:
            return True
        return False

    def _refuses_hello(self, error: RedisError) -> bool:
        """Whether ``error``, the reply to HELLO, is about HELLO and not about the login, which must not be tried twice."""
        if isinstance(error, ResponseError):
            # A plain ERR: proxies have words of their own. A wrong login and protected mode have codes of theirs.
            return code_of(error) in _HELLO_REFUSED or error.status_code == "ERR"
        # Redis says WRONGPASS to a login; NOAUTH says a proxy that has not seen one in it (Envoy).
        return error.status_code == "NOAUTH" and bool(self.credential_provider or self.username or self.password)

    async def _log_in_without_hello(self) -> None:
        """AUTH, where there is a login. A proxy that has no HELLO may well have no CLIENT: its name is not worth an error."""
        name, self.client_name = self.client_name, None
        try:
            await super().on_connect_check_health(check_health=False)
        finally:
            self.client_name = name
        if name:
            await self.send_command("CLIENT", "SETNAME", name, check_health=False)
            with suppress(ResponseError):
                await self.read_response()

    def _look_at_role(self) -> None:
        reply = self._bulk.first_reply if self.protocol == 3 else None
        if isinstance(reply, list):
            reply = dict(zip(reply[::2], reply[1::2], strict=False))
        role = reply.get(b"role") if isinstance(reply, dict) else None
        self._facts.role = role.decode("ascii", "replace") if isinstance(role, bytes) else None
        mode = reply.get(b"mode") if isinstance(reply, dict) else None
        self._facts.mode = mode.decode("ascii", "replace") if isinstance(mode, bytes) else None
        if self._facts.refuses_replicas and role in _REPLICA:
            raise IsReplica


class PlainConnection(BulkConnection, Connection):
    """Over TCP."""


class TlsConnection(BulkConnection, SSLConnection):
    """Over TLS. Verifies the certificate against ``tls_name``: a cluster may name its servers by addresses that are in none."""

    def __init__(self, *, tls_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._tls_name = tls_name

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self._tls_name}
