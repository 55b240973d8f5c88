"""How what is produced is spread over time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TypeVar

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.0
BURST_FACTORS = (0.2, 0.5, 1.0, 1.3, 2.0)  # they average to one, so that the rate holds

Thing = TypeVar("Thing")


def bursts(things: Iterator[Thing], rate: float, chance: random.Random) -> Iterator[tuple[float, list[Thing]]]:
    """Pauses in seconds, each with the things that follow it; `rate` things a second on average."""
    owed, upcoming = 0.0, next(things, None)
    while upcoming is not None:
        pause_s = chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
        owed += rate * pause_s * chance.choice(BURST_FACTORS)
        burst = list(itertools.islice(itertools.chain([upcoming], things), int(owed)))
        if burst:
            owed -= len(burst)
            upcoming = next(things, None)
        yield pause_s, burst
