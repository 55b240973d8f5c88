"""How much is measured: a quick run for everyone, a full one for the numbers in the README."""

from __future__ import annotations

from dataclasses import dataclass

OURS_AND_LIMIT = ("limit", "script", "gather")
LIMITED_OR_NOT = ("script", "script-limited", "gather", "gather-limited")
GROWING = ("limit", "script")
"""Whose rate is looked at as the list grows; more would take an hour."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`entries`: how many each method settles in a round; the slow ones fewer, at the same rate."""

    name: str
    entries: dict[str, int]
    rounds: int
    slow_rounds: int
    growth: tuple[int, ...]
    growth_rounds: int
    idle_pending: int
    idle_ticks: int
    cold_starts: int
    rate_limit_entries: int
    rate_limit_rounds: int
    spread_entries: int
    spread_rounds: int
    requeue_entries: int
    requeue_rounds: int
    cluster_entries: int
    cluster_rounds: int
    small_beside: int
    small_rounds: int
    window_limit: int
    window_s: float
    memory_entries: int
    retained_entries: int

    def rounds_of(self, method: str) -> int:
        return self.rounds if method in OURS_AND_LIMIT else self.slow_rounds


QUICK = Plan(
    name="quick",
    entries={
        "limit": 30_000,
        "script": 30_000,
        "gather": 30_000,
        "task-per-entry": 8_000,
        "sync": 4_000,
        "faststream": 1_000,
    },
    rounds=5,
    slow_rounds=3,
    growth=(10_000, 200_000),
    growth_rounds=1,
    idle_pending=200_000,
    idle_ticks=9,
    cold_starts=9,
    rate_limit_entries=30_000,
    rate_limit_rounds=3,
    spread_entries=40_000,
    spread_rounds=3,
    requeue_entries=30_000,
    requeue_rounds=3,
    cluster_entries=15_000,
    cluster_rounds=1,
    small_beside=50_000,
    small_rounds=1,
    window_limit=100,
    window_s=5,
    memory_entries=5_000,
    retained_entries=200_000,
)

FULL = Plan(
    name="full",
    entries={
        "limit": 100_000,
        "script": 100_000,
        "gather": 100_000,
        "task-per-entry": 50_000,
        "sync": 20_000,
        "faststream": 5_000,
    },
    rounds=5,
    slow_rounds=5,
    growth=(10_000, 100_000, 1_000_000),
    growth_rounds=5,
    idle_pending=1_000_000,
    idle_ticks=15,
    cold_starts=15,
    rate_limit_entries=100_000,
    rate_limit_rounds=7,
    spread_entries=160_000,
    spread_rounds=5,
    requeue_entries=100_000,
    requeue_rounds=5,
    cluster_entries=60_000,
    cluster_rounds=5,
    small_beside=1_000_000,
    small_rounds=3,
    window_limit=100,
    window_s=60,
    memory_entries=20_000,
    retained_entries=1_000_000,
)
