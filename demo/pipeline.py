"""A run, from the first tweet to the last check: the story, top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from demo.archive import archiving
from demo.check import Check, count_pending
from demo.children import Child, Facts
from demo.cluster import RedisCluster
from demo.clustered import observer_of
from demo.example import Example
from demo.names import PROCESSORS
from demo.observe import observe, own_group
from demo.plan import Plan
from demo.queries import Answer, ask
from demo.scene import Scene, Tick
from demo.wire import SERVER_VARIABLE
from demo.witness import Witness, watching

LOOK_EVERY_S = 0.2
KILL_AT = (0.45, 0.7)
"""When processors are killed: once this share of what is to be produced has been read."""
LOSE_AT = 0.6
"""When a cluster loses a master: likewise."""
TICK_OVERDUE_S = 15.0


class RunFailed(Exception):
    """The run could not go on; the message says what ended it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    checks: tuple[Check, ...]
    answers: tuple[Answer, ...]


async def run(
    plan: Plan, url: str, environment: Mapping[str, str], scene: Scene, cluster: RedisCluster | None = None
) -> Outcome:
    """Produce, process badly, let the janitor clean up, and check that nothing is missing.

    `url` is the server for the pipeline's programs, `environment` the function app's way to the same server;
    a `cluster` loses a master on the way.
    Raises RunFailed; every process that was started has ended when this returns.
    """
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(observer_of(url))
        example = plan.example
        await client.xgroup_create(example.stream.stream, example.stream.group, id="0", mkstream=True)
        if plan.retain_s is not None:
            scene.archive = await stack.enter_async_context(archiving(client, example.stream.stream))
        crew = Crew(plan, url, environment, scene)
        stack.push_async_callback(crew.end)
        await stack.enter_async_context(_looking(client, scene))
        async with _witnessed(client, scene):
            await _production(client, crew, plan, scene, cluster)
            await _drain(client, crew, plan, scene)
            if plan.retain_s is not None:
                await _trim(client, crew, plan, scene)
            await crew.end()
        scene.phase = "checking"
        checks = await example.check(client, scene)
        return Outcome(tuple(checks), tuple(await _answers(client, example)))


class Crew:
    """The programs of the pipeline: who is running, and how each is started, killed and stopped."""

    def __init__(self, plan: Plan, url: str, environment: Mapping[str, str], scene: Scene) -> None:
        self._plan = plan
        self._scene = scene
        self._to_server = {SERVER_VARIABLE: url}
        self._to_redis = dict(environment)
        self.producer: Child | None = None
        self.timer_hosts: list[Child] = []
        self.processors: dict[str, Child] = {}

    async def start_timer_hosts(self) -> None:
        names = self._plan.example.janitor_names
        for name in names:
            called = "timer host" if len(names) == 1 else f"timer host of {name}"
            settings = {**self._plan.app_settings(name), **self._to_redis}
            self.timer_hosts.append(await self._start(called, ["demo.timer_host"], settings, self._on_timer(name)))

    async def start_processor(self, name: str) -> None:
        arguments = ["demo.processor", "--example", self._plan.example.name]
        arguments += ["--name", name, "--seed", str(self._plan.seed)]
        arguments += ["--work-ms", f"{self._plan.work_ms:.3f}"]
        self.processors[name] = await self._start(name, arguments, self._to_server, self._on_processor(name))
        self._scene.consumer(name).state = "running"

    async def start_producer(self) -> None:
        plan = self._plan
        arguments = ["demo.producer", "--example", plan.example.name]
        arguments += ["--seed", str(plan.seed), "--rate", str(plan.rate)]
        arguments += ["--seconds", str(plan.limit_s)]
        if plan.is_short:
            arguments += ["--short"]
        if plan.tweets_file:
            arguments += ["--tweets", str(plan.tweets_file)]
        if plan.lang:
            arguments += ["--lang", plan.lang]
        self.producer = await self._start("producer", arguments, self._to_server, self._on_producer)

    async def kill_processor(self, name: str) -> None:
        await self.processors.pop(name).kill()
        self._scene.consumer(name).state = "killed"

    async def stop_processors(self) -> None:
        for name, child in list(self.processors.items()):
            await child.stop()
            self._scene.consumer(name).state = "stopped"
        self.processors.clear()

    async def end(self) -> None:
        """Stop whoever is still running."""
        if self.producer:
            await self.producer.stop()
        await self.stop_processors()
        await asyncio.gather(*(timer_host.stop() for timer_host in self.timer_hosts))

    def check_alive(self) -> None:
        """Raises RunFailed if somebody ended who should not have."""
        dead = [child.name for child in (*self.processors.values(), *self.timer_hosts) if not child.running]
        if dead:
            raise RunFailed(f"ended by itself: {', '.join(dead)}")

    async def _start(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        on_facts: Callable[[Facts], None],
    ) -> Child:
        return await Child.start(name, arguments, environment, on_facts, self._scene.happened)

    def _on_producer(self, facts: Facts) -> None:
        self._scene.produced = int(facts["produced"])
        self._scene.kinds, self._scene.sums = facts["kinds"], facts["sums"]
        self._scene.named += [(kind, entry_id) for kind, entry_id in facts["named"]]

    def _on_processor(self, name: str) -> Callable[[Facts], None]:
        def note(facts: Facts) -> None:
            consumer = self._scene.consumer(name)
            consumer.stored, consumer.failed = int(facts["stored"]), int(facts["failed"])

        return note

    def _on_timer(self, janitor: str) -> Callable[[Facts], None]:
        def note(facts: Facts) -> None:
            if "tick" in facts:
                self._scene.ticks.append(Tick.from_facts(facts, janitor))
            self._scene.next_due = facts.get("next_due", self._scene.next_due)

        return note


