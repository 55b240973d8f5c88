"""Several janitors over one group, without a lock: a second app, or a timer whose lease was lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from demo.redis import RedisServer
from monitor.batch import Batch
from monitor.outcomes import Outcome
from shared.redis_client import Command, Reply, ServerLink
from shared.settings import StreamSettings
from tests import naive
from tests.checks import claimed_twice, entries_of, lost
from tests.conftest import Scene, Sweeper, Wire, raw_client
from tests.test_settle import candidates, settler

JANITORS, ENTRIES = 4, 400


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer", "keep"])
async def test_four_janitors_at_once_settle_each_entry_once(
    scene: Scene, sweep: Sweeper, mode: str, on_conflict: str
) -> None:
    scene.add_tweets(ENTRIES)
    scene.abandon()
    entries = entries_of(scene)
    janitors = [
        sweep.janitor(
            scene.settings(
                SETTLE_MODE=mode, PAGE_SIZE="50", ON_CONFLICT=on_conflict, MONITORING_CONSUMER_NAME=f"janitor-{number}"
            )
        )
        for number in range(JANITORS)
    ]
    reports = [report for (report,) in await asyncio.gather(*(janitor.tick() for janitor in janitors))]
    assert sum(report.processed + report.kept + report.superseded for report in reports) == ENTRIES
    assert [report.error for report in reports] == [None] * JANITORS
    assert (scene.pending(), len(scene.hashes()), lost(scene, entries)) == (0, ENTRIES, [])


async def test_four_janitors_under_one_name_settle_each_entry_once(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(ENTRIES)
    scene.abandon()
    janitors = [sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="50")) for _ in range(JANITORS)]
    reports = [report for (report,) in await asyncio.gather(*(janitor.tick() for janitor in janitors))]
    assert sum(report.processed for report in reports) == ENTRIES == len(scene.hashes())


async def _settled_at_once(
    server: RedisServer, scene: Scene, mode: str, min_idle_ms: int
) -> tuple[list[Batch], list[bytes], Counter[bytes]]:
    """Four settle the very same page of ten; what each did, what was claimed, how often each hash was written.

    A barrier holds each before its claim until all four have read the page.
    """
    scene.add_tweets(10)
    scene.abandon()
    page = candidates(scene)
    links = [ServerLink(scene.settings().redis, 4, 5.0) for _ in range(JANITORS)]
    claimed: list[bytes] = []
    written: Counter[bytes] = Counter()
    waiting, all_there = 0, asyncio.Event()

    async def meet(command: Command) -> None:
        nonlocal waiting
        if command[0] in ("XCLAIM", "EVALSHA") and not all_there.is_set():
            waiting += 1
            if waiting == JANITORS:
                all_there.set()
            await asyncio.wait_for(all_there.wait(), 5)

    def note(command: Command, reply: Reply) -> None:
        if command[0] == "XCLAIM":
            claimed.extend(reply)
        if command[0] == "HSET":
            written[bytes(command[1])] += 1  # type: ignore[arg-type]

    settles = []
    for number, link in enumerate(links):
        seen = Wire(link)
        seen.before, seen.after = meet, note
        settings: StreamSettings = replace(
            scene.settings().streams[0], consumer=f"janitor-{number}", min_idle_ms=min_idle_ms
        )
        settles.append(settler(mode, link, settings))
        settles[-1].batch_size = 10
    batches = list(await asyncio.gather(*(settle.settle(page) for settle in settles)))
    for link in links:
        await link.close()
    return batches, claimed, written


async def test_of_four_that_settle_the_same_page_one_gets_each_entry(
    server: RedisServer, scene: Scene, mode: str
) -> None:
    batches, claimed, written = await _settled_at_once(server, scene, mode, min_idle_ms=10_000)
    assert sum(batch.counts[Outcome.PROCESSED] for batch in batches) == 10
    assert sum(batch.lost for batch in batches) == 30
    assert claimed_twice(claimed) == 0
    assert max(written.values(), default=1) == 1


async def test_a_script_needs_no_minimum_idle_time_for_that(server: RedisServer, scene: Scene) -> None:
    """It reads, stores and acknowledges in one step."""
    batches, _, _ = await _settled_at_once(server, scene, "script", min_idle_ms=0)
    assert sum(batch.counts[Outcome.PROCESSED] for batch in batches) == 10


async def test_a_claim_without_the_minimum_idle_time_claims_entries_twice(server: RedisServer, scene: Scene) -> None:
    """Control: the same check with min idle 0 on the claim."""
    _, claimed, written = await _settled_at_once(server, scene, "gather", min_idle_ms=0)
    assert claimed_twice(claimed) > 0
    assert max(written.values()) > 1


def test_four_naive_janitors_claim_entries_twice(server: RedisServer, scene: Scene) -> None:
    """Control: candidates by idle time, the claim without it."""
    scene.add_tweets(10)
    ids = scene.abandon()
    claims = [
        entry_id for number in range(JANITORS) for entry_id in naive.claim_without_min_idle(scene, ids, f"n{number}")
    ]
    assert claimed_twice(claims) == 30


async def test_a_bad_entry_is_dead_lettered_by_one_of_four(scene: Scene, sweep: Sweeper, mode: str) -> None:
    for _ in range(30):
        scene.add("text", "no id")
    scene.abandon()
    janitors = [sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="10")) for _ in range(JANITORS)]
    reports = [report for (report,) in await asyncio.gather(*(janitor.tick() for janitor in janitors))]
    assert sum(report.dead_lettered for report in reports) == len(scene.dead_letters()) == 30


async def test_a_live_consumer_keeps_the_entries_that_it_works_on(
    server: RedisServer, scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """It reads and acknowledges meanwhile; nothing of it is idle for long enough to be taken."""
    scene.add_tweets(200)
    scene.abandon()
    scene.add_tweets(100, first=1000)
    client = raw_client(server)
    alive = scene.deliver("alive")
    janitors = [sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="20")) for _ in range(JANITORS)]
    await asyncio.gather(*(janitor.tick() for janitor in janitors))
    assert [row[0] for row in scene.pending_rows() if row[1] == b"alive"] == alive
    assert client.execute_command("XACK", scene.stream, scene.group, *alive) == 100
    assert not scene.hash(1000)
    client.close()
