"""The way to a Redis Cluster: each command goes to the primary that serves its key's slot, and redirects are followed.

Our own rather than redis-py's ``RedisCluster``, which follows a redirect on another connection than the pipeline's, so that
nobody could tell which writes a WAIT confirmed, and which retries by itself. Here each server is a ``ServerLink``, so that
TLS, logins, timeouts and raw replies are those of a single server, and every write travels with a WAIT of its own.

Sources: the Redis Cluster specification (slots, MOVED, ASK and ASKING), CLUSTER SLOTS (Redis 3.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from shared.advice import note_that_others_answer
from shared.bulk import Replies, ReplyTooLarge
from shared.errors import RedisRefused
from shared.redis_client import Argument, Command, Reply, ServerLink, tokens_for
from shared.settings import RedisSettings

Address: TypeAlias = "tuple[str, int]"

MOST_REDIRECTS: Final = 5
OUT_OF_REACH: Final = (ConnectionError, TimeoutError)
_KEY_IS_SECOND: Final = frozenset(("XINFO", "XGROUP", "OBJECT", "MEMORY"))
_NO_KEY: Final = frozenset(
    (
        "TIME",
        "PING",
        "HELLO",
        "INFO",
        "ACL",
        "COMMAND",
        "CLUSTER",
        "CONFIG",
        "CLIENT",
        "SCRIPT",
        "PUBLISH",
        "WAIT",
        "FT._LIST",
    )
)


def key_of(command: Command) -> bytes | None:
    """The key whose slot says where ``command`` goes; None: any server will do."""
    name = str(command[0])
    if name in _NO_KEY:
        return None
    if name in ("EVALSHA", "EVAL"):
        key = command[3] if int(command[2]) > 0 else None
    else:
        at = 2 if name in _KEY_IS_SECOND else 1
        key = command[at] if len(command) > at else None
    return None if key is None else key if isinstance(key, bytes) else str(key).encode()


class Topology:
    """Which primary serves which slots, as one of the servers saw it."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]], replicas: Mapping[Address, int]) -> None:
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, address in ranges:
            self._owners[first : last + 1] = [address] * (last + 1 - first)
        self.replicas = replicas
        """Primary → how many replicas it has."""

    @property
    def primaries(self) -> tuple[Address, ...]:
        return tuple(self.replicas)

    @property
    def unserved(self) -> int:
        """How many slots no server serves."""
        return self._owners.count(None)

    def owner(self, slot: int) -> Address | None:
        return self._owners[slot]

    def tag_in(self, primary: Address) -> str:
        """The smallest number that, as a hash tag, lies in one of the primary's slots."""
        return next(str(number) for number in itertools.count() if self.owner(key_slot(b"%d" % number)) == primary)


@dataclass(frozen=True, slots=True)
class _Route:
    address: Address
    is_asking: bool = False
    """The slot is being moved there: the server takes the command only right behind ASKING."""


