"""What a method is pointed at: a server or a cluster, the streams in it, and how much is pending in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis, RedisCluster

from bench import tweets
from bench.prepared import GROUP, MIN_IDLE_S, PREFIX, STREAM, PreparedFiles, Seed

INDEX = "tweets-index"
SCHEMA = "id TEXT user TEXT text TEXT location TEXT hashtags TAG SEPARATOR ,"


@dataclass(frozen=True, slots=True)
class Part:
    """One stream: which server has it, the numbers of its tweets, where their hashes go."""

    port: int
    first: int
    entries: int
    stream: str = STREAM.decode()
    prefix: str = PREFIX.decode()

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.entries)


@dataclass(frozen=True, slots=True)
class Target:
    """``port``: the server, or one of a cluster's. ``parts``: none means one stream with everything in it."""

    port: int
    entries: int
    indexed: bool
    limit_file: str | None = None
    parts: tuple[Part, ...] = ()
    cluster_ports: tuple[int, ...] = ()
    """Of all of a cluster's servers, replicas too; none: there is one server and no cluster."""
    bystander_port: int | None = None
    """The server that the bystander asks; None: the only one."""

    @property
    def ports(self) -> tuple[int, ...]:
        return self.cluster_ports or (self.port,)

    @property
    def streams(self) -> tuple[Part, ...]:
        return self.parts or (Part(self.port, 0, self.entries),)

    @property
    def settings(self) -> dict[str, str]:
        """The function app's settings; all that has a default keeps it."""
        settings = {
            "REDIS_HOST": f"127.0.0.1:{self.port}",
            "REDIS_TLS": "false",
            "STREAM_CONSUMER_GROUP_NAME": GROUP.decode(),
            "MONITORING_CONSUMER_NAME": "janitor",
            "MIN_IDLE_TIME_SEC": str(MIN_IDLE_S),
            **self._streams_setting,
        }
        if self.cluster_ports:
            settings["REDIS_CLUSTER"] = "true"
        return settings if self.indexed else settings | {"INDEX_SCHEMA": "off"}

    @property
    def _streams_setting(self) -> dict[str, str]:
        if not self.parts:
            return {"STREAM_NAME": STREAM.decode()}
        return {"STREAMS": json.dumps([{"name": part.stream, "prefix": part.prefix} for part in self.parts])}

    def client(self) -> Redis:
        return self.client_of(self.port)

    def client_of(self, port: int) -> Redis:
        return Redis(port=port, socket_timeout=60)

    def reader(self) -> Any:
        """Reads any key, wherever it lies."""
        return RedisCluster(host="127.0.0.1", port=self.port) if self.cluster_ports else self.client()

    def create_groups_and_index(self) -> None:
        for part in self.streams:
            with self.client_of(part.port) as client:
                client.xgroup_create(part.stream, GROUP, "0", mkstream=True)
        if self.indexed:
            words = ["ON", "HASH", "PREFIX", "1", PREFIX.decode(), "SCHEMA", *SCHEMA.split()]
            with self.client() as client:
                client.execute_command("FT.CREATE", INDEX, *words)

    def seed(self, files: PreparedFiles) -> None:
        for part in self.streams:
            files.seed(part.port, Seed.ABANDONED, part.entries, part.first, part.stream.encode())

    def pending(self) -> int:
        return sum(self.pending_of(part) for part in self.streams)

    def pending_of(self, part: Part) -> int:
        with self.client_of(part.port) as client:
            return int(client.xpending(part.stream, GROUP)["pending"])

    def keys(self) -> Iterator[tuple[int, str]]:
        """Each tweet's number and the key of its hash."""
        for part in self.streams:
            for number in part.numbers:
                yield number, part.prefix + tweets.tweet_id(number).decode()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Target:
        values = json.loads(text)
        values["parts"] = tuple(Part(**part) for part in values["parts"])
        values["cluster_ports"] = tuple(values["cluster_ports"])
        return cls(**values)