@contextlib.asynccontextmanager
async def _looking(client: Redis, scene: Scene) -> AsyncIterator[None]:
    """Keep the scene up to date in the background."""

    async def look_again_and_again() -> None:
        while True:
            with contextlib.suppress(RedisError):  # a look that failed is made up for by the next one
                await observe(client, scene)
            await asyncio.sleep(LOOK_EVERY_S)

    task = asyncio.create_task(look_again_and_again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _witnessed(client: Redis, scene: Scene) -> AsyncIterator[None]:
    """Where the example's check asks for a witness, one watches."""
    if not scene.example.is_witnessed:
        yield
        return
    scene.witness = Witness(scene.example.stream)
    async with watching(client, scene.witness):
        yield


async def _production(client: Redis, crew: Crew, plan: Plan, scene: Scene, cluster: RedisCluster | None) -> None:
    """Entries come in bursts and are read to the last one; on the way processors die with entries in their hands."""
    scene.phase = "producing"
    await crew.start_timer_hosts()
    for name in PROCESSORS:
        await crew.start_processor(name)
    await crew.start_producer()
    killing = asyncio.create_task(_kill_on_the_way(crew, plan, scene, cluster))
    try:
        await _until(crew, _has_ended(crew.producer))
        if crew.producer is None or await crew.producer.wait() != 0:
            raise RunFailed("the producer failed")
        scene.happened(f"production stopped: {scene.produced:,} {plan.example.things}")
        await _finish_reading(client, crew, plan, scene, killing)
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


async def _kill_on_the_way(crew: Crew, plan: Plan, scene: Scene, cluster: RedisCluster | None) -> None:
    """Progress decides when, not the clock: what is read at once may be read faster or slower than planned."""
    for victim, share in zip(PROCESSORS[1 : 1 + plan.example.faults.kills], KILL_AT, strict=False):
        await _until_read(share, plan, scene)
        await crew.kill_processor(victim)
        pending = scene.consumer(victim).pending
        scene.happened(f"{victim} was killed (SIGKILL) with {pending:,} entries pending")

    if cluster:
        await _until_read(LOSE_AT, plan, scene)
        await _lose_a_master(cluster, scene)


async def _lose_a_master(cluster: RedisCluster, scene: Scene) -> None:
    """Kill the master that holds the stream; once its replica has taken its place, bring it back as that one's."""
    master = await asyncio.to_thread(cluster.master_of, scene.example.stream.stream)
    began = time.time()
    scene.outage = (began, math.inf)
    await asyncio.to_thread(cluster.kill, master)
    scene.happened(f"{master.address}, the cluster's master with the stream, was killed (SIGKILL)")
    successor = await asyncio.to_thread(cluster.wait_for_successor, master)
    scene.happened(f"{successor.address}, its replica, took its place after {time.time() - began:.1f} s")
    await asyncio.to_thread(cluster.revive, master)
    await asyncio.to_thread(cluster.wait_until_ok)
    scene.outage = (began, time.time())
    scene.happened(f"{master.address} is back and follows {successor.address}")


async def _until_read(share: float, plan: Plan, scene: Scene) -> None:
    """Wait until so much of all that is going to be produced was read."""
    while scene.produced - scene.unread < share * max(1, _expected_count(plan, scene)):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)


