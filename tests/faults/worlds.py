"""What a sweep finds: a stream of its own with entries of every kind, delivered, left behind and aged, all of it known."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from monitor.report import SweepReport
from shared.settings import Settings

DAY_MS = 24 * 3600 * 1000
MIN_IDLE_MS = 60_000
OLD_MS, YOUNG_MS = 600_000, 1_000
"""Far apart: whatever a case takes, nothing young grows old meanwhile."""
ENTRY_ID_FIELD = b"stream_entry_id"
GROUP, CRASHED, JANITOR = "redisearch_app_group", b"crashed", b"janitor"

_numbers = itertools.count(1)


class Kind(str, Enum):
    """What is special about an entry, and so what has to become of it."""

    HEALTHY = "healthy"
    YOUNG = "young"
    NO_ID = "no id"
    EMPTY_ID = "empty id"
    LONG_ID = "long id"
    WRONG_TYPE = "wrong type at the key"
    RESERVED = "the guard's own field"
    GONE = "deleted while pending"

    @property
    def is_at_fault(self) -> bool:
        """Belongs in the dead-letter stream."""
        return self in (Kind.NO_ID, Kind.EMPTY_ID, Kind.LONG_ID, Kind.WRONG_TYPE, Kind.RESERVED)


@dataclass(frozen=True, slots=True)
class Seeded:
    """One entry that was delivered: everything about it that the invariants need to know."""

    entry_id: bytes
    fields: tuple[bytes, ...]
    kind: Kind = Kind.HEALTHY

    @property
    def content(self) -> dict[bytes, bytes]:
        """What a hash that holds it has to hold: of a field that is there twice the last value."""
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True))

    @property
    def key_id(self) -> bytes:
        return self.content.get(b"id", b"")

    @property
    def order(self) -> tuple[int, int]:
        milliseconds, _, sequence = self.entry_id.partition(b"-")
        return int(milliseconds), int(sequence)


@dataclass
class World:
    """A stream, its group, its hashes and its dead letters, under names that nobody else has."""

    raw: redis.Redis
    environment: dict[str, str]
    entries: list[Seeded] = field(default_factory=list)
    reports: list[SweepReport] = field(default_factory=list)
    has_untold_sweeps: bool = False
    """A janitor was killed or cancelled: what it counted is not known."""
    existing: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    """Hashes that were there before."""
    clock: Iterable[int] = field(default_factory=lambda: itertools.count(int(time.time() * 1000) - DAY_MS))

    @property
    def stream(self) -> str:
        return self.environment["STREAM_NAME"]

    @property
    def prefix(self) -> bytes:
        return self.environment["HASH_PREFIX"].encode()

    @property
    def dead_stream(self) -> str:
        return f"{self.stream}:dead"

    @property
    def on_conflict(self) -> str:
        return self.environment.get("ON_CONFLICT", "overwrite")

    def settings(self, port: int | None = None, **changes: str) -> Settings:
        """The janitor's settings; through a proxy if ``port`` is one."""
        where = {} if port is None else {"REDIS_HOST": f"127.0.0.1:{port}"}
        return Settings.from_env({**self.environment, **where, **changes})

    def key(self, entry: Seeded) -> bytes:
        return self.prefix + entry.key_id

    def run(self, *commands: Sequence[Any]) -> list[Any]:
        """The raw replies of ``commands``, errors among them, in one round trip."""
        pipeline = self.raw.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies

    def must(self, *commands: Sequence[Any]) -> list[Any]:
        replies = self.run(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    # --- make -------------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """An empty stream with its group; nothing of what was there."""
        keys = {self.key(entry) for entry in self.entries} | set(self.existing)
        self.must(
            # One by one: in a cluster they lie in several slots.
            *(("DEL", key) for key in (self.stream, self.dead_stream, f"{self.dead_stream}:attempts", *keys)),
            ("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM"),
        )
        self.entries, self.reports, self.has_untold_sweeps, self.existing = [], [], False, {}

    def next_id(self) -> bytes:
        return b"%d-0" % next(iter(self.clock))

    def tweet(self, key_id: bytes | str | int, kind: Kind = Kind.HEALTHY, **more: str) -> Seeded:
        """An entry such as the stream holds, not added yet; ``kind`` decides about its id field."""
        suffix = key_id if isinstance(key_id, bytes) else str(key_id).encode()
        identity: tuple[bytes, ...] = (b"id", suffix)
        if kind is Kind.NO_ID:
            identity = ()
        elif kind is Kind.EMPTY_ID:
            identity = (b"id", b"")
        elif kind is Kind.LONG_ID:
            identity = (b"id", suffix + b"x" * 1025)
        entry_id = self.next_id()
        text = b"hello \xff\x00\r\n" + entry_id
        extra = tuple(part.encode() for pair in more.items() for part in pair)
        return Seeded(entry_id, (*identity, b"user", b"u", b"text", text, *extra), kind)

    def abandon(self, entries: Sequence[Seeded], idle_ms: int = OLD_MS) -> None:
        """Add ``entries``, have a consumer read them, and let it be gone for long; young ones for a moment."""
        self.entries += entries
        wrong = [("SET", self.key(entry), "no hash") for entry in entries if entry.kind is Kind.WRONG_TYPE]
        young = [entry.entry_id for entry in entries if entry.kind is Kind.YOUNG]
        old = [entry.entry_id for entry in entries if entry.kind is not Kind.YOUNG]
        gone = [entry.entry_id for entry in entries if entry.kind is Kind.GONE]
        self.must(
            *wrong,
            *(("XADD", self.stream, entry.entry_id, *entry.fields) for entry in entries),
            ("XREADGROUP", "GROUP", GROUP, CRASHED, "COUNT", len(entries), "STREAMS", self.stream, ">"),
            *self._aging(young, YOUNG_MS),
            *self._aging(old, idle_ms),
            *([("XDEL", self.stream, *gone)] if gone else []),
        )

    def _aging(self, ids: Sequence[bytes], idle_ms: int, consumer: bytes = CRASHED) -> list[tuple[Any, ...]]:
        # RETRYCOUNT and JUSTID: the delivery count stays what it is.
        return [
            ("XCLAIM", self.stream, GROUP, consumer, 0, *ids[at : at + 500], "IDLE", idle_ms, "JUSTID")
            for at in range(0, len(ids), 500)
        ]

    def age_what_the_janitor_claimed(self) -> None:
        """So that the next sweep finds again what a broken one had claimed, without waiting for the minimum idle time."""
        (rows,) = self.must(("XPENDING", self.stream, GROUP, "-", "+", 1_000_000))
        # XCLAIM, ours too, drops from the list what is gone from the stream.
        gone = {entry.entry_id for entry in self.entries if entry.kind is Kind.GONE}
        claimed = [row[0] for row in rows if row[1] == JANITOR and row[0] not in gone]
        self.must(*self._aging(claimed, OLD_MS, JANITOR)) if claimed else None

    def seed_a_bit_of_everything(self, healthy: int = 4) -> None:
        """A few healthy entries, two versions of one id, one of each fault, one that is gone, one that is still worked on."""
        self.reset()
        tweets = [self.tweet(number) for number in range(healthy)]
        twice = self.tweet("twice")
        tweets.append(replace(twice, fields=(*twice.fields, b"text", b"the last one wins")))
        if self.on_conflict != "overwrite":
            tweets += [self.tweet("pair", gone="only here"), self.tweet("pair")]
        tweets += [self.tweet(kind.value, kind) for kind in (Kind.WRONG_TYPE, Kind.NO_ID, Kind.GONE, Kind.YOUNG)]
        self.abandon(tweets)


def new_world(raw: redis.Redis, port: int, mode: str, on_conflict: str = "newer", **changes: str) -> World:
    """A world that nobody has been to; small pages, so that even few entries take several."""
    stream = f"f{os.getpid()}-{next(_numbers)}"
    environment = {
        "REDIS_HOST": f"127.0.0.1:{port}",
        "REDIS_TLS": "false",
        "STREAM_NAME": stream,
        "STREAM_CONSUMER_GROUP_NAME": GROUP,
        "MONITORING_CONSUMER_NAME": JANITOR.decode(),
        "MIN_IDLE_TIME_SEC": str(MIN_IDLE_MS // 1000),
        "HASH_PREFIX": f"{stream}:t:",
        "INDEX_NAME": f"{stream}:index",
        "INDEX_SCHEMA": "id TEXT",
        "PAGE_SIZE": "4",
        "CONCURRENCY": "2",
        "SETTLE_MODE": mode,
        "ON_CONFLICT": on_conflict,
        "SWEEP_BUDGET_SEC": "5",
        **changes,
    }
    world = World(raw, environment)
    world.reset()
    return world


def client(port: int, **more: Any) -> redis.Redis:
    """The suite's own look at a server: bytes, raw replies, one more try where the server was restarted."""
    looking = redis.Redis(port=port, protocol=2, socket_timeout=120, retry=Retry(NoBackoff(), 1), **more)
    looking.response_callbacks.clear()
    return looking
