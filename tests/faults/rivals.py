"""Others work on the same entries: more janitors, a slow consumer that is alive, consumers that read while they are removed, and
consumers that store a newer version."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import redis

from monitor.scripts import store_script
from shared.settings import Settings
from tests.faults.invariants import look, undrained, violations
from tests.faults.kills import WRITES, boundaries, held_at
from tests.faults.proxy import Barrier
from tests.faults.runner import Case, Make, Row, Stage, aftermath
from tests.faults.worlds import GROUP, OLD_MS, Seeded, World

JANITORS = 4
SLOW = b"slow"
FINISHED_AT_A_TIME = 20


# --- several janitors and a slow live consumer ------------------------------------------------------------------------------


async def four_janitors(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """Four janitors at once over `count` entries: half are abandoned, half in the hands of a consumer that is slow and alive.

    A tenth of the abandoned ones look dead and are not: their consumer finishes them during the sweep.
    """
    for mode in stage.modes:
        world = stage.world(mode, "overwrite", PAGE_SIZE="250", CONCURRENCY="4", SWEEP_BUDGET_SEC="19")
        yield Case(f"{mode}, {count:,} entries", await _one_contest(world, make, count), size=count)


async def _one_contest(world: World, make: Make, count: int) -> list[str]:
    world.reset()
    tweets = [world.tweet(number) for number in range(count)]
    for at in range(0, count, 500):
        world.abandon(tweets[at : at + 500])
    live, looking_dead = tweets[count // 2 :], tweets[: count // 20]
    _hand_over(world, live, idle_ms=0)
    _hand_over(world, looking_dead, idle_ms=OLD_MS)
    writes_before = _calls_of_hset(world.raw)
    janitors = [make(_named(world.settings(), number)) for number in range(JANITORS)]
    try:
        finishing = asyncio.ensure_future(_finish(world, [*looking_dead, *live]))
        ticks = await asyncio.gather(*(janitor.tick() for janitor in janitors))
        refused = await finishing
    finally:
        await asyncio.gather(*(janitor.close() for janitor in janitors))
    reports = [report for tick in ticks for report in tick]
    world.reports += reports
    found = violations(world, look(world))
    stolen = [entry for entry in refused if entry in live]
    if stolen:
        found.append(f"{len(stolen)} entries in the hands of a live consumer were acknowledged by a janitor")
    abandoned = count - len(live)
    settled = sum(report.processed for report in reports) + len(looking_dead) - (len(refused) - len(stolen))
    if settled != abandoned:
        found.append(f"{abandoned} entries were abandoned, {settled} were settled, each by one")
    writes = _calls_of_hset(world.raw) - writes_before
    most = count + len(looking_dead)  # those may be written twice: by the janitor and by their consumer
    if writes > most:
        found.append(f"{writes} hashes written, at most {most} were needed: entries were claimed twice")
    found += [f"a janitor ended early: {report}" for report in reports if report.error or not report.complete]
    return found + undrained(world, look(world))


def _hand_over(world: World, entries: list[Seeded], idle_ms: int) -> None:
    for at in range(0, len(entries), 500):
        ids = [entry.entry_id for entry in entries[at : at + 500]]
        world.must(("XCLAIM", world.stream, GROUP, SLOW, 0, *ids, "IDLE", idle_ms, "JUSTID"))


def _named(settings: Settings, number: int) -> Settings:
    (stream,) = settings.streams
    return dataclasses.replace(settings, streams=(dataclasses.replace(stream, consumer=f"janitor-{number}"),))


async def _finish(world: World, entries: list[Seeded]) -> list[Seeded]:
    """The slow consumer: stores and acknowledges a few at a time; which of them somebody else had acknowledged."""
    refused = []
    for at in range(0, len(entries), FINISHED_AT_A_TIME):
        some = entries[at : at + FINISHED_AT_A_TIME]
        world.must(*(("HSET", world.key(entry), *entry.fields) for entry in some))
        replies = world.must(*(("XACK", world.stream, GROUP, entry.entry_id) for entry in some))
        refused += [entry for entry, count in zip(some, replies, strict=True) if not count]
        await asyncio.sleep(0)
    return refused


def _calls_of_hset(raw: redis.Redis) -> int:
    text: bytes = raw.execute_command("INFO", "commandstats")
    for line in text.splitlines():
        if line.startswith(b"cmdstat_hset:"):
            return int(line.split(b"calls=", 1)[1].split(b",", 1)[0])
    return 0


# --- consumers that read while they are removed -----------------------------------------------------------------------------


async def reaped_while_reading(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """A consumer that looked dead reads an entry between the janitor's look and its removal (or at another boundary)."""
    share = max(count // len(stage.modes), 1)
    for mode in stage.modes:
        world = stage.world(mode, "overwrite", REAP_CONSUMERS_AFTER_SEC="1")
        for number in range(share):
            after_look = number % 3 != 2
            found = await _reading_while_reaped(world, make, after_look, number)
            yield Case(f"{mode}, round {number}, {'after' if after_look else 'before'} the look", found)


async def _reading_while_reaped(world: World, make: Make, after_look: bool, number: int) -> list[str]:
    world.reset()
    (entry,) = tweets = [world.tweet(number)]
    consumer = f"sleepy-{number}"
    world.must(
        ("XGROUP", "CREATECONSUMER", world.stream, GROUP, consumer),
        ("XADD", world.stream, entry.entry_id, *entry.fields),
    )
    await asyncio.sleep(0.002)  # idle for the millisecond that is asked for below
    barrier = Barrier(1, after_look, frozenset({b"XINFO"}))

    def make_eager(settings: Settings) -> object:
        (stream,) = settings.streams
        return make(dataclasses.replace(settings, streams=(dataclasses.replace(stream, reap_after_ms=1),)))

    _, running = await held_at(world, make_eager, barrier, _port(world))  # type: ignore[arg-type]
    world.must(("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", 1, "STREAMS", world.stream, ">"))
    await asyncio.sleep(0.002)
    barrier.release()
    await running
    world.entries += tweets
    found = [] if barrier.reached.is_set() else ["the janitor did not look at the consumers"]
    pending = look(world).pending
    if entry.entry_id not in pending:
        found.append("delivered, and gone from the pending entries list: destroyed with its consumer")
    else:
        world.must(("XCLAIM", world.stream, GROUP, consumer, 0, entry.entry_id, "IDLE", OLD_MS, "JUSTID"))
    return found + await aftermath(world)


def _port(world: World) -> int:
    return int(world.environment["REDIS_HOST"].rpartition(":")[2])


# --- stale against newer ----------------------------------------------------------------------------------------------------


async def stale_against_newer(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """While a sweep that has the older entry in hand is held, a consumer stores the newer one of the same id by store.lua."""
    share = max(count // len(stage.modes), 1)
    for mode in stage.modes:
        world = stage.world(mode, "newer")
        places = await boundaries(stage, make, world, WRITES)
        for number in range(share):
            at, after = places[number % len(places)]
            yield Case(f"{mode}, race {number} at {at, after}", await _race(world, make, at, after))


async def _race(world: World, make: Make, at: int, after: bool) -> list[str]:
    world.seed_a_bit_of_everything()
    older = [world.tweet(f"race-{number}", dropped="by the newer") for number in range(4)]
    world.abandon(older)
    newer = [world.tweet(f"race-{number}") for number in range(4)]
    barrier = Barrier(at, after)
    _, running = await held_at(world, make, barrier, _port(world))
    _consume(world, newer)
    barrier.release()
    await running
    world.entries += newer
    seen = look(world)
    found = [
        f"{entry.entry_id.decode()}: the older entry replaced what it had stored, or left fields behind"
        for entry in newer
        if seen.hashes.get(world.key(entry)) != {**entry.content, b"stream_entry_id": entry.entry_id}
    ]
    return found + await aftermath(world)


def _consume(world: World, entries: list[Seeded]) -> None:
    """A consumer that follows the same rule: reads, stores with store.lua, acknowledges."""
    script = store_script().text
    world.must(
        *(("XADD", world.stream, entry.entry_id, *entry.fields) for entry in entries),
        ("XREADGROUP", "GROUP", GROUP, "quick", "COUNT", len(entries), "STREAMS", world.stream, ">"),
        *(("EVAL", script, 1, world.key(entry), "newer", entry.entry_id, *entry.fields) for entry in entries),
        ("XACK", world.stream, GROUP, *(entry.entry_id for entry in entries)),
    )


ROWS = [
    Row(
        "four janitors and a slow live consumer",
        "four",
        four_janitors,
        full=10_000,
        quick=2_000,
        control={"min_idle_zero": True},
        control_full=2_000,
        control_quick=1_000,
        each_control_is_caught=True,
    ),
    Row(
        "consumers reaped while they read",
        "reap",
        reaped_while_reading,
        full=1_000,
        quick=60,
        control={"check_then_delete": True},
        control_full=120,
        control_quick=24,
    ),
    Row(
        "stale against newer writes",
        "stale",
        stale_against_newer,
        full=1_000,
        quick=80,
        control={"no_guard": True},
        control_full=100,
        control_quick=40,
    ),
]
