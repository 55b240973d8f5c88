"""One method in a process of its own: `python -m bench.worker METHOD TARGET`.

Gets ready (imports, connects, warms up on an empty group), says so, and at each line on stdin does its work
(once, for most: then nothing is pending any more) and answers with what that took.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict

from bench.child import say
from bench.meter import Meter
from bench.methods import METHODS
from bench.target import Target


async def work(name: str, target: Target) -> None:
    settle = await METHODS[name].prepare(target)
    meter = Meter(target)
    say("ready")
    while sys.stdin.readline():  # nothing else runs on this loop meanwhile
        with meter:
            await settle()
        say(asdict(meter.reading()))


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what a method prints is for people, not an answer
    asyncio.run(work(sys.argv[1], Target.from_json(sys.argv[2])))
