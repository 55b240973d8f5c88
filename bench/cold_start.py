"""A cold start: function_app imported and its first idle tick, beside importing two libraries alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from bench.child import PROJECT, bare_environment
from bench.target import Target
from demo.redis import RedisServer

FUNCTION_APP = """
import time
start = time.perf_counter()
import asyncio
import function_app
from azure.functions.timer import TimerRequest
async def main():
    imported = time.perf_counter()
    await function_app.monitor(TimerRequest())
    print(imported - start, time.perf_counter() - imported)
asyncio.run(main())
"""

LIBRARIES = """
import time
start = time.perf_counter()
import azure.functions, redis.asyncio
print(time.perf_counter() - start)
"""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Two fresh processes, one after the other; Python's own start is in neither number."""

    import_s: float
    first_tick_s: float
    libraries_s: float


def measure_cold_starts(rounds: int) -> list[ColdStart]:
    with RedisServer(search=True) as server:
        target = Target(server.port, 0, indexed=True)
        target.create_groups_and_index()
        _cold_start(target)  # writes the byte code, fills the page cache
        return [_cold_start(target) for _ in range(rounds)]


def _cold_start(target: Target) -> ColdStart:
    (libraries_s,) = _run(LIBRARIES, {})
    import_s, first_tick_s = _run(FUNCTION_APP, target.settings)
    return ColdStart(import_s, first_tick_s, libraries_s)


def _run(code: str, settings: dict[str, str]) -> list[float]:
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=bare_environment() | settings,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return [float(word) for word in finished.stdout.split()]
