"""The fullest second of a minute in which three janitor processes work under one rate limit, by the server's own word."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass

from redis.asyncio import Redis

from bench.child import PROJECT, bare_environment
from bench.prepared import PreparedFiles
from bench.target import Target
from demo.redis import RedisServer
from demo.window import most_in_a_second
from demo.witness import Witness, watching
from shared.settings import Settings

JANITORS = 3
SCHEDULE, BUDGET_S = "*/5 * * * * *", "4.9"
"""Many ticks in the minute, which begin together: that is when a limiter that does not share would show."""
FIRST_TICK_S = 6.0
"""Until it has begun in every process."""


@dataclass(frozen=True, slots=True)
class RateWindow:
    """`fullest_second`: the most that any second holds, wherever it begins; each entry counts when the server claimed it."""

    mode: str
    limit: int
    seconds: float
    taken_up: int
    fullest_second: int
    processed_by: list[int]
    """What each janitor's own reports add up to."""


def measure_rate_window(files: PreparedFiles, mode: str, limit: int, seconds: float) -> RateWindow:
    with RedisServer(search=False) as server:
        target = Target(server.port, int(limit * (seconds + 10)), indexed=False)
        target.create_groups_and_index()
        target.seed(files)
        return asyncio.run(_watched(target, mode, limit, seconds))


async def _watched(target: Target, mode: str, limit: int, seconds: float) -> RateWindow:
    environment = target.settings | {
        "SETTLE_MODE": mode,
        "RECOVERY_RATE_LIMIT": str(limit),
        "MONITOR_SCHEDULE": SCHEDULE,
        "SWEEP_BUDGET_SEC": BUDGET_S,
    }
    witness = Witness(Settings.from_env(environment).streams[0])
    async with Redis(port=target.port) as client, watching(client, witness):
        processes = [await _start(environment, f"janitor-{number}") for number in range(JANITORS)]
        await asyncio.sleep(FIRST_TICK_S + seconds)
        processed_by = [await _stopped(process) for process in processes]
    runs = witness.taken_up()
    return RateWindow(
        mode=mode,
        limit=limit,
        seconds=(runs[-1].last_ms - runs[0].first_ms) / 1_000,
        taken_up=sum(run.count for run in runs),
        fullest_second=most_in_a_second(runs),
        processed_by=processed_by,
    )


async def _start(environment: dict[str, str], consumer: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "monitor", "run", "--json"),
        cwd=PROJECT,
        env=bare_environment() | environment | {"MONITORING_CONSUMER_NAME": consumer},
        stdout=PIPE,
    )


async def _stopped(process: Process) -> int:
    """How many entries it processed, by its own reports."""
    process.send_signal(signal.SIGTERM)
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"a janitor ended with exit code {process.returncode}")
    return sum(json.loads(line).get("processed", 0) for line in told.splitlines())
