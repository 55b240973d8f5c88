"""The goals of the benchmark issue beside what a run measured: `python -m bench.goals FILE`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.idle_ticks import IdleTicks
from bench.markdown import markdown_table
from bench.prepared import Seed
from bench.results import GROWTH, MAIN, RATE_LIMIT, REQUEUE, SPREAD, Results, Summary

SMALL, LARGE = 10_000, 1_000_000
MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Goal:
    """`measured` is None where this run did not measure it."""

    promise: str
    measured: float | None
    bound: float
    at_least: bool
    remark: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "met" if met else "MISSED"

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def check_goals(results: Results) -> list[Goal]:
    return [
        *_rates(results),
        *_growth(results),
        *_rate_limit(results),
        *_requeue(results),
        *_spread(results),
        *_small_streams(results),
        *_rate_windows(results),
        *_retained(results),
        *_bystander(results),
        *_idle(results),
        *_cold(results),
    ]


def goals_table(goals: list[Goal]) -> str:
    rows = [
        (
            goal.promise,
            goal.wanted,
            "–" if goal.measured is None else f"{goal.measured:.2f}",
            goal.verdict,
            goal.remark,
        )
        for goal in goals
    ]
    return markdown_table(("goal", "wanted", "measured", "verdict", "remark"), rows)


def _rates(results: Results) -> list[Goal]:
    def rate(method: str, indexed: bool) -> float | None:
        summary = results.summary(MAIN, method, indexed)
        return summary.entries_per_s if summary else None

    script = {indexed: results.summary(MAIN, "script", indexed) for indexed in (True, False)}
    cpu_us = [summary.client_cpu_us for summary in script.values() if summary]
    return [
        Goal("script ÷ limit, indexed", _ratio(rate("script", True), rate("limit", True)), 0.90, True),
        Goal("script ÷ limit, not indexed", _ratio(rate("script", False), rate("limit", False)), 0.80, True),
        Goal("gather ÷ limit, indexed", _ratio(rate("gather", True), rate("limit", True)), 0.65, True),
        Goal(
            "script ÷ one task per entry, indexed",
            _ratio(rate("script", True), rate("task-per-entry", True)),
            4.5,
            True,
        ),
        Goal("script ÷ FastStream, indexed", _ratio(rate("script", True), rate("faststream", True)), 30, True),
        Goal(
            "client CPU of the script path, µs an entry",
            max(cpu_us, default=None),
            2.0,
            False,
            " / ".join(f"{microseconds:.2f}" for microseconds in cpu_us) + " indexed / not" if cpu_us else "",
        ),
    ]


def _growth(results: Results) -> list[Goal]:
    small = results.summary(GROWTH, "script", False, SMALL)
    large = results.summary(GROWTH, "script", False, LARGE)
    limit = results.summary(GROWTH, "limit", False, LARGE)
    peaks = [
        (_peak(results, method, indexed, LARGE), _peak(results, method, indexed, SMALL))
        for method in ("script", "gather")
        for indexed in (True, False)
    ]
    peak_ratios = [ratio for pair in peaks if (ratio := _ratio(*pair))]
    return [
        Goal(
            "script, 1,000,000 entries not indexed, s",
            large.seconds if large else None,
            10.0,
            False,
            f"the limit: {limit.seconds:.2f} s" if limit else "",
        ),
        Goal("script, rate at 1M ÷ at 10k, not indexed", _ratio(_rate(large), _rate(small)), 0.85, True),
        Goal("peak client memory at 1M ÷ at 10k, worst", max(peak_ratios, default=None), 1.2, False),
    ]


def _rate_limit(results: Results) -> list[Goal]:
    goals = []
    for mode in ("script", "gather"):
        free, limited = (results.summary(RATE_LIMIT, method, False) for method in (mode, f"{mode}-limited"))
        ratio = _ratio(limited.seconds, free.seconds) if free and limited else None
        goals.append(Goal(f"{mode}, time under a rate limit that does not bite ÷ without", ratio, 1.05, False))
    return goals


def _requeue(results: Results) -> list[Goal]:
    limit, script = (results.summary(REQUEUE, method, False) for method in ("requeue-limit", "requeue-script"))
    remark = f"{script.entries_per_s:,.0f} ÷ {limit.entries_per_s:,.0f} entries/s" if script and limit else ""
    return [Goal("requeue by script ÷ its limit", _ratio(_rate(script), _rate(limit)), 0.80, True, remark)]


def _spread(results: Results) -> list[Goal]:
    goals = []
    for mode in ("script", "gather"):
        for indexed in (True, False):
            one, eight = (
                results.summary(SPREAD, f"{mode}-{name}", indexed) for name in ("one-stream", "eight-streams")
            )
            index = "indexed" if indexed else "not indexed"
            ratio = _ratio(eight.seconds, one.seconds) if one and eight else None
            remark = f"{eight.seconds:.2f} ÷ {one.seconds:.2f} s" if one and eight else ""
            goals.append(Goal(f"{mode}, {index}: eight streams ÷ one, one tick", ratio, 1.15, False, remark))
    return goals


def _small_streams(results: Results) -> list[Goal]:
    goals = []
    for mode in ("script", "gather"):
        runs = [run for run in results.small_streams if (run.mode, run.large_entries) == (mode, LARGE)]
        ticks = max((float(run.ticks) for run in runs), default=None)
        remark = f"after {1_000 * max(run.clean_after_s for run in runs):.0f} ms at worst" if runs else ""
        goals.append(Goal(f"{mode}, 10 entries beside 1M: ticks until clean, worst", ticks, 2.0, False, remark))
    return goals


def _rate_windows(results: Results) -> list[Goal]:
    goals = []
    for mode in ("script", "gather"):
        run = next((run for run in results.rate_windows if run.mode == mode and run.seconds >= MINUTE_S), None)
        ratio = _ratio(run.fullest_second, run.limit) if run else None
        remark = f"{run.fullest_second} of {run.limit}; {run.taken_up:,} in {run.seconds:.1f} s" if run else ""
        goals.append(Goal(f"{mode}, fullest second of three janitors ÷ limit", ratio, 1.0, False, remark))
    return goals


def _retained(results: Results) -> list[Goal]:
    run = next((run for run in results.retained if run.entries >= LARGE), None)
    p99_ms = max((run.bystander["p99_ms"] for run in results.retained), default=None) if run else None
    remark = f"1M trimmed in {run.seconds:.2f} s; slowest command {run.slowest_ms:.2f} ms" if run else ""
    return [Goal("bystander p99 while 1M entries are trimmed, ms", p99_ms, 10.0, False, remark)]


def _bystander(results: Results) -> list[Goal]:
    script = _worst_p99_ms(results, "script")
    gather = _worst_p99_ms(results, "gather")
    return [
        Goal("bystander p99 during script, ms, the worse of both", script, 10.0, False),
        Goal("bystander p99, script ÷ gather", _ratio(script, gather), 2.0, False, _milliseconds(gather)),
    ]


def _idle(results: Results) -> list[Goal]:
    ticks = {idle.state: idle for idle in results.idle_ticks if idle.pending in (0, LARGE)}
    nothing, fresh, catching_up = (
        ticks.get(state) for state in ("nothing", Seed.IN_FLIGHT.value, Seed.CATCHING_UP.value)
    )
    return [
        Goal(
            "tick with 1M pending, fresh ids ÷ nothing pending",
            _ratio(median(fresh.ticks_s), median(nothing.ticks_s)) if fresh and nothing else None,
            2.0,
            False,
            _milliseconds(1_000 * median(fresh.ticks_s)) if fresh else "",
        ),
        Goal(
            "slowest command, 1M old ids just delivered, ms",
            catching_up.slowest_ms if catching_up else None,
            5.0,
            False,
            _tick_and_scan(catching_up) if catching_up else "",
        ),
    ]


def _tick_and_scan(idle: IdleTicks) -> str:
    return f"the tick: {median(idle.ticks_s):.2f} s; one XPENDING … IDLE: {idle.scan_ms:.0f} ms"


def _cold(results: Results) -> list[Goal]:
    starts = results.cold_starts
    ours_s = median(start.import_s + start.first_tick_s for start in starts) if starts else None
    libraries_s = median(start.libraries_s for start in starts) if starts else None
    remark = f"{1_000 * ours_s:.0f} ÷ {1_000 * libraries_s:.0f} ms" if ours_s and libraries_s else ""
    return [Goal("import and first idle tick ÷ the two libraries", _ratio(ours_s, libraries_s), 1.3, False, remark)]


def _ratio(dividend: float | None, divisor: float | None) -> float | None:
    return dividend / divisor if dividend is not None and divisor else None


def _rate(summary: Summary | None) -> float | None:
    return summary.entries_per_s if summary else None


def _peak(results: Results, method: str, indexed: bool, entries: int) -> float | None:
    summary = results.summary(GROWTH, method, indexed, entries)
    return summary.client_peak_mb if summary else None


def _worst_p99_ms(results: Results, method: str) -> float | None:
    summaries = (results.summary(MAIN, method, indexed) for indexed in (True, False))
    return max((summary.p99_ms for summary in summaries if summary), default=None)


def _milliseconds(value: float | None) -> str:
    return f"{value:.2f} ms" if value is not None else ""


if __name__ == "__main__":
    print(goals_table(check_goals(Results.load(Path(sys.argv[1])))))
