"""Run the whole fault suite and print its table: `python -m tests.faults [--part NAME] [--scale 0.1]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import logging
import sys
import time

from demo.redis import RedisServer
from tests.faults.rows import ROWS
from tests.faults.runner import Result, Stage, markdown, play, versions, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--part", action="append", choices=[row.part for row in ROWS], help="only this row; repeatable")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of cases (default 1)")
    options = parser.parse_args()
    logging.getLogger("monitor").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    rows = [row for row in ROWS if not options.part or row.part in options.part]
    results: list[Result] = []
    started_s = time.monotonic()
    with RedisServer() as server, Stage(server) as stage:
        facts = {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "versions": versions(stage),
            "scale": options.scale,
        }
        for row in rows:
            cases, controls = row.cases(options.scale), row.controls(options.scale)
            result = asyncio.run(play(row, stage, cases, controls))
            results.append(result)
            _tell(result)
    facts["seconds"] = round(time.monotonic() - started_s)
    print("\n" + markdown(results, facts))
    if not options.part and options.scale == 1:
        write(results, facts)
    return 0 if all(result.holds for result in results) else 1


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
