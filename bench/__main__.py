"""`python -m bench --quick | --full`: seed, settle, compare.

Every round gives each method in turn a fresh server with the same entries, so that a machine that slows down
slows all of them. Progress goes to stderr, the tables to stdout, every raw number to bench/results/NAME.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.cold_start import measure_cold_starts
from bench.goals import check_goals, goals_table
from bench.idle_ticks import measure_idle_ticks
from bench.machine import describe_machine
from bench.memory import measure_memory
from bench.methods import CLUSTERED, COMPARED, REQUEUEING, SPREAD_OVER
from bench.plans import FULL, GROWING, LIMITED_OR_NOT, QUICK, Plan
from bench.prepared import PreparedFiles
from bench.rate_window import RateWindow, measure_rate_window
from bench.results import CLUSTER, FOLDER, GROWTH, MAIN, RATE_LIMIT, REQUEUE, SPREAD, Results
from bench.retained import measure_retention
from bench.rounds import Round, run_round
from bench.small_stream import SmallStream, measure_small_stream
from bench.table import tables
from demo.redis import NoServer

PARTS = ("methods", "growth", "rate-limit", "requeue", "idle", "retention", "cold")
SIZING_PARTS = ("methods", "rate-limit", "spread", "cluster", "small", "window", "memory")
"""What the sizing page is made of; of the methods, ours."""
MODES = ("script", "gather")


def main() -> None:
    options = _options()
    plan = _plan(options)
    usual_name = "sizing" if options.sizing and options.full else plan.name
    path = FOLDER / f"{options.name or usual_name}.json"
    started = time.monotonic()
    results = Results.load(path) if options.update and path.exists() else Results()
    results.machine = describe_machine()
    try:
        _measure(results, plan, options)
    finally:  # half of a long run is worth keeping
        results.save(path)
    print(tables(results))
    if options.goals:
        print("\n" + goals_table(check_goals(results)))
    _tell(f"{time.monotonic() - started:.0f} s; every number is in {path}")


def _measure(results: Results, plan: Plan, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        files = PreparedFiles(Path(folder))
        for section, rounds in _rounds_of(files, plan, options.methods).items():
            if section in options.only:
                results.rounds = [round_ for round_ in results.rounds if round_.section != section]
                results.rounds.extend(rounds)
        if "small" in options.only:
            results.small_streams = list(_small_streams(files, plan))
        if "window" in options.only:
            results.rate_windows = list(_rate_windows(files, plan))
        if "idle" in options.only:
            _tell(f"ticks with nothing to do, up to {plan.idle_pending:,} pending")
            results.idle_ticks = measure_idle_ticks(files, plan.idle_pending, plan.idle_ticks)
        if "retention" in options.only:
            _tell(f"retention of {plan.retained_entries:,} entries")
            results.retained = measure_retention(files, plan.retained_entries)
    if "memory" in options.only:
        _tell("memory an entry takes, with each example's data")
        results.memory = measure_memory(plan.memory_entries)
    if "cold" in options.only:
        _tell(f"{plan.cold_starts} cold starts")
        results.cold_starts = measure_cold_starts(plan.cold_starts)


def _rounds_of(files: PreparedFiles, plan: Plan, methods: list[str]) -> dict[str, Iterator[Round]]:
    """By section; nothing runs before it is asked for."""
    return {
        MAIN: _compare_methods(files, plan, methods),
        GROWTH: _grow(files, plan, methods),
        RATE_LIMIT: _limit_rate(files, plan),
        SPREAD: _spread(files, plan),
        CLUSTER: _cluster(files, plan),
        REQUEUE: _requeue(files, plan),
    }


def _small_streams(files: PreparedFiles, plan: Plan) -> Iterator[SmallStream]:
    for mode in MODES * plan.small_rounds:
        _tell(f"a small stream beside one of {plan.small_beside:,}, {mode}")
        yield measure_small_stream(files, mode, plan.small_beside)


def _rate_windows(files: PreparedFiles, plan: Plan) -> Iterator[RateWindow]:
    for mode in MODES:
        _tell(f"three janitors under {plan.window_limit}/s for {plan.window_s:g} s, {mode}")
        yield measure_rate_window(files, mode, plan.window_limit, plan.window_s)


def _compare_methods(files: PreparedFiles, plan: Plan, methods: Iterable[str]) -> Iterator[Round]:
    for number in range(plan.rounds):
        for indexed in (True, False):
            for method in _rotated([name for name in methods if number < plan.rounds_of(name)], number):
                yield from _told(run_round(files, MAIN, method, indexed, plan.entries[method], number))


def _grow(files: PreparedFiles, plan: Plan, methods: Iterable[str]) -> Iterator[Round]:
    growing = [name for name in methods if name in GROWING]
    for number in range(plan.growth_rounds):
        for entries in plan.growth:
            for indexed in (True, False):
                for method in _rotated(growing, number):
                    yield from _told(run_round(files, GROWTH, method, indexed, entries, number))


def _limit_rate(files: PreparedFiles, plan: Plan) -> Iterator[Round]:
    """Not indexed: the less the server has to do for an entry, the more the limit weighs."""
    for number in range(plan.rate_limit_rounds):
        for method in _rotated(list(LIMITED_OR_NOT), number):
            yield from _told(run_round(files, RATE_LIMIT, method, False, plan.rate_limit_entries, number))


def _spread(files: PreparedFiles, plan: Plan) -> Iterator[Round]:
    for number in range(plan.spread_rounds):
        for indexed in (True, False):
            for method in _rotated(list(SPREAD_OVER), number):
                yield from _told(run_round(files, SPREAD, method, indexed, plan.spread_entries, number))


def _cluster(files: PreparedFiles, plan: Plan) -> Iterator[Round]:
    for number in range(plan.cluster_rounds):
        for method in _rotated(list(CLUSTERED), number):
            yield from _told(run_round(files, CLUSTER, method, False, plan.cluster_entries, number))


def _requeue(files: PreparedFiles, plan: Plan) -> Iterator[Round]:
    for number in range(plan.requeue_rounds):
        for method in _rotated(list(REQUEUEING), number):
            yield from _told(run_round(files, REQUEUE, method, False, plan.requeue_entries, number))


def _rotated(methods: list[str], number: int) -> list[str]:
    """Each round begins with another method, so that none is always the one after a pause."""
    start = number % max(1, len(methods))
    return methods[start:] + methods[:start]


def _told(rounds: list[Round]) -> list[Round]:
    for round_ in rounds:
        index = "indexed" if round_.indexed else "not indexed"
        void = f"  void: server {round_.server_busy:.0%} busy" if round_.void else ""
        work = f"{round_.method:<22}{index:<12}{round_.entries:>9,} entries {round_.seconds:7.2f} s"
        rate = f"{round_.entries_per_s:>9,.0f}/s  p99 {round_.bystander['p99_ms']:.1f} ms"
        _tell(f"round {round_.number + 1}  {work}{rate}{void}")
    return rounds


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _plan(options: argparse.Namespace) -> Plan:
    plan = FULL if options.full else QUICK
    if options.entries:
        plan = dataclasses.replace(
            plan,
            entries=dict.fromkeys(COMPARED, options.entries),
            rate_limit_entries=options.entries,
            spread_entries=options.entries,
            requeue_entries=options.entries,
            cluster_entries=options.entries,
        )
    if options.rounds:
        rounds = options.rounds
        plan = dataclasses.replace(
            plan,
            rounds=rounds,
            slow_rounds=rounds,
            growth_rounds=rounds,
            rate_limit_rounds=rounds,
            spread_rounds=rounds,
            requeue_rounds=rounds,
            cluster_rounds=rounds,
            small_rounds=rounds,
        )
    return plan


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What settling an entry costs.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="at most three minutes (the default)")
    size.add_argument("--full", action="store_true", help="the numbers for the README; about half an hour")
    parser.add_argument("--goals", action="store_true", help="check the goals of the benchmark issue too")
    parser.add_argument("--only", nargs="+", choices=sorted({*PARTS, *SIZING_PARTS}), help="parts to measure")
    parser.add_argument("--methods", nargs="+", choices=COMPARED, help="methods to compare")
    parser.add_argument("--entries", type=int, help="entries a round, for every method")
    parser.add_argument("--rounds", type=int, help="rounds of every method")
    parser.add_argument("--name", help="name of the result file (default: quick, full or sizing)")
    parser.add_argument("--update", action="store_true", help="keep what the result file has of the other parts")
    parser.add_argument("--sizing", action="store_true", help="the parts that docs/SIZING.md is made of")
    options = parser.parse_args()
    options.only = options.only or (SIZING_PARTS if options.sizing else PARTS)
    options.methods = options.methods or (MODES if options.sizing else list(COMPARED))
    return options


if __name__ == "__main__":
    try:
        main()
    except NoServer as error:
        sys.exit(f"bench: {error}")
