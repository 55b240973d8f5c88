"""A Redis Cluster in the midst of a sweep: a master is killed, with its replica in step or behind; slots move."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.crc import key_slot

from demo.cluster import ClusterNode, RedisCluster
from monitor.janitor import Janitor
from shared.cluster import ClusterLink
from shared.settings import Settings
from tests.faults.runner import Case, Make, Row, Stage, Sweeper, aftermath, sweep
from tests.faults.worlds import Kind, World, new_world
from tests.sharded import client_of

HEALTHY = 24
"""Enough for hashes on every shard and for several batches."""
SHARD_TIMES = {
    "SWEEP_BUDGET_SEC": "45",  # the sweep is still on when the replica is promoted, also on a busy machine
    "MONITOR_SCHEDULE": "0 * * * * *",
}
MORE_THAN_BUFFERS = 64_000_000
"""In bytes; Linux holds up to 36 MB between two processes if asked for no more than usual."""
_names = itertools.count(1)


# --- the janitor, watched ---------------------------------------------------------------------------------------------------

Sent = tuple[int, frozenset[str]]
"""A port, and the names of the commands that go there in one write."""


class Watched:
    """A janitor's maker whose link tells of all that it sends, before and after the server's answer."""

    def __init__(self, make: Make, tell: Callable[[Sent, bool], Awaitable[None]]) -> None:
        self._make, self._tell = make, tell

    def __call__(self, settings: Settings) -> Sweeper:
        janitor = self._make(settings)
        link: ClusterLink = janitor._link  # type: ignore[attr-defined]
        send = link._sent_to

        async def watched(route: Any, commands: Sequence[Any], replicas: int) -> list[Any]:
            sent = (route.address[1], frozenset(str(command[0]) for command in commands))
            await self._tell(sent, False)
            replies = await send(route, commands, replicas)
            await self._tell(sent, True)
            return replies

        link._sent_to = watched  # type: ignore[method-assign]
        return janitor


# --- a master is killed -----------------------------------------------------------------------------------------------------


STORING = frozenset(("HSET", "EVALSHA", "EVAL"))
"""How gather stores by one rule or the other; a place calls all of them HSET."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose master is killed, and where in the sweep."""

    victim: str
    """The shard of the stream, of the dead letters, or one that has nothing but hashes."""
    command: str
    after: bool
    behind: str = ""
    """Only once this command was sent."""
    mode: str = "gather"

    @property
    def commands(self) -> frozenset[str]:
        return STORING if self.command == "HSET" else frozenset((self.command,))

    def __str__(self) -> str:
        behind = f" behind {self.behind}" if self.behind else ""
        return f"{self.mode}, the master of the {self.victim}, {'after' if self.after else 'before'} {self.command}{behind}"


PLACES = (
    Place("hashes", "XACK", after=True, behind="HSET"),
    Place("stream", "XCLAIM", after=True),
    Place("stream", "EVALSHA", after=True, mode="script"),
    Place("letters", "XACK", after=True, behind="XADD"),
    Place("hashes", "HSET", after=True),
    Place("hashes", "HSET", after=False),
    Place("letters", "XADD", after=True),
    Place("letters", "XADD", after=False),
    Place("stream", "XACK", after=False),
    Place("stream", "XACK", after=True),
    Place("stream", "XCLAIM", after=False),
    Place("stream", "EVALSHA", after=False, mode="script"),
    Place("letters", "XADD", after=True, mode="script"),
    Place("letters", "XADD", after=False, mode="script"),
)
CASES = (
    *((place, "overwrite", True) for place in PLACES),
    *((place, "keep", True) for place in PLACES if place.victim == "hashes"),
    *((place, "newer", False) for place in PLACES),
)
"""The place, the rule, and whether the replica is behind; first those where the most can go wrong."""
WORLDS = {(place.mode, rule) for place, rule, _ in CASES}


@dataclass(frozen=True, slots=True)
class ShardedWorld:
    """A world on a cluster, and on which shard its parts lie."""

    world: World
    cluster: RedisCluster

    def master(self, part: str) -> ClusterNode:
        stream, letters = (self.cluster.master_of(key) for key in (self.world.stream, self.world.dead_stream))
        if part == "hashes":
            return next(node for node in self.cluster.masters() if node not in (stream, letters))
        return stream if part == "stream" else letters


