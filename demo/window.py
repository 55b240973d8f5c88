"""The check of a rate limit: how much was taken up in the fullest second."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Some janitor took up ``count`` entries, not before the first time and not after the last, in ms."""

    first_ms: float
    last_ms: float
    count: int


def most_in_a_second(runs: Sequence[Run]) -> int:
    """The most entries in any window of a second, wherever in its run each was taken up. ``runs`` in their order."""
    most = 0
    for at, begin in enumerate(runs):
        within = itertools.takewhile(lambda run, end=begin.last_ms + 1000: run.first_ms < end, runs[at:])  # type: ignore[misc]
        most = max(most, sum(run.count for run in within))
    return most
