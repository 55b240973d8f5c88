"""The real server that the tests run against, one for each worker, and entries that were left behind in it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from demo.cluster import RedisCluster
from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.outcomes import Outcome
from monitor.report import SweepReport
from shared.redis_client import Argument, Command, Reply, ServerLink
from shared.settings import RedisSettings, Settings

DAY_MS = 24 * 3600 * 1000
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_settings_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have production exported."""
    for name in list(os.environ):
        if name.startswith(("REDIS_", "STREAM", "MONITOR", "OTEL_", "APPLICATIONINSIGHTS")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="session")
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """A client for the tests' own look at the server: bytes, raw replies."""
    client = redis.Redis(port=server.port, protocol=3)
    client.response_callbacks.clear()
    yield client
    client.close()


@pytest.fixture(scope="session")
def _running_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_running_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """Three masters with a replica each, one cluster for each worker, whole and empty again after each test.

    Who is a master and which slots it serves is as the test before left it.
    """
    yield _running_cluster
    for node in _running_cluster.nodes:
        if not node.running:
            _running_cluster.revive(node)
    _running_cluster.wait_until_ok()
    for master in _running_cluster.masters():
        for index in master.call("FT._LIST"):
            master.call("FT.DROPINDEX", index)
        master.call("FLUSHALL")