def _world_on(cluster: RedisCluster, mode: str, rule: str) -> ShardedWorld:
    """For gather stream, dead letters and some hashes lie on three shards, else all on one by a common hash tag."""
    names = (f"f{os.getpid()}-shard{number}" for number in _names)
    if mode != "gather":
        stream = f"{{{next(names)}}}"
    else:
        stream = next(name for name in names if cluster.master_of(name) is not cluster.master_of(f"{name}:dead"))
    naming = {"STREAM_NAME": stream, "HASH_PREFIX": f"{stream}:t:", "INDEX_SCHEMA": "off", "REDIS_CLUSTER": "true"}
    world = new_world(client_of(cluster), cluster.port, mode, rule, **{**SHARD_TIMES, **naming})
    return ShardedWorld(world, cluster)


def _store_all_but_acknowledge_none(world: World) -> None:
    """As a consumer that then crashed: where the hash is kept, the sweep has nothing to write that WAIT could confirm."""
    # The world was just seeded: whose master is where is known, and no node that is stopped need be asked.
    healthy = {world.key(entry): entry for entry in world.entries if entry.kind is Kind.HEALTHY}
    world.must(*(("HSET", key, *entry.fields) for key, entry in healthy.items()))


class Kill:
    """Kills a master at the ``at``-th time that the sweep comes to a place; 0 only counts how often it comes there."""

    def __init__(self, place: Place, port: int | None, at: int, kill: Callable[[], None]) -> None:
        self.count = 0
        self.has_come = asyncio.Event()
        self._place, self._port, self._at, self._kill = place, port, at, kill
        self._seen: set[str] = set()

    async def tell(self, sent: Sent, after: bool) -> None:
        port, names = sent
        place = self._place
        is_there = (
            not names.isdisjoint(place.commands)
            and port == self._port
            and (not place.behind or place.behind in self._seen)
        )
        if after:
            self._seen |= names | ({"HSET"} if names & STORING else set())
        if is_there and after is place.after:
            self.count += 1
            if self.count == self._at:
                self._kill()
                self.has_come.set()


def _fall_behind(cluster: RedisCluster, master: ClusterNode, replica: ClusterNode) -> None:
    """The replica stays connected, but gets nothing of what is written from here on, before its master is gone."""
    key = cluster.tag_on(master)  # before: it might be the replica that the cluster is asked through
    os.kill(replica.server.pid, signal.SIGSTOP)
    # Fills the buffers of the system on the way to it: what follows stays in the master's memory.
    master.call("EVAL", "redis.call('SET', KEYS[1], string.rep('x', ARGV[1]))", 1, key, MORE_THAN_BUFFERS)


async def master_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """The cluster promotes the replica in the midst of the sweep; what was acknowledged has to be there."""
    with RedisCluster(search=False) as cluster:
        worlds = {(mode, rule): _world_on(cluster, mode, rule) for mode, rule in WORLDS}
        for place, rule, is_behind in itertools.islice(itertools.cycle(CASES), count):
            case = await _master_killed_at(worlds[place.mode, rule], make, place, is_behind)
            if case is not None:
                yield case


