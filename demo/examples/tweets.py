"""Tweets, with the searches of the original article."""

from __future__ import annotations

import random
from collections.abc import Iterator

from demo.bursts import bursts
from demo.check import check_run
from demo.example import Burst, Column, Example, Item, Production
from demo.queries import Query
from demo.tweets import made_up, read_tweets

QUERIES = (
    "hello",
    "hello|world",
    "@location:India",
    "@user:jo* @location:India",
    "@user:jo* | @location:India",
    "@hashtags:{cov*}",
    "@hashtags:{cov*|Med*}",
)


def produce(production: Production) -> Iterator[Burst]:
    """As a Twitter stream would bring them, or those of a file. Raises NotTweets, OSError."""
    file, lang = production.tweets_file, production.lang
    tweets = read_tweets(file, lang) if file else made_up(production.seed, lang)
    return bursts((Item(tweet.fields()) for tweet in tweets), production.rate, random.Random(production.seed))


TWEETS = Example(
    name="tweets",
    things="tweets",
    produce=produce,
    check=check_run,
    queries=tuple(map(Query, QUERIES)),
    columns=(Column("user", 13, "cyan", "@"), Column("location", 21, "yellow"), Column("text", 20)),
)