class ClusterLink:
    """The way to all servers of a cluster; those in REDIS_HOST are only the first that are asked for the others."""

    is_cluster = True
    is_clusters_node = False

    def __init__(self, settings: RedisSettings, most_connections: int, timeout_s: float) -> None:
        """``most_connections`` a server; ``timeout_s`` bounds each round trip, connecting included, in seconds."""
        self._settings = settings
        self._most_connections = most_connections
        self._timeout_s = timeout_s
        self.answers = 0
        self._tokens = None if settings.entra is None else tokens_for(settings.entra, timeout_s)
        self._seeds: tuple[Address, ...] = ((settings.host, settings.port), *settings.other_hosts)
        self._servers: dict[Address, ServerLink] = {}
        self._topology: Topology | None = None
        self._is_stale = True
        self._refreshing = asyncio.Lock()
        self._silent: set[Address] = set()
        """Servers that were out of reach when they were last spoken to."""
        self._has_replicas = False
        """Stays true once seen: in the midst of a failover a shard has none, and must not be trusted the more for it."""

    # --- what a RedisLink does --------------------------------------------------------------------------------------------

    async def call(self, *command: Argument) -> Reply:
        (reply,) = await self.pipelined([command])
        if key_of(command) is None and isinstance(reply, OUT_OF_REACH):
            # Any server will do, and each that is out of reach is known to be by now: try as many as there are.
            for _ in (await self.topology()).primaries:
                (reply,) = await self.pipelined([command])
                if not isinstance(reply, OUT_OF_REACH):
                    break
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def pipelined(self, commands: Iterable[Command]) -> Replies:
        return await self._sent(list(commands), 0)

    async def write_and_wait(self, commands: Iterable[Command], replicas: int | None) -> Replies:
        await self.topology()
        return await self._sent(list(commands), int(self._has_replicas) if replicas is None else replicas)

    @contextlib.asynccontextmanager
    async def turn_at(self, key: Argument, at_once: int) -> AsyncIterator[None]:
        (route,) = (await self._routes([("EXISTS", key)])).values()
        async with self._server(route.address).turn_at(key, at_once):
            yield

    async def load_script(self, text: str) -> None:
        servers = [self._server(address) for address in (await self.topology()).primaries]
        outcomes = await asyncio.gather(*(server.load_script(text) for server in servers), return_exceptions=True)
        for outcome in outcomes:
            # One that is out of reach answers for itself, when it is asked to run the script.
            if isinstance(outcome, BaseException) and not isinstance(outcome, OUT_OF_REACH):
                raise outcome

    async def reconnect(self) -> None:
        self._is_stale = True
        for server in list(self._servers.values()):
            await server.reconnect()

    async def close(self) -> None:
        for server in list(self._servers.values()):
            await server.close()

    # --- where things are -------------------------------------------------------------------------------------------------

    async def topology(self) -> Topology:
        """Who serves what; asked anew after a redirect or when a server was out of reach.

        Raises:
            RedisRefused: the server does not belong to a cluster.
            redis.exceptions.RedisError: no server could tell.
        """
        if self._is_stale or self._topology is None:
            async with self._refreshing:
                if self._is_stale or self._topology is None:
                    self._topology = await self._asked_for_topology()
                    self._has_replicas = self._has_replicas or any(self._topology.replicas.values())
                    self._is_stale = False
                    await self._forget_the_dead(self._topology)
        return self._topology

    async def _forget_the_dead(self, topology: Topology) -> None:
        """Servers that are gone for good must not pile up: those out of reach that serve nothing any more."""
        for address in self._silent - {*self._seeds, *topology.primaries}:
            self._silent.discard(address)
            server = self._servers.pop(address, None)
            if server is not None:
                await server.close()

    async def _asked_for_topology(self) -> Topology:
        known = list({*self._seeds, *self._servers, *(self._topology.primaries if self._topology else ())})
        # Any of them may be cut off from the others and know nothing new, so not always the same one first.
        random.shuffle(known)
        failure: RedisError | None = None
        for address in self.nearest(known):
            try:
                rows = await self._server(address).call("CLUSTER", "SLOTS")
            except RedisError as error:
                self._note(address, error)
                if "cluster support disabled" in str(error):
                    raise RedisRefused("REDIS_CLUSTER is true, but this Redis is no cluster: set it to false") from None
                failure = error
            else:
                self._silent.discard(address)
                self.answers += 1
                if rows:
                    return _topology_of(rows, address)
                failure = ClusterDownError("CLUSTERDOWN this server knows no other and serves no slot")
        assert failure is not None
        raise failure

    async def ask(self, address: Address, *command: Argument) -> Reply:
        """One server's reply, whatever slots it serves; errors as of ``call``."""
        try:
            return await self._server(address).call(*command)
        except RedisError as error:
            self._note(address, error)
            raise

    def nearest(self, addresses: Sequence[Address]) -> list[Address]:
        """``addresses``, those last that were out of reach."""
        return sorted(addresses, key=lambda one: one in self._silent)

    def _server(self, address: Address) -> ServerLink:
        if address not in self._servers:
            host, port = address
            # A cluster that tells addresses where the certificate has a name: it is verified by the name we were given.
            tls_name = self._settings.host if _is_ip_address(host) else host
            settings = replace(self._settings, host=host, port=port, tls_name=tls_name)
            self._servers[address] = ServerLink(settings, self._most_connections, self._timeout_s, self._tokens)
        return self._servers[address]

    def _note(self, address: Address, error: RedisError) -> None:
        # A reply that was too large shows that its server is within reach.
        if isinstance(error, OUT_OF_REACH) and not isinstance(error, ReplyTooLarge):
            self._silent.add(address)
            self._is_stale = True

    # --- sending ----------------------------------------------------------------------------------------------------------

    async def _sent(self, commands: Sequence[Command], replicas: int) -> Replies:
        replies = Replies([None] * len(commands))
        routes = await self._routes(commands)
        for _ in range(1 + MOST_REDIRECTS):
            groups: dict[_Route, list[int]] = defaultdict(list)
            for at, route in routes.items():
                groups[route].append(at)
            answers = await asyncio.gather(
                *(self._sent_to(route, [commands[at] for at in places], replicas) for route, places in groups.items()),
                return_exceptions=True,
            )
            routes = {}
            for (route, places), answer in zip(groups.items(), answers, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                replies.received_bytes += getattr(answer, "received_bytes", 0)
                for at, reply in zip(places, answer, strict=True):
                    replies[at] = reply
                    if isinstance(reply, AskError):
                        routes[at] = self._redirected(route, reply)
                    elif isinstance(reply, ClusterDownError):
                        self._is_stale = True
            if not routes:
                return replies
        for at in routes:
            replies[at] = TryAgainError("TRYAGAIN redirected too often")  # the servers do not agree yet
        return replies

    async def _routes(self, commands: Sequence[Command]) -> dict[int, _Route]:
        topology = await self.topology()
        keys = [key_of(command) for command in commands]
        first_key = next((key for key in keys if key is not None), None)
        somewhere = min(topology.primaries, key=lambda one: one in self._silent, default=self._seeds[0])
        routes = {}
        for at, key in enumerate(keys):
            key = first_key if key is None else key
            owner = None if key is None else topology.owner(key_slot(key))
            routes[at] = _Route(owner or somewhere)
        return routes

    async def _sent_to(self, route: _Route, commands: Sequence[Command], replicas: int) -> list[Reply]:
        if route.is_asking:
            commands = [part for command in commands for part in (("ASKING",), command)]
        replies: list[Reply]
        try:
            replies = await self._server(route.address).write_and_wait(commands, replicas)
        except OUT_OF_REACH as error:
            self._note(route.address, error)
            note_that_others_answer(error)
            replies = [error] * len(commands)
        else:
            self._silent.discard(route.address)
            self.answers += 1
        if not route.is_asking:
            return replies
        # Where ASKING itself was refused, the command behind it was only sent back.
        pairs = zip(replies[::2], replies[1::2], strict=True)
        return [asked if isinstance(asked, ResponseError) else reply for asked, reply in pairs]

    def _redirected(self, route: _Route, reply: AskError) -> _Route:
        is_asking = not isinstance(reply, MovedError)
        self._is_stale = self._is_stale or not is_asking
        # Without a host: the same as the server's that redirects.
        return _Route((reply.host or route.address[0], reply.port), is_asking)


def _topology_of(rows: Reply, asked: Address) -> Topology:
    """What CLUSTER SLOTS answered (``cluster-preferred-endpoint-type``: an address, a name, or nothing)."""
    ranges, replicas = [], {}
    for first, last, primary, *others in rows:
        address = _address(primary, asked)
        ranges.append((first, last, address))
        replicas[address] = len(others)
    return Topology(ranges, replicas)


def _address(node: Sequence[Reply], asked: Address) -> Address:
    """A server that is to be named but has no name is ``?``, with its address beside it; without any endpoint it is the
    host that was asked."""
    endpoint, port, _, *more = node
    if endpoint == b"?":
        beside = more[0] if more and isinstance(more[0], dict) else {}
        endpoint = beside.get(b"ip")
    return ((endpoint or b"").decode() or asked[0], port)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
