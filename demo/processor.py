"""A flaky processor: reads the group's new entries, stores each as a hash, acknowledges it -- but not always.

Like the original's, it fails on about a fifth of the entries and never comes back to them. They stay pending:
the janitor's work.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import redis

from demo.names import GROUP, HASH_PREFIX, STREAM
from demo.wire import Stop, server_url, tell

BATCH_SIZE = 20
BLOCK_MS = 300

Entry = tuple[bytes, dict[bytes, bytes]]


class FlakyProcessor:
    """One consumer of the group; its first entry fails for sure, so that no run is without a failure."""

    def __init__(
        self, client: redis.Redis, name: str, failure_rate: float, work_s: float, chance: random.Random
    ) -> None:
        self._client = client
        self._name = name
        self._failure_rate = failure_rate
        self._work_s = work_s
        self._chance = chance
        self.stored = 0
        self.failed = 0

    def run(self, stop: Stop) -> None:
        """Process batch after batch until told to stop; the batch at hand is always finished."""
        while not stop:
            for entry_id, fields in self._read():
                self._process(entry_id, fields)
            tell(stored=self.stored, failed=self.failed)

    def _read(self) -> list[Entry]:
        reply = self._client.xreadgroup(GROUP, self._name, {STREAM: ">"}, count=BATCH_SIZE, block=BLOCK_MS)
        return [entry for _, entries in cast(Any, reply) or () for entry in entries]

    def _process(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        time.sleep(self._work_s)
        if (self.stored, self.failed) == (0, 0) or self._chance.random() < self._failure_rate:
            self.failed += 1
            return
        # Two round trips on purpose: the acknowledgement is sent when the hash is known to be stored.
        self._client.hset(HASH_PREFIX + fields[b"id"].decode(), mapping=cast(Any, fields))
        self._client.xack(STREAM, GROUP, entry_id)
        self.stored += 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.processor", description="Process the group's entries.")
    parser.add_argument("--name", required=True, help="the consumer's name")
    parser.add_argument("--failure-rate", type=float, default=0.2)
    parser.add_argument("--work-ms", type=float, default=5.0, help="what one entry's processing takes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    chance = random.Random(f"{options.seed} {options.name}")
    try:
        with redis.Redis.from_url(server_url()) as client:
            processor = FlakyProcessor(client, options.name, options.failure_rate, options.work_ms / 1000, chance)
            processor.run(Stop())
    except redis.RedisError as error:
        print(f"{options.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    tell(stored=processor.stored, failed=processor.failed, done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
