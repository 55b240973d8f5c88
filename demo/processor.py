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

from demo.clustered import SureCluster, client_of
from demo.example import Example
from demo.examples import EXAMPLES
from demo.wire import Stop, server_url, tell
from monitor.entry_key import EntryKey
from monitor.scripts import store_script

BLOCK_MS = 300

Entry = tuple[bytes, dict[bytes, bytes]]


class FlakyProcessor:
    """One consumer of the group; its first entry fails for sure, so that no run is without a failure."""

    def __init__(self, client: redis.Redis, example: Example, name: str, work_s: float, chance: random.Random) -> None:
        self._client = client
        self._settings = example.stream
        self._key = EntryKey(example.stream)
        self._faults = example.faults
        self._name = name
        self._work_s = work_s
        self._chance = chance
        self._store_by_rule = client.register_script(store_script().text)
        self.stored = 0
        self.failed = 0

    def run(self, stop: Stop) -> None:
        """Process batch after batch until told to stop; the batch at hand is always finished."""
        while not stop:
            for entry_id, fields in self._read():
                self._process(entry_id, fields)
            tell(stored=self.stored, failed=self.failed)

    def _read(self) -> list[Entry]:
        stream, group = self._settings.stream, self._settings.group
        count = self._faults.batch_size
        reply = self._client.xreadgroup(group, self._name, {stream: ">"}, count=count, block=BLOCK_MS)
        return [entry for _, entries in cast(Any, reply) or () for entry in entries]

    def _process(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        time.sleep(self._work_s)
        if self._gives_up(fields):
            self.failed += 1
            return
        # Two round trips on purpose: the acknowledgement is sent when the hash is known to be stored.
        self._store(entry_id, fields)
        if self._chance.random() < self._faults.forgets:
            self.failed += 1
            return
        self._client.xack(self._settings.stream, self._settings.group, entry_id)
        self.stored += 1

    def _gives_up(self, fields: dict[bytes, bytes]) -> bool:
        is_first = (self.stored, self.failed) == (0, 0)
        is_unlucky = self._chance.random() < self._faults.gives_up
        return is_first or is_unlucky or not self._faults.can_process(fields)

    def _store(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        """By the rule of ON_CONFLICT: where hashes are shared with the janitor, both have to follow the same one."""
        flat = [part for pair in fields.items() for part in pair]
        key, _ = self._key.of(flat)
        if key is None:
            raise ValueError("an entry without its id fields: can_process has to refuse it")
        rule = self._settings.on_conflict
        if isinstance(self._client, SureCluster):
            self._client.hset_surely(key, fields)
        elif rule == "overwrite":
            self._client.hset(cast(Any, key), mapping=cast(Any, fields))
        else:
            self._store_by_rule(keys=[key], args=[rule, entry_id, *flat])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.processor", description="Process the group's entries.")
    parser.add_argument("--example", choices=EXAMPLES, default="tweets")
    parser.add_argument("--name", required=True, help="the consumer's name")
    parser.add_argument("--work-ms", type=float, default=5.0, help="what one entry's processing takes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    chance = random.Random(f"{options.seed} {options.name}")
    try:
        with client_of(server_url()) as client:
            example = EXAMPLES[options.example]
            processor = FlakyProcessor(client, example, options.name, options.work_ms / 1000, chance)
            processor.run(Stop())
    except redis.RedisError as error:
        print(f"{options.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    tell(stored=processor.stored, failed=processor.failed, done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
