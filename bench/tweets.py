"""The same tweets for every method: five fields each, made from a seed, the n-th always the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from bench.wire import encode_words

SEED = 20_200_408
FIRST_ENTRY_MS = 1_586_304_000_000  # entries are years old by their ids, as abandoned ones are
FIRST_TWEET_ID = 1_247_700_000_000_000_000
BODIES = 8_192  # distinct user/text/location/hashtags; the ids are all distinct
VOCABULARY = 6_000

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
PLACES = (
    "India",
    "London, England",
    "São Paulo",
    "Lagos, Nigeria",
    "東京",
    "New York, NY",
    "Berlin",
    "Кијев",
    "",
)
HASHTAGS = ("covid", "Medicine", "redis", "music", "weather", "football", "news", "python", "cats", "travel")


@dataclass(frozen=True, slots=True)
class Body:
    """All of a tweet but its id: the four other fields, plain and ready to be sent."""

    fields: tuple[tuple[bytes, bytes], ...]
    encoded: bytes


def entry_id(number: int) -> bytes:
    """The stream id of the n-th entry: one a millisecond, from a day years ago."""
    return b"%d-0" % (FIRST_ENTRY_MS + number)


def tweet_id(number: int) -> bytes:
    return b"%d" % (FIRST_TWEET_ID + 4_099 * number)


def body(number: int) -> Body:
    bodies = _bodies()
    return bodies[number * 2_654_435_761 % len(bodies)]


def fields(number: int) -> dict[bytes, bytes]:
    """The n-th tweet as its hash has to hold it."""
    return {b"id": tweet_id(number), **dict(body(number).fields)}


@lru_cache(maxsize=1)
def _bodies() -> tuple[Body, ...]:
    source = random.Random(SEED)
    words = ["".join(source.choices(SYLLABLES, k=source.randint(1, 4))) for _ in range(VOCABULARY)]
    # Zipf's law: a few words are everywhere, most are rare, as in what an inverted index has to cope with.
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    return tuple(_body(source, words, weights) for _ in range(BODIES))


def _body(source: random.Random, words: list[str], weights: list[float]) -> Body:
    text = " ".join(source.choices(words, cum_weights=weights, k=source.randint(6, 22)))
    user = f"{source.choice(words)}_{source.randrange(100_000)}"
    hashtags = ",".join(source.sample(HASHTAGS, k=source.randint(0, 3)))
    values = {"user": user, "text": text, "location": source.choice(PLACES), "hashtags": hashtags}
    pairs = tuple((name.encode(), value.encode()) for name, value in values.items())
    return Body(pairs, encode_words(*(word for pair in pairs for word in pair)))