@pytest.fixture(params=["script", "gather"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both ways to settle: what holds for one has to hold for the other."""
    return str(request.param)


@dataclass
class Scene:
    """A stream, a group, a prefix and an index of their own, under names that no other test has."""

    raw: redis.Redis
    environment: dict[str, str]
    stream: str
    group: str = "redisearch_app_group"
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(int(time.time() * 1000) - DAY_MS))

    @property
    def prefix(self) -> str:
        return self.environment["HASH_PREFIX"]

    @property
    def index(self) -> str:
        return self.environment["INDEX_NAME"]

    def settings(self, **changes: str) -> Settings:
        return Settings.from_env({**self.environment, **changes})

    def add(self, *fields: bytes | str | int, entry_id: str | None = None) -> bytes:
        """Add one entry, a day old unless its id says otherwise; names and values in turn."""
        entry_id = entry_id or f"{next(self._ids)}-0"
        reply: bytes = self.raw.execute_command("XADD", self.stream, entry_id, *fields)
        return reply

    def add_tweets(self, count: int, first: int = 0) -> list[bytes]:
        pipeline = self.raw.pipeline(transaction=False)
        for number in range(first, first + count):
            tweet = (
                "id",
                number,
                "user",
                f"user{number}",
                "text",
                f"hello {number}",
                "location",
                "India",
                "hashtags",
                "a,b",
            )
            pipeline.execute_command("XADD", self.stream, f"{next(self._ids)}-0", *tweet)
        ids: list[bytes] = pipeline.execute()
        return ids

    def deliver(self, consumer: str = "crashed", count: int = 100_000) -> list[bytes]:
        """Let ``consumer`` read what is new; the ids it got."""
        reply = self.raw.execute_command(
            "XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, "STREAMS", self.stream, ">"
        )
        return [entry[0] for entry in next(iter(reply.values()))] if reply else []

    def age(self, ids: Sequence[bytes], idle_ms: int = 60_000, consumer: str = "crashed", deliveries: int = 1) -> None:
        """Make delivered entries look idle, without sleeping."""
        for at in range(0, len(ids), 500):
            self.raw.execute_command(
                "XCLAIM", self.stream, self.group, consumer, 0, *ids[at : at + 500],
                "IDLE", idle_ms, "RETRYCOUNT", deliveries, "JUSTID",
            )  # fmt: skip

    def abandon(self, idle_ms: int = 60_000, consumer: str = "crashed") -> list[bytes]:
        """Deliver what is new to a consumer that never comes back."""
        ids = self.deliver(consumer)
        self.age(ids, idle_ms, consumer)
        return ids

    def pending(self) -> int:
        return int(self.raw.execute_command("XPENDING", self.stream, self.group)[0])

    def pending_rows(self) -> list[list[bytes | int]]:
        rows: list[list[bytes | int]] = self.raw.execute_command("XPENDING", self.stream, self.group, "-", "+", 100_000)
        return rows

    def hash(self, tweet_id: bytes | str | int) -> dict[bytes, bytes]:
        suffix = tweet_id if isinstance(tweet_id, bytes) else str(tweet_id).encode()
        reply = self.raw.execute_command("HGETALL", self.prefix.encode() + suffix)
        return dict(reply)

    def hashes(self) -> list[bytes]:
        return list(self.raw.execute_command("KEYS", self.prefix + "*"))

    def dead_letters(self) -> list[list[object]]:
        letters: list[list[object]] = self.raw.execute_command("XRANGE", f"{self.stream}:dead", "-", "+")
        return letters

    def keys(self) -> set[bytes]:
        """Every key that belongs to this scene."""
        return {key for key in self.raw.execute_command("KEYS", "*") if self.stream.encode() in key}

    def clean_up(self) -> None:
        self.raw.execute_command("FT.DROPINDEX", self.index)
        for key in self.keys():
            self.raw.execute_command("DEL", key)


def new_scene(raw: redis.Redis, server_environment: Mapping[str, str], **changes: str) -> Scene:
    stream = f"s{os.getpid()}-{next(_numbers)}"
    environment = {
        **server_environment,
        "STREAM_NAME": stream,
        "STREAM_CONSUMER_GROUP_NAME": "redisearch_app_group",
        "MONITORING_CONSUMER_NAME": "janitor",
        "MIN_IDLE_TIME_SEC": "10",
        "HASH_PREFIX": f"{stream}:tweet:",
        "INDEX_NAME": f"{stream}:index",
        **changes,
    }
    raw.execute_command("XGROUP", "CREATE", stream, "redisearch_app_group", "0", "MKSTREAM")
    return Scene(raw, environment, stream)


@pytest.fixture
def scene(raw: redis.Redis, server: RedisServer) -> Iterator[Scene]:
    """A scene on the worker's server. Fails the test if it leaves a key that is not the scene's own."""
    before = set(raw.execute_command("KEYS", "*"))
    scene = new_scene(raw, server.environment)
    yield scene
    leaked = set(raw.execute_command("KEYS", "*")) - before - scene.keys()
    try:
        scene.clean_up()
    except redis.ResponseError:  # the test made no index, or dropped it
        for key in sorted(scene.keys()):
            raw.execute_command("DEL", key)
    assert not leaked, f"the test left keys behind: {leaked}"


class Sweeper:
    """Runs ticks of janitors and closes them at the end."""

    def __init__(self) -> None:
        self._janitors: list[Janitor] = []

    def janitor(self, settings: Settings) -> Janitor:
        janitor = Janitor(settings)
        self._janitors.append(janitor)
        return janitor

    async def __call__(self, settings: Settings) -> SweepReport:
        """One sweep by a janitor that was just started."""
        (report,) = await self.janitor(settings).tick()
        assert report.candidates == sum_of_outcomes(report), report
        return report

    async def close(self) -> None:
        for janitor in self._janitors:
            await janitor.close()


def sum_of_outcomes(report: SweepReport) -> int:
    return sum(int(getattr(report, outcome.value)) for outcome in Outcome)


@pytest.fixture
async def sweep() -> AsyncIterator[Sweeper]:
    sweeper = Sweeper()
    yield sweeper
    await sweeper.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server without search for one test alone, which may spoil it: full memory, read-only, other users."""
    with RedisServer(search=False) as running:
        yield running


@pytest.fixture
def own_scene(own_server: RedisServer) -> Iterator[Scene]:
    """A scene on the test's own server; it wants no index."""
    client = raw_client(own_server)
    yield new_scene(client, own_server.environment, INDEX_SCHEMA="off")
    client.close()


def raw_client(server: RedisServer, **arguments: Any) -> redis.Redis:
    """Bytes and raw replies, like ``raw``; for another server or user."""
    client = redis.Redis(port=server.port, protocol=3, **arguments)
    client.response_callbacks.clear()
    return client


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[ServerLink]:
    """The janitor's own way to the worker's server, for tests that drive one room of it."""
    link = ServerLink(_redis_settings(server), 4, 5.0)
    yield link
    await link.close()


def _redis_settings(server: RedisServer) -> RedisSettings:
    host, _, port = server.environment["REDIS_HOST"].partition(":")
    return RedisSettings(host, int(port), None, None, False, None)


class Wire:
    """What a link sends, seen and, where a test wants it, delayed: ``before`` runs ahead of each command of a kind."""

    def __init__(self, link: ServerLink) -> None:
        self.round_trips = 0
        self.commands: list[Command] = []
        self.before: Callable[[Command], Awaitable[None] | None] = lambda command: None
        self.after: Callable[[Command, Reply], Awaitable[None] | None] = lambda command, reply: None
        self._call, self._pipelined = link.call, link.pipelined
        link.call, link.pipelined = self.call, self.pipelined  # type: ignore[method-assign]

    async def call(self, *command: Argument) -> Reply:
        await self._see(self.before, command)
        self.round_trips += 1
        self.commands.append(command)
        reply = await self._call(*command)
        await self._see(self.after, command, reply)
        return reply

    async def pipelined(self, commands: Iterable[Command]) -> list[Reply]:
        commands = list(commands)
        for command in commands:
            await self._see(self.before, command)
        self.round_trips += 1
        self.commands += commands
        replies = await self._pipelined(commands)
        for command, reply in zip(commands, replies, strict=True):
            await self._see(self.after, command, reply)
        return replies

    async def _see(self, look: Callable[..., Awaitable[None] | None], *seen: Reply) -> None:
        waiting = look(*seen)
        if waiting is not None:
            await waiting

    def sent(self, name: str) -> list[Command]:
        return [command for command in self.commands if command[0] == name]


def wire(janitor: Janitor) -> Wire:
    """See what ``janitor`` sends from now on."""
    return Wire(janitor._link)
