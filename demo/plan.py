"""What a run is going to do and how long each part takes, worked out from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice, pairwise
from pathlib import Path

from demo.example import Example, Production
from demo.tweets import made_up, read_tweets
from shared.schedule import fires

DEFAULT_RATE = 100.0
LONGEST_MIN_IDLE_S = 8
NO_LIMIT_S = 1e9
FINISHING_S = 3
"""What the processors' last batches, the last tick and the checks may take beside the waiting."""


class BadPlan(Exception):
    """Nothing can be run like this; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    example: Example
    is_short: bool
    tweets_file: Path | None
    lang: str | None
    seed: int
    schedule: str
    longest_interval_s: float
    min_idle_s: int
    rate: float
    production_s: float
    """How long production is going to take; `limit_s` is when it ends at the latest."""
    limit_s: float
    retain_s: int | None = None
    """How old an entry is that may be trimmed; None: nothing is."""

    @property
    def expected_s(self) -> float:
        """How long the whole run takes if the tick comes as late as it can."""
        trimming_s = 0 if self.retain_s is None else self.retain_s + self.longest_interval_s
        return self.production_s + self.longest_interval_s + self.min_idle_s + FINISHING_S + trimming_s

    @property
    def work_ms(self) -> float:
        """What an entry's processing takes, so that two of the three processors keep up with the rate."""
        return min(10.0, 1000 * 1.2 / self.rate)

    @property
    def expected_count(self) -> float:
        """About how many items are going to be produced."""
        return self.rate * self.production_s

    def app_settings(self, janitor: str) -> dict[str, str]:
        """One janitor's settings for this run, but for where Redis is: the example's file, with shorter waits."""
        return {
            **self.example.values,
            "MONITORING_CONSUMER_NAME": janitor,
            "MIN_IDLE_TIME_SEC": str(self.min_idle_s),
            "MONITOR_SCHEDULE": self.schedule,
            **({} if self.retain_s is None else {"RETAIN_SEC": str(self.retain_s)}),
        }


def make_plan(
    example: Example,
    tweets_file: Path | None,
    lang: str | None,
    seed: int,
    schedule: str,
    rate: float | None,
    seconds: float,
    is_short: bool = False,
) -> Plan:
    """Leave room after production for the entries to become idle enough and for the tick that then comes.

    All tweets of a file are produced, unless a rate is given: then those that fit in the time.
    Raises BadPlan, NotTweets, OSError.
    """
    _refuse_what_does_not_fit(example, tweets_file, lang, rate)
    interval_s = longest_interval_s(schedule)
    min_idle_s = max(1, min(LONGEST_MIN_IDLE_S, round(seconds / 10)))
    production_s = max(seconds / 3, seconds - interval_s - min_idle_s - FINISHING_S)
    limit_s = production_s
    if tweets_file is None:
        next(made_up(seed, lang))  # refuses an unknown language now, not in the producer
        rate = rate or example.rate or DEFAULT_RATE
        if example.count:
            production_s, limit_s = example.count(Production(seed, rate, is_short)) / rate, NO_LIMIT_S
    else:
        count = _count(tweets_file, lang)
        limit_s = production_s if rate else NO_LIMIT_S
        rate = rate or count / production_s
        production_s = min(production_s, count / rate)
    waits = (schedule, interval_s, min_idle_s)
    return Plan(example, is_short, tweets_file, lang, seed, *waits, rate, production_s, limit_s)


def _refuse_what_does_not_fit(example: Example, tweets_file: Path | None, lang: str | None, rate: float | None) -> None:
    if example.name != "tweets" and (tweets_file or lang):
        raise BadPlan(f"--tweets and --lang are for tweets, not for the example {example.name}")
    if example.rate and rate:
        raise BadPlan(f"the example {example.name} has a rhythm of its own: no --rate")


def _count(tweets_file: Path, lang: str | None) -> int:
    count = sum(1 for _ in read_tweets(tweets_file, lang))
    if count == 0:
        in_language = f" in the language {lang!r}" if lang else ""
        raise BadPlan(f"{tweets_file}: no tweets{in_language}")
    return count


def longest_interval_s(schedule: str) -> float:
    """The longest of the next few waits between two ticks, in seconds. Raises BadPlan."""
    try:
        due = list(islice(fires(schedule, datetime.now(timezone.utc)), 5))
    except ValueError as error:
        raise BadPlan(f"not a schedule (six fields, seconds first): {schedule!r}: {error}") from None
    if len(due) < 2:
        raise BadPlan(f"the schedule {schedule!r} does not fire twice")
    return max((later - earlier).total_seconds() for earlier, later in pairwise(due))
