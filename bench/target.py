"""What a method is pointed at: one server with one group, and how much is pending in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from redis import Redis

from bench.prepared import GROUP, MIN_IDLE_S, PREFIX, STREAM

INDEX = "tweets-index"
SCHEMA = "id TEXT user TEXT text TEXT location TEXT hashtags TAG SEPARATOR ,"


@dataclass(frozen=True, slots=True)
class Target:
    port: int
    entries: int
    indexed: bool
    limit_file: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The function app's settings; all that has a default keeps it."""
        settings = {
            "REDIS_HOST": f"127.0.0.1:{self.port}",
            "REDIS_TLS": "false",
            "STREAM_NAME": STREAM.decode(),
            "STREAM_CONSUMER_GROUP_NAME": GROUP.decode(),
            "MONITORING_CONSUMER_NAME": "janitor",
            "MIN_IDLE_TIME_SEC": str(MIN_IDLE_S),
        }
        return settings if self.indexed else settings | {"INDEX_SCHEMA": "off"}

    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=60)

    def create_group_and_index(self) -> None:
        with self.client() as client:
            client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
            if self.indexed:
                words = ["ON", "HASH", "PREFIX", "1", PREFIX.decode(), "SCHEMA", *SCHEMA.split()]
                client.execute_command("FT.CREATE", INDEX, *words)

    def pending(self) -> int:
        with self.client() as client:
            return int(client.xpending(STREAM, GROUP)["pending"])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Target:
        return cls(**json.loads(text))
