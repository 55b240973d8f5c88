"""The producer: an example's items into its stream, burst by burst."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import redis

from demo.clustered import SureCluster, client_of
from demo.example import Burst, Item, Production
from demo.examples import EXAMPLES
from demo.tweets import NotTweets
from demo.wire import Stop, server_url, tell

PIPELINE_SIZE = 500


class Producer:
    """Adds items to the stream and keeps count of them, by kind."""

    def __init__(self, client: redis.Redis, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._kinds: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def run(self, bursts: Iterator[Burst], seconds: float, stop: Stop) -> None:
        """Produce until the time is up, the items are used up, or somebody says stop.

        A burst that is due in time is added whole, however late it has become.
        """
        due = time.monotonic()
        end = due + seconds
        for pause_s, burst in bursts:
            due += pause_s
            while not stop and time.monotonic() < min(due, end):
                time.sleep(min(0.1, max(0.0, due - time.monotonic())))
            if stop or due > end:
                break
            for start in range(0, len(burst), PIPELINE_SIZE):
                self._add(burst[start : start + PIPELINE_SIZE])

    def _add(self, items: list[Item]) -> None:
        entry_ids = self._entry_ids_of(items)
        self._kinds.update(item.kind for item in items)
        for item in items:
            self._sums.update(item.amounts)
        named = [
            (item.kind, entry_id.decode()) for item, entry_id in zip(items, entry_ids, strict=True) if item.is_named
        ]
        tell(produced=self._kinds.total(), kinds=self._kinds, sums=self._sums, named=named)

    def _entry_ids_of(self, items: list[Item]) -> list[bytes]:
        """Those that they were added under."""
        if isinstance(self._client, SureCluster):
            return self._client.xadd_surely(self._stream, [item.fields for item in items])
        pipeline = self._client.pipeline(transaction=False)
        for item in items:
            pipeline.xadd(self._stream, cast(Any, item.fields))
        return cast(list[bytes], pipeline.execute())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.producer", description="Fill an example's stream.")
    parser.add_argument("--example", choices=EXAMPLES, default="tweets")
    parser.add_argument("--tweets", type=Path, help="a file of real ones (default: made up)")
    parser.add_argument("--lang", help="only this language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="items a second, on average")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    example = EXAMPLES[options.example]
    production = Production(options.seed, options.rate, options.short, options.tweets, options.lang)
    try:
        with client_of(server_url()) as client:
            producer = Producer(client, example.stream.stream)
            producer.run(example.produce(production), options.seconds, Stop())
    except (NotTweets, OSError, redis.RedisError) as error:
        print(f"producer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
