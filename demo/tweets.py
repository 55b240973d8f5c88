"""Tweets to fill the stream with: made up from a seed, or read from a file of the Twitter API v1.1."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.vocabulary import EMOJI, SAYINGS, TAGS, USERS, Saying

FIRST_MADE_UP_ID = 1_250_000_000_000_000_000


class NotTweets(Exception):
    """The file cannot be read as tweets; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Tweet:
    """One tweet as the stream's entries hold it; `lang` is for choosing only and is not stored."""

    id: str
    user: str
    text: str
    location: str
    hashtags: str
    lang: str

    def fields(self) -> dict[str, str]:
        return {
            "id": self.id,
            "user": self.user,
            "text": self.text,
            "location": self.location,
            "hashtags": self.hashtags,
        }


def made_up(seed: int, lang: str | None = None) -> Iterator[Tweet]:
    """Tweets without end, all with different ids; the same for the same seed and language.

    Raises NotTweets if nothing can be said in that language.
    """
    sayings = [saying for saying in SAYINGS if lang in (None, saying.lang)]
    if not sayings:
        known = ", ".join(sorted({saying.lang for saying in SAYINGS}))
        raise NotTweets(f"no made-up tweets in the language {lang!r}; there are: {known}")
    return _made_up(random.Random(seed), sayings)


def _made_up(chance: random.Random, sayings: list[Saying]) -> Iterator[Tweet]:
    number = FIRST_MADE_UP_ID
    while True:
        number += chance.randrange(1, 1 << 22)
        saying = chance.choice(sayings)
        user, location = chance.choice(USERS)
        tags = chance.sample(TAGS, k=chance.choice((0, 0, 0, 1, 1, 2)))
        words = [
            saying.text,
            *chance.sample(EMOJI, k=chance.choice((0, 1, 1, 2))),
            *("#" + tag for tag in tags),
        ]
        yield Tweet(str(number), user, " ".join(words), location, ",".join(tags), saying.lang)


def read_tweets(file: Path, lang: str | None = None) -> Iterator[Tweet]:
    """The distinct tweets of a file: a JSON array, `{"statuses": [...]}`, or one status a line.

    Left out: what is marked possibly sensitive, other languages than `lang`, an id seen before, and what is
    no tweet at all (streams also carry deletions and limits).
    Raises NotTweets, OSError.
    """
    seen: set[str] = set()
    for status in _statuses(file):
        tweet = _tweet(status)
        if tweet is None or status.get("possibly_sensitive") is True or lang not in (None, tweet.lang):
            continue
        if tweet.id not in seen:
            seen.add(tweet.id)
            yield tweet


def _statuses(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    one_a_line = _parsed(first) is not None and not first.lstrip().startswith("[")
    if one_a_line and "statuses" not in (_parsed(first) or {}):
        yield from _statuses_by_line(file)
        return
    try:
        whole = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError as error:
        raise NotTweets(f"{file}: not JSON: {error}") from None
    items = whole.get("statuses", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(items, list):
        raise NotTweets(f'{file}: expected an array, {{"statuses": [...]}} or one status a line')
    yield from (item for item in items if isinstance(item, dict))


def _statuses_by_line(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            status = _parsed(line)
            if status is None:
                raise NotTweets(f"{file}, line {number}: not a JSON object")
            yield status


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _tweet(status: dict[str, Any]) -> Tweet | None:
    """The tweet in a status, whole text first (`text` may hold its beginning only)."""
    extended = _object(status.get("extended_tweet"))
    text = extended.get("full_text") or status.get("full_text") or status.get("text")
    number = status.get("id_str") or status.get("id")
    if not isinstance(text, str) or not isinstance(number, (str, int)) or isinstance(number, bool):
        return None
    user = _object(status.get("user"))
    lang = status.get("lang") or _object(status.get("metadata")).get("iso_language_code")
    tags = _object(extended.get("entities") or status.get("entities")).get("hashtags")
    return Tweet(
        id=_encodable(number),
        user=_encodable(user.get("screen_name")),
        text=_encodable(text),
        location=_encodable(user.get("location")),
        hashtags=",".join(_encodable(_object(tag).get("text")) for tag in tags if _object(tag).get("text"))
        if isinstance(tags, list)
        else "",
        lang=_encodable(lang),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _encodable(value: Any) -> str:
    """JSON can hold half a surrogate pair; UTF-8 cannot."""
    text = "" if value is None else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")
