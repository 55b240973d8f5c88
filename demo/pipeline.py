"""A run, from the first tweet to the last check: the story, top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from demo.check import Check, check_run, count_pending
from demo.children import Child, Facts
from demo.names import GROUP, PROCESSORS, STREAM
from demo.observe import observe
from demo.plan import Plan
from demo.queries import QUERIES, Answer, ask
from demo.scene import Scene, Tick
from demo.wire import SERVER_VARIABLE

LOOK_EVERY_S = 0.2
KILL_AT = 0.45
"""When one processor is killed: this share of the production's time."""
TICK_OVERDUE_S = 15.0


class RunFailed(Exception):
    """The run could not go on; the message says what ended it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    checks: tuple[Check, ...]
    answers: tuple[Answer, ...]


async def run(plan: Plan, url: str, environment: Mapping[str, str], scene: Scene) -> Outcome:
    """Produce, process badly, let the janitor clean up, and check that nothing is missing.

    `url` is the server for the pipeline's programs, `environment` the function app's way to the same server.
    Raises RunFailed; every process that was started has ended when this returns.
    """
    async with contextlib.AsyncExitStack() as stack:
        # RESP2: replies of FT.SEARCH come as redis-cli shows them.
        client = await stack.enter_async_context(Redis.from_url(url, protocol=2))
        await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        crew = Crew(plan, url, environment, scene)
        stack.push_async_callback(crew.end)
        await stack.enter_async_context(_looking(client, scene))
        await _production(crew, plan, scene)
        await _finish_reading(client, crew, scene)
        await _drain(client, crew, plan, scene)
        await crew.end()
        scene.phase = "checking"
        checks = await check_run(client, scene)
        return Outcome(tuple(checks), tuple(await _answers(client)))


class Crew:
    """The programs of the pipeline: who is running, and how each is started, killed and stopped."""

    def __init__(self, plan: Plan, url: str, environment: Mapping[str, str], scene: Scene) -> None:
        self._plan = plan
        self._scene = scene
        self._to_server = {SERVER_VARIABLE: url}
        self._app_settings = {**environment, **plan.app_settings}
        self.producer: Child | None = None
        self.timer_host: Child | None = None
        self.processors: dict[str, Child] = {}

    async def start_timer_host(self) -> None:
        self.timer_host = await self._start("timer host", ["demo.timer_host"], self._app_settings, self._on_timer)

    async def start_processor(self, name: str) -> None:
        arguments = ["demo.processor", "--name", name, "--seed", str(self._plan.seed)]
        arguments += ["--work-ms", f"{self._plan.work_ms:.3f}"]
        self.processors[name] = await self._start(name, arguments, self._to_server, self._on_processor(name))
        self._scene.consumer(name).state = "running"

    async def start_producer(self) -> None:
        plan = self._plan
        arguments = ["demo.producer", "--seed", str(plan.seed), "--rate", str(plan.rate)]
        arguments += ["--seconds", str(plan.limit_s)]
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
        if self.timer_host:
            await self.timer_host.stop()

    def check_alive(self) -> None:
        """Raises RunFailed if somebody ended who should not have."""
        dead = [child.name for child in self.processors.values() if not child.running]
        if self.timer_host and not self.timer_host.running:
            dead.append(self.timer_host.name)
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

    def _on_processor(self, name: str) -> Callable[[Facts], None]:
        def note(facts: Facts) -> None:
            consumer = self._scene.consumer(name)
            consumer.stored, consumer.failed = int(facts["stored"]), int(facts["failed"])

        return note

    def _on_timer(self, facts: Facts) -> None:
        if "tick" in facts:
            self._scene.ticks.append(Tick.from_facts(facts))
        self._scene.next_due = facts.get("next_due", self._scene.next_due)


@contextlib.asynccontextmanager
async def _looking(client: Redis, scene: Scene) -> AsyncIterator[None]:
    """Keep the scene up to date in the background."""

    async def look_again_and_again() -> None:
        while True:
            await observe(client, scene)
            await asyncio.sleep(LOOK_EVERY_S)

    task = asyncio.create_task(look_again_and_again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _production(crew: Crew, plan: Plan, scene: Scene) -> None:
    """Tweets come in bursts; midway one processor dies with entries in its hands."""
    scene.phase = "producing"
    await crew.start_timer_host()
    for name in PROCESSORS:
        await crew.start_processor(name)
    await crew.start_producer()
    killing = asyncio.create_task(_kill_midway(crew, plan, scene))
    try:
        await _until(crew, _has_ended(crew.producer))
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    if crew.producer is None or await crew.producer.wait() != 0:
        raise RunFailed("the producer failed")
    scene.happened(f"production stopped: {scene.produced:,} tweets")


async def _kill_midway(crew: Crew, plan: Plan, scene: Scene) -> None:
    victim = PROCESSORS[1]
    await asyncio.sleep(KILL_AT * plan.production_s)
    await crew.kill_processor(victim)
    pending = scene.consumer(victim).pending
    scene.happened(f"{victim} was killed (SIGKILL) with {pending:,} entries pending")


async def _finish_reading(client: Redis, crew: Crew, scene: Scene) -> None:
    """The living processors read what is new to the last entry, and are stopped then."""
    scene.phase = "finishing"
    await _until(crew, lambda: _is_read_to_the_end(client))
    await crew.stop_processors()
    pending = await count_pending(client)
    scene.happened(f"processors stopped; they left {pending:,} entries pending for the janitor")


async def _drain(client: Redis, crew: Crew, plan: Plan, scene: Scene) -> None:
    """Nobody is left but the janitor: wait until nothing is pending, as long as its ticks keep coming."""
    scene.phase = "draining"
    ticks_before, loop = len(scene.ticks), asyncio.get_running_loop()
    deadline = loop.time() + plan.min_idle_s + 3 * plan.longest_interval_s + TICK_OVERDUE_S

    async def drained() -> bool:
        pending = await count_pending(client)
        if pending and loop.time() > deadline:
            ticks = len(scene.ticks) - ticks_before
            raise RunFailed(f"{pending:,} entries are still pending after {ticks} more ticks")
        return pending == 0

    await _until(crew, drained)
    scene.happened("nothing is pending any more")


async def _until(crew: Crew, holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        crew.check_alive()
        await asyncio.sleep(LOOK_EVERY_S)


def _has_ended(child: Child | None) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return child is None or not child.running

    return ended


async def _is_read_to_the_end(client: Redis) -> bool:
    """Nothing of the stream is new to the group any more (its `lag` would say so only from Redis 7.0)."""
    groups: Any = await client.xinfo_groups(STREAM)
    stream: Any = await client.xinfo_stream(STREAM)
    return bool(groups[0]["last-delivered-id"] == stream["last-generated-id"])


async def _answers(client: Redis) -> list[Answer]:
    return [await ask(client, query) for query in QUERIES]
