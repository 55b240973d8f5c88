"""Somebody is killed at each command boundary of a sweep: the janitor, its server, or the primary of a pair."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import redis

from monitor.janitor import Janitor
from monitor.report import SweepReport
from tests.faults.invariants import look
from tests.faults.proxy import Barrier, Lag, Proxy
from tests.faults.runner import Case, Make, Row, Stage, aftermath, spread, sweep, sweep_through
from tests.faults.worlds import Kind, World
from tests.faults.zygote import Zygote

RULES = ("overwrite", "newer")
REACH_TIMEOUT_S = 10.0
SYNC_AT_ONCE = ("--repl-diskless-sync", "no")  # else it begins at the next second
PARTS = {"all": 0, "nothing more": 0, "a few bytes more": 200}
"""What a replica got of what the sweep wrote; in bytes."""
WRITES = {b"XCLAIM", b"EVALSHA", b"HSET", b"WAIT", b"XACK", b"XADD", b"HDEL"}


async def boundaries(stage: Stage, make: Make, world: World, only: set[bytes] | None = None) -> list[tuple[int, bool]]:
    """Every place at which a sweep of this world can be held: before each command, and after its reply."""
    for plan in (Barrier(0), Barrier(0)):  # the first creates the index and loads the scripts
        world.seed_a_bit_of_everything()
        await sweep_through(plan, _port(world), world, make)
    numbers = [at + 1 for at, name in enumerate(plan.commands) if only is None or name in only]
    return [(number, after) for number in numbers for after in (False, True)]


def _port(world: World) -> int:
    return int(world.environment["REDIS_HOST"].rpartition(":")[2])


def spread_over(boundaries: list[tuple[int, bool]], count: int) -> list[tuple[int, bool]]:
    """`count` of them, evenly; from the beginning again if there are fewer."""
    rounds, rest = divmod(count, len(boundaries))
    return (
        boundaries * rounds + [boundaries[at] for at in spread(len(boundaries), rest)] if rest else boundaries * rounds
    )


def _label(mode: str, rule: str, number: int, after: bool) -> str:
    return f"{mode} {rule}, {'after the reply to' if after else 'before'} command {number}"


# --- the janitor ------------------------------------------------------------------------------------------------------------


async def janitor_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """A janitor in a process of its own, SIGKILLed while the proxy holds the command or its reply."""
    variants = [(mode, rule) for mode in stage.modes for rule in RULES]
    with Zygote() as zygote:
        for mode, rule in variants:
            world = stage.world(mode, rule)
            places = await boundaries(stage, make, world)
            for number, after in spread_over(places, max(count // len(variants), 1)):
                world.seed_a_bit_of_everything()
                world.has_untold_sweeps = True
                reached = await _kill_at(zygote, stage, world, make, Barrier(number, after))
                found = await aftermath(world)
                if reached:
                    yield Case(_label(mode, rule, number, after), found)


async def _kill_at(zygote: Zygote, stage: Stage, world: World, make: Make, barrier: Barrier) -> bool:
    """Whether the sweep came that far; concurrent batches may make one sweep shorter than another."""
    flaws = None if make is Janitor else make.__dict__["switches"]
    async with Proxy(stage.server.port, barrier) as proxy:
        environment = {**world.environment, "REDIS_HOST": f"127.0.0.1:{proxy.port}"}
        pid = zygote.start(environment, flaws)
        ended, reached = (asyncio.ensure_future(waiting) for waiting in (zygote.ended(), barrier.reached.wait()))
        await asyncio.wait((ended, reached), return_when=asyncio.FIRST_COMPLETED, timeout=REACH_TIMEOUT_S)
        if not ended.done():
            os.kill(pid, signal.SIGKILL)
        await ended
        reached.cancel()
    return barrier.reached.is_set()


# --- the server -------------------------------------------------------------------------------------------------------------


async def held_at(
    world: World, make: Make, barrier: Barrier, port: int, **changes: str
) -> tuple[bool, asyncio.Task[SweepReport]]:
    """A sweep that has come to the barrier, or ended before it; the caller lets it go on."""

    async def through() -> SweepReport:
        async with Proxy(port, barrier) as proxy:
            return await sweep(world, make, proxy.port, **changes)

    running = asyncio.ensure_future(through())
    reached = asyncio.ensure_future(barrier.reached.wait())
    await asyncio.wait((running, reached), return_when=asyncio.FIRST_COMPLETED, timeout=REACH_TIMEOUT_S)
    reached.cancel()
    return barrier.reached.is_set(), running


async def server_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """SIGKILL to a server that writes each command to disk; it comes back while the sweep is still on."""
    server = stage.new_server("--appendonly", "yes", "--appendfsync", "always")
    raw = stage.looking_at(server)
    variants = [(mode, RULES[at % 2]) for at, mode in enumerate(stage.modes)]
    for mode, rule in variants:
        world = stage.world(mode, rule, raw)
        places = await boundaries(stage, make, world)
        for number, after in spread_over(places, max(count // len(variants), 1)):
            world.seed_a_bit_of_everything()
            barrier = Barrier(number, after)
            reached, running = await held_at(world, make, barrier, server.port)
            if reached:
                server.kill()
                barrier.release()
                await asyncio.to_thread(server.start)
            await running
            found = await aftermath(world)
            if reached:
                yield Case(_label(mode, rule, number, after), found)


# --- the primary ------------------------------------------------------------------------------------------------------------


async def primary_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """The primary is killed at a barrier, and a replica that got only a part of its writes, to the byte, is promoted.

    On one server hash before acknowledgement is enough, whatever part it got: it is a prefix.
    """
    for mode in stage.modes:
        async for case in _fail_overs(stage, make, mode, count // len(stage.modes)):
            yield case


async def primary_killed_after_wait(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """With ACK_REPLICAS=1 more holds: what the primary saw acknowledged is stored on the replica, and needs no prefix."""
    async for case in _fail_overs(stage, make, "gather", count, ACK_REPLICAS="1"):
        yield case


async def _fail_overs(stage: Stage, make: Make, mode: str, count: int, **changes: str) -> AsyncIterator[Case]:
    places = await boundaries(stage, make, stage.world(mode, "overwrite"), WRITES)
    for at in spread(len(places), max(count // len(PARTS), 1)):
        for part in PARTS:
            yield await _fail_over(stage, make, mode, *places[at], part, **changes)


async def _fail_over(stage: Stage, make: Make, mode: str, at: int, after: bool, part: str, **changes: str) -> Case:
    primary, replica = stage.new_server(*SYNC_AT_ONCE), stage.new_server()
    raw, other = stage.looking_at(primary), stage.looking_at(replica)
    lag = Lag()
    async with Proxy(primary.port, lag) as replication:
        world = stage.world(mode, "overwrite", raw, INDEX_SCHEMA="id TEXT", **changes)
        world.seed_a_bit_of_everything()
        await asyncio.to_thread(_follow, other, replication.port)
        await asyncio.to_thread(_catch_up, raw)
        if part != "all":
            lag.hold_after(PARTS[part])
        barrier = Barrier(at, after)
        _, running = await held_at(world, make, barrier, primary.port)
        if part == "all":
            await asyncio.to_thread(_catch_up, raw)
        acknowledged = _acknowledged(world)
        primary.kill()
    barrier.release()
    running.cancel()  # all it could still do is to wait for a server that is gone
    await asyncio.gather(running, return_exceptions=True)
    other.execute_command("REPLICAOF", "NO", "ONE")
    found = await _promises_of_the_promoted(world, other, replica.port, acknowledged if changes else set())
    for server in (primary, replica):
        server.stop()
    return Case(f"{_label(mode, 'overwrite', at, after)}, the replica got {part}", found)


def _follow(replica: redis.Redis, port: int) -> None:
    replica.execute_command("REPLICAOF", "127.0.0.1", port)
    deadline = time.monotonic() + REACH_TIMEOUT_S
    while b"master_link_status:up" not in replica.execute_command("INFO", "replication"):
        assert time.monotonic() < deadline, "the replica did not come into step"
        time.sleep(0.01)


def _catch_up(primary: redis.Redis) -> None:
    with primary.client() as one:  # WAIT is about the writes of its own connection
        one.execute_command("SET", "in-step", "1")
        assert one.execute_command("WAIT", 1, 10_000) == 1


def _acknowledged(world: World) -> set[bytes]:
    pending = look(world).pending
    return {entry.entry_id for entry in world.entries if entry.entry_id not in pending and entry.kind is not Kind.GONE}


async def _promises_of_the_promoted(world: World, raw: redis.Redis, port: int, acknowledged: set[bytes]) -> list[str]:
    world.raw, world.environment = raw, {**world.environment, "REDIS_HOST": f"127.0.0.1:{port}", "ACK_REPLICAS": "0"}
    world.has_untold_sweeps = True
    seen = look(world)
    kept = {entry.entry_id for entry in world.entries if world.key(entry) in seen.hashes} | set(seen.letters)
    found = [f"{entry_id.decode()}: acknowledged, and the replica does not hold it" for entry_id in acknowledged - kept]
    return found + await aftermath(world)


ROWS = [
    Row(
        "janitor killed with SIGKILL at each command boundary",
        "kill",
        janitor_killed,
        full=1_200,
        quick=120,
        control={"ack_first": True},
        control_full=120,
        control_quick=60,
    ),
    Row(
        "server killed with SIGKILL, AOF on, restarted",
        "crash",
        server_killed,
        full=60,
        quick=8,
        control={"ack_first": True},
        control_full=60,
        control_quick=30,
    ),
    Row(
        "primary killed, replica promoted",
        "failover",
        primary_killed,
        full=60,
        quick=6,
        control={"ack_first": True},
        control_full=60,
        control_quick=18,
    ),
    Row(
        "primary killed, replica promoted, ACK_REPLICAS=1",
        "wait",
        primary_killed_after_wait,
        full=60,
        quick=6,
        control={"no_wait": True},
        control_full=30,
        control_quick=10,
    ),
]
