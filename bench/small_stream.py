"""A stream of ten entries beside one of a million, in the same ticks: how soon is the small one clean?"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.child import Child
from bench.prepared import GROUP, PREFIX, STREAM, PreparedFiles
from bench.target import Part, Target
from demo.redis import RedisServer

SMALL_ENTRIES = 10
MOST_TICKS = 5
LOOKED_EVERY_S = 0.002


@dataclass(frozen=True, slots=True)
class SmallStream:
    """`clean_after_s`: from the first tick's begin until nothing of the small stream was pending; ticks follow at once."""

    mode: str
    large_entries: int
    small_entries: int
    ticks: int
    clean_after_s: float
    first_tick_s: float
    large_left: int
    """Of the large stream still pending when the last of these ticks had ended."""


def measure_small_stream(files: PreparedFiles, mode: str, large_entries: int) -> SmallStream:
    """Indexed, and the large stream is named first, so that nothing is made easy for the small one."""
    with RedisServer(search=True) as server:
        parts = (
            Part(server.port, 0, large_entries, "large", PREFIX.decode()),
            Part(server.port, large_entries, SMALL_ENTRIES, STREAM.decode(), PREFIX.decode()),
        )
        target = Target(server.port, large_entries + SMALL_ENTRIES, indexed=True, parts=parts)
        target.create_groups_and_index()
        with Child("bench.worker", f"{mode}-one-stream", target.to_json()) as worker:
            worker.hear()
            target.seed(files)
            return _watched(target, mode, worker)


def _watched(target: Target, mode: str, worker: Child) -> SmallStream:
    large, small = target.parts
    ticks_s: list[float] = []
    clean_at: float | None = None
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as pool, target.client() as client:
        while clean_at is None and len(ticks_s) < MOST_TICKS:
            tick = pool.submit(worker.ask, "go")
            while clean_at is None and not tick.done():
                time.sleep(LOOKED_EVERY_S)
                if not client.xpending(small.stream, GROUP)["pending"]:
                    clean_at = time.perf_counter()
            ticks_s.append(tick.result()["seconds"])
    if clean_at is None:
        raise RuntimeError(f"the small stream was not clean after {MOST_TICKS} ticks")
    return SmallStream(
        mode=mode,
        large_entries=large.entries,
        small_entries=small.entries,
        ticks=len(ticks_s),
        clean_after_s=clean_at - begin,
        first_tick_s=ticks_s[0],
        large_left=target.pending_of(large),
    )
