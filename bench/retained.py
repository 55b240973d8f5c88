"""How long retention takes over a stream that every group has finished with, and what others who use the server notice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from redis import Redis

from bench.child import Child
from bench.idle_ticks import slowest_command, watch_slow_commands
from bench.prepared import GROUP, STREAM, PreparedFiles, Seed
from bench.target import Target
from demo.redis import RedisServer
from monitor.retained import Policy
from monitor.retention import Retention, Until
from shared.redis_client import ServerLink
from shared.retry import Deadline
from shared.settings import RedisSettings

LARGE_BYTES: Final = 100_000
LARGE_SHARE: Final = 500
"""For so many small entries one large one, in a stream of their own: as many would take 100 GB."""
SECOND: Final = Policy(1000, own_groups=(GROUP.decode(),))
LONGEST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class RetainedRun:
    """One run over entries that all may go, but for the last. `slices`: script runs; `slowest_ms`: of them, by SLOWLOG."""

    kind: str
    entries: int
    trimmed: int
    seconds: float
    slices: int
    slowest_command: str
    slowest_ms: float
    bystander: dict[str, float]


def measure_retention(files: PreparedFiles, entries: int) -> list[RetainedRun]:
    return [_small(files, entries), _large(max(entries // LARGE_SHARE, 10))]


def _small(files: PreparedFiles, entries: int) -> RetainedRun:
    with RedisServer(search=False) as server:
        target = Target(server.port, entries, indexed=False)
        target.create_groups_and_index()
        files.seed(server.port, Seed.ABANDONED, entries)
        return _measured(server.port, "tweets", entries)


def _large(entries: int) -> RetainedRun:
    with RedisServer(search=False) as server, Redis(port=server.port, socket_timeout=60) as client:
        first_ms = 1000 * int(time.time()) - 3_600_000
        for number in range(entries):
            client.execute_command("XADD", STREAM, f"{first_ms + number}-0", "f", b"x" * LARGE_BYTES)
        return _measured(server.port, f"{LARGE_BYTES // 1000} kB each", entries)


def _measured(port: int, kind: str, entries: int) -> RetainedRun:
    with Redis(port=port, socket_timeout=60) as client:
        client.xgroup_destroy(STREAM, GROUP)
        client.xgroup_create(STREAM, GROUP, "$")  # has finished with all that is there
        watch_slow_commands(client)
        with Child("bench.bystander", str(port)) as bystander:
            bystander.hear()
            bystander.tell("go")
            trimmed, seconds = asyncio.run(_retain(port))
            latencies = bystander.ask("stop")
        command, slowest_ms = slowest_command(client)
        slices = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        if client.xlen(STREAM) != 1:
            raise RuntimeError("retention left more than the last entry: this was no whole run")
    return RetainedRun(kind, entries, trimmed, seconds, slices, command, slowest_ms, latencies)


async def _retain(port: int) -> tuple[int, float]:
    link = ServerLink(RedisSettings("127.0.0.1", port, None, None, False, None), 2, 30.0)
    try:
        await link.call("PING")
        started_s = time.perf_counter()
        retained = await Retention(link, STREAM.decode(), SECOND).run(Until(link, Deadline.after(LONGEST_S)))
        return retained.trimmed, time.perf_counter() - started_s
    finally:
        await link.close()