async def _master_killed_at(sharded: ShardedWorld, make: Make, place: Place, is_behind: bool) -> Case | None:
    """None if a sweep like this one never comes to that place."""
    world, cluster = sharded.world, sharded.cluster
    victim = sharded.master(place.victim)
    port = victim.port if place.command != "XACK" else sharded.master("stream").port
    whole = Kill(place, port, 0, lambda: None)
    world.seed_a_bit_of_everything(HEALTHY)
    await sweep(world, Watched(make, whole.tell))
    if not whole.count:
        return None
    world.seed_a_bit_of_everything(HEALTHY)
    await asyncio.to_thread(cluster.wait_until_ok)
    replica = cluster.replica_of(victim)
    label = f"{place}, its replica {'behind' if is_behind else 'in step'}"
    kill = Kill(place, port, (whole.count + 1) // 2, lambda: cluster.kill(victim))
    try:
        if is_behind:
            _fall_behind(cluster, victim, replica)
        if world.on_conflict == "keep":
            _store_all_but_acknowledge_none(world)
        # REDIS_HOST is the victim's: the others are known from it.
        running = asyncio.ensure_future(sweep(world, Watched(make, kill.tell), victim.port))
        reached = asyncio.ensure_future(kill.has_come.wait())
        await asyncio.wait((running, reached), return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not kill.has_come.is_set():  # what is not confirmed is not acknowledged: it never came there
            label += ", at the end"
            cluster.kill(victim)
    finally:
        if is_behind:
            os.kill(replica.server.pid, signal.SIGCONT)
    await asyncio.to_thread(cluster.wait_until_ok)
    await running
    cluster.revive(victim)
    await asyncio.to_thread(cluster.wait_until_ok)
    return Case(label, await aftermath(world))


# --- slots move -------------------------------------------------------------------------------------------------------------

HASHES_MOVED = 4


class Moves:
    """Carries out its steps one after the other, each before something that the sweep sends, spread over the sweep."""

    def __init__(self, steps: Sequence[Callable[[], object]], sends: int) -> None:
        self.count = 0
        self._steps = deque(steps)
        self._every = max(sends // (len(steps) + 1), 1)
        self._one_at_a_time = asyncio.Lock()

    async def tell(self, sent: Sent, after: bool) -> None:
        if after:
            return
        self.count += 1
        if self.count % self._every == 0:
            async with self._one_at_a_time:
                if self._steps:
                    await asyncio.to_thread(self._steps.popleft())  # what else is under way goes on meanwhile

    def finish(self) -> int:
        """Carry out what is left; how many steps that were."""
        left = len(self._steps)
        while self._steps:
            self._steps.popleft()()
        return left


def _steps(sharded: ShardedWorld) -> list[Callable[[], object]]:
    """The stream's slot, the dead letters' and those of some hashes move: all are begun, some keys go, all are finished."""
    world, cluster = sharded.world, sharded.cluster
    hashes = [world.key(entry) for entry in world.entries[: HEALTHY : HEALTHY // HASHES_MOVED]]
    slots = {key_slot(key) for key in (world.stream.encode(), world.dead_stream.encode(), *hashes)}
    stages: tuple[Callable[[int], object], ...] = (
        lambda slot: cluster.begin_move(slot, _elsewhere(cluster, slot)),
        lambda slot: cluster.migrate_keys(slot, 1),
        lambda slot: cluster.migrate_keys(slot, 2),
        cluster.finish_move,
    )
    return [partial(stage, slot) for stage in stages for slot in sorted(slots)]


def _elsewhere(cluster: RedisCluster, slot: int) -> ClusterNode:
    masters = list(cluster.masters().items())
    at = next(at for at, (_, served) in enumerate(masters) if any(slot in part for part in served))
    return masters[(at + 1) % len(masters)][0]


async def slots_moved(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """Resharding goes on during the sweep: it follows every redirect, loses nothing, and has nothing to report."""
    with RedisCluster(search=False) as cluster:
        worlds = [_world_on(cluster, mode, "newer") for mode in ("gather", "auto")]
        for number, sharded in enumerate(itertools.islice(itertools.cycle(worlds), count)):
            world = sharded.world
            world.seed_a_bit_of_everything(HEALTHY)
            whole = Moves([], 0)
            await sweep(world, Watched(make, whole.tell))
            world.seed_a_bit_of_everything(HEALTHY)
            moves = Moves(_steps(sharded), whole.count)
            report = await sweep(world, Watched(make, moves.tell))
            left = moves.finish()
            found = []
            if make is Janitor and (report.error or report.failed or not report.complete):
                found.append(f"the sweep took the move for a failure: {report}")
            label = f"{'a common hash tag' if number % 2 else 'slots of their own'}, ended as {report.settle_mode}"
            yield Case(f"{label}, move {number}, {left} steps after the sweep", found + await aftermath(world))


ROWS = [
    Row(
        "a cluster's master killed mid-sweep, its replica behind or in step",
        "shard",
        master_killed,
        full=len(CASES),
        quick=3,
        control={"no_wait": True},
        control_full=12,
        control_quick=2,
    ),
    Row(
        "slots of a cluster moved during a sweep",
        "slots",
        slots_moved,
        full=60,
        quick=4,
        control={"one_pipeline": True, "no_redirects": True},
        control_full=12,
        control_quick=2,
    ),
]
