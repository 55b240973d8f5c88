"""Run the whole fault suite and print its table: `python -m tests.faults [--part NAME] [--scale 0.1] [--jobs 2]`."""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from demo.redis import RedisServer
from tests.faults.rows import ROWS, play_part
from tests.faults.runner import Result, Stage, markdown, versions, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--part", action="append", choices=[row.part for row in ROWS], help="only this row; repeatable")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of cases (default 1)")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows played at a time (default 2)"
    )
    options = parser.parse_args()
    parts = [row.part for row in ROWS if not options.part or row.part in options.part]
    started_s = time.monotonic()
    results = _play_all(parts, options.scale, options.jobs)
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": _versions(),
        "scale": options.scale,
        "seconds": round(time.monotonic() - started_s),
    }
    print("\n" + markdown(results, facts))
    if not options.part and options.scale == 1:
        write(results, facts)
    return 0 if all(result.holds for result in results) else 1


def _play_all(parts: list[str], scale: float, jobs: int) -> list[Result]:
    """Each row on a server of its own, ``jobs`` rows at a time, told as they end and given back in the table's order."""
    results: dict[str, Result] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(play_part, part, scale) for part in parts]):
            result = done.result()
            results[result.part] = result
            _tell(result)
    return [results[part] for part in parts]


def _versions() -> dict[str, str]:
    with RedisServer() as server, Stage(server) as stage:
        return versions(stage)


def _tell(result: Result) -> None:
    word = "holds" if result.holds else "DOES NOT HOLD"
    print(
        f"{result.part}: {word}; {result.cases:,} cases, {result.violations} violations; control caught "
        f"{result.controls_caught} of {result.control_runs}; {result.seconds:.1f} s",
        flush=True,
    )
    for line in result.notes:
        print(f"    {line}", flush=True)
    for line in result.shown:
        print(f"    {line}", flush=True)
    for line in result.caught:
        print(f"    control: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