def _expected_count(plan: Plan, scene: Scene) -> float:
    return plan.expected_count if scene.phase == "producing" else scene.produced


async def _finish_reading(client: Redis, crew: Crew, plan: Plan, scene: Scene, killing: asyncio.Task[None]) -> None:
    """The living processors read what is new to the last entry, and are stopped then."""
    scene.phase = "finishing"
    await _until(crew, lambda: _is_read_to_the_end(client, plan.example))
    await killing
    if plan.example.consumers_stay:
        scene.happened("everything was read once; what was abandoned comes back to the processors that live")
        return
    await crew.stop_processors()
    pending = await count_pending(client, plan.example.stream)
    scene.happened(f"processors stopped; they left {pending:,} entries pending for the janitor")


async def _drain(client: Redis, crew: Crew, plan: Plan, scene: Scene) -> None:
    """Nobody is left but the janitors, unless consumers stay: wait until nothing is left, as long as something is done."""
    scene.phase = "draining"
    ticks_before, loop = len(scene.ticks), asyncio.get_running_loop()
    patience_s = plan.min_idle_s + 3 * plan.longest_interval_s + TICK_OVERDUE_S
    fewest, deadline = await count_pending(client, plan.example.stream), loop.time() + patience_s
    brought = 0

    async def drained() -> bool:
        nonlocal fewest, deadline, brought
        pending = await count_pending(client, plan.example.stream)
        so_far = scene.recovered + scene.dead_lettered
        if pending < fewest or so_far > brought:
            fewest, brought, deadline = min(pending, fewest), so_far, loop.time() + patience_s
        if pending and loop.time() > deadline:
            ticks = len(scene.ticks) - ticks_before
            raise RunFailed(f"{pending:,} entries are still pending after {ticks} more ticks")
        return pending == 0 and (not plan.example.consumers_stay or await _is_at_rest(client, plan.example))

    await _until(crew, drained)
    if plan.example.consumers_stay:
        await crew.stop_processors()
    scene.happened("nothing is pending any more")


async def _trim(client: Redis, crew: Crew, plan: Plan, scene: Scene) -> None:
    """Wait until the janitor has trimmed all that both groups have finished with: all but the last entry."""
    scene.phase = "trimming"
    stream, loop = plan.example.stream.stream, asyncio.get_running_loop()
    deadline = loop.time() + (plan.retain_s or 0) + 3 * plan.longest_interval_s + TICK_OVERDUE_S

    async def trimmed() -> bool:
        length = int(await client.xlen(stream))
        if length > 1 and loop.time() > deadline:
            raise RunFailed(f"{length:,} entries are still in the stream, all of them finished with")
        return length <= 1

    await _until(crew, trimmed)
    scene.happened("the stream is trimmed to its last entry")


async def _until(crew: Crew, holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        crew.check_alive()
        await asyncio.sleep(LOOK_EVERY_S)


def _has_ended(child: Child | None) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return child is None or not child.running

    return ended


async def _is_read_to_the_end(client: Redis, example: Example) -> bool:
    """Nothing of the stream is new to the group any more (its `lag` would say so only from Redis 7.0)."""
    group = await own_group(client, example.stream)
    stream: Any = await client.xinfo_stream(example.stream.stream)
    return bool(group["last-delivered-id"] == stream["last-generated-id"])


async def _is_at_rest(client: Redis, example: Example) -> bool:
    """Nothing pending and nothing unread at one moment: entries go from the one to the other and back."""
    pipeline = client.pipeline(transaction=True)
    pipeline.xinfo_groups(example.stream.stream)
    pipeline.xinfo_stream(example.stream.stream)
    (group, *_), stream = await pipeline.execute()
    return bool(group["pending"] == 0 and group["last-delivered-id"] == stream["last-generated-id"])


async def _answers(client: Redis, example: Example) -> list[Answer]:
    return [await ask(client, example.stream.index_name, query) for query in example.queries]
