"""A stream for the tests of retention: entries of a wanted age, and groups that read as far as they are told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from demo.redis import RedisServer
from monitor.retained import Policy, Retained
from monitor.retention import Retention, Until
from shared.redis_client import RedisLink, ServerLink
from shared.retry import Deadline
from shared.settings import RedisSettings

HOUR_MS = 3600 * 1000
GROUP = "workers"
POLICY = Policy(HOUR_MS, own_groups=(GROUP,))
GENEROUS_S = 60.0
_numbers = itertools.count(1)


@dataclass
class Kept:
    """One stream of a test's own."""

    raw: redis.Redis
    stream: str = field(default_factory=lambda: f"retained-{next(_numbers)}")

    def run(self, *command: Any) -> Any:
        return self.raw.execute_command(*command)

    def now_ms(self) -> int:
        seconds, microseconds = self.run("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def add(self, count: int, age_ms: int = 24 * HOUR_MS, step_ms: int = 1, size: int = 10) -> list[bytes]:
        """Add entries, the first of them so old."""
        first = self.now_ms() - age_ms
        pipeline = self.raw.pipeline(transaction=False)
        for number in range(count):
            pipeline.execute_command("XADD", self.stream, f"{first + number * step_ms}-0", "f", b"x" * size)
        return list(pipeline.execute())

    def group(self, name: str = GROUP, at: str = "0") -> None:
        self.run("XGROUP", "CREATE", self.stream, name, at, "MKSTREAM")

    def read(self, name: str = GROUP, count: int = 10_000_000) -> list[bytes]:
        reply = self.run("XREADGROUP", "GROUP", name, "c", "COUNT", count, "STREAMS", self.stream, ">")
        rows = reply.values() if isinstance(reply, dict) else (row[1] for row in reply or [])
        return [entry[0] for entries in rows for entry in entries]

    def finish(self, name: str = GROUP, count: int = 10_000_000) -> list[bytes]:
        """Read and acknowledge."""
        ids = self.read(name, count)
        self.acknowledge(ids, name)
        return ids

    def acknowledge(self, ids: Sequence[bytes], name: str = GROUP) -> None:
        for at in range(0, len(ids), 1000):
            self.run("XACK", self.stream, name, *ids[at : at + 1000])

    def ids(self) -> list[bytes]:
        return [row[0] for row in self.run("XRANGE", self.stream, "-", "+")]

    def length(self) -> int:
        return int(self.run("XLEN", self.stream))


def link_to(server: RedisServer) -> ServerLink:
    return ServerLink(RedisSettings("127.0.0.1", server.port, None, None, False, None), 4, 30.0)


def until(link: RedisLink, seconds: float = GENEROUS_S) -> Until:
    return Until(link, Deadline.after(seconds))


async def retain(link: RedisLink, kept: Kept, policy: Policy = POLICY, dry_run: bool = False) -> Retained:
    return await Retention(link, kept.stream, policy, dry_run).run(until(link))
