"""The producer: tweets into the stream, in bursts, as a Twitter stream would bring them."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import redis

from demo.names import STREAM
from demo.tweets import NotTweets, Tweet, made_up, read_tweets
from demo.wire import Stop, server_url, tell

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.0
BURST_FACTORS = (0.2, 0.5, 1.0, 1.3, 2.0)  # they average to one, so that the rate holds
PIPELINE_SIZE = 500


def bursts(tweets: Iterator[Tweet], rate: float, chance: random.Random) -> Iterator[tuple[float, list[Tweet]]]:
    """Pauses in seconds, each with the tweets that follow it; `rate` tweets a second on average."""
    owed, upcoming = 0.0, next(tweets, None)
    while upcoming is not None:
        pause_s = chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
        owed += rate * pause_s * chance.choice(BURST_FACTORS)
        burst = list(itertools.islice(itertools.chain([upcoming], tweets), int(owed)))
        if burst:
            owed -= len(burst)
            upcoming = next(tweets, None)
        yield pause_s, burst


def add(client: redis.Redis, tweets: list[Tweet]) -> None:
    """XADD them all, a pipeline of bounded size at a time."""
    for start in range(0, len(tweets), PIPELINE_SIZE):
        pipeline = client.pipeline(transaction=False)
        for tweet in tweets[start : start + PIPELINE_SIZE]:
            pipeline.xadd(STREAM, cast(Any, tweet.fields()))
        pipeline.execute()


def produce(client: redis.Redis, tweets: Iterator[Tweet], rate: float, seconds: float, seed: int) -> int:
    """Produce until the time is up, the tweets are used up, or somebody says stop; returns how many."""
    stop, produced, due = Stop(), 0, time.monotonic()
    end = due + seconds
    for pause_s, burst in bursts(tweets, rate, random.Random(seed)):
        due += pause_s
        while not stop and time.monotonic() < min(due, end):
            time.sleep(min(0.1, max(0.0, due - time.monotonic())))
        if stop or due > end:
            break
        add(client, burst)
        produced += len(burst)
        tell(produced=produced)
    return produced


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.producer", description="Fill the stream with tweets.")
    parser.add_argument("--tweets", type=Path, help="a file of real ones (default: made up)")
    parser.add_argument("--lang", help="only this language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="tweets a second, on average")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)
    try:
        file, lang = options.tweets, options.lang
        tweets = read_tweets(file, lang) if file else made_up(options.seed, lang)
        with redis.Redis.from_url(server_url()) as client:
            produced = produce(client, tweets, options.rate, options.seconds, options.seed)
    except (NotTweets, OSError, redis.RedisError) as error:
        print(f"producer: {error}", file=sys.stderr)
        return 1
    tell(produced=produced, done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
