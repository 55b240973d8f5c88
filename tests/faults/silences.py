"""Nobody answers, or too late, or the sweep is cancelled: the budget holds, and at whatever await it ends nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

from tests.faults.proxy import Latency, Plan, Silence
from tests.faults.runner import Body, Case, Make, Row, Stage, aftermath, spread, sweep_through, timed_sweep
from tests.faults.worlds import World

BUDGET_S = 1.0
LATENCY_S, LATE_BUDGET_S = 2.0, 5.0
AT_ONCE = 10
"""Cases that wait at the same time; each has its own world."""


async def _request_bytes(stage: Stage, make: Make, world: World) -> int:
    for plan in (Plan(), Plan()):
        world.seed_a_bit_of_everything()
        await sweep_through(plan, stage.server.port, world, make)
    return plan.requested


def _silent(name: str, plan_at: Callable[[int], Plan], budget_s: float) -> Body:
    async def body(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
        share = max(count // len(stage.modes), 1)
        waiting: list[tuple[str, World, int]] = []
        for mode in stage.modes:
            worlds = [stage.world(mode, "newer") for _ in range(min(AT_ONCE, share))]
            total = await _request_bytes(stage, make, worlds[0])
            places = spread(total, share) if share > 1 else [total // 2]
            waiting += [(mode, worlds[number % len(worlds)], at) for number, at in enumerate(places)]
        # In turn from each mode, so that no world is in two cases at a time.
        waiting = [case for number in range(share) for case in waiting[number::share]]
        for first in range(0, len(waiting), AT_ONCE):
            some = waiting[first : first + AT_ONCE]
            for _, world, _ in some:
                world.seed_a_bit_of_everything()
            sweeps = (timed_sweep(plan_at(at), stage.server.port, world, make, budget_s) for _, world, at in some)
            for (mode, world, at), found in zip(some, await asyncio.gather(*sweeps), strict=True):
                yield Case(f"{mode}, {name} at request byte {at}", found + await aftermath(world))

    return body


# --- cancellation -----------------------------------------------------------------------------------------------------------


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that reports each of its suspensions, before the event loop hears of it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], suspended: Callable[[], None]) -> None:
        self._coroutine, self._suspended = coroutine, suspended

    def send(self, value: Any) -> Any:
        waiting_for = self._coroutine.send(value)
        self._suspended()
        return waiting_for

    def throw(self, *error: Any) -> Any:
        waiting_for = self._coroutine.throw(*error)
        self._suspended()
        return waiting_for

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()


class Suspensions:
    """Counts every await at which any task of a sweep really waits; at number ``at`` the sweep is cancelled."""

    def __init__(self, at: int | None) -> None:
        self.count = 0
        self._at = at
        self._sweep: asyncio.Task[Any] | None = None

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Whether it was cancelled before it ended."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(self._task)
        try:
            self._sweep = asyncio.ensure_future(coroutine)
            await self._sweep
        except asyncio.CancelledError:
            return True
        finally:
            loop.set_task_factory(before)
        return False

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Counted(coroutine, self._suspended), loop=loop, **more)

    def _suspended(self) -> None:
        self.count += 1
        if self.count == self._at and self._sweep is not None:
            asyncio.get_running_loop().call_soon(self._sweep.cancel)


async def cancelled_at_any_await(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """Cancelled at each suspension in turn; the same janitor, with the connections that it has, sweeps again afterwards."""
    share = max(count // (2 * len(stage.modes)), 1)
    for mode in stage.modes:
        for rule in ("overwrite", "newer"):
            world = stage.world(mode, rule)
            total = 0
            for _ in range(2):
                world.seed_a_bit_of_everything()
                _, whole = await _cancelled(world, make, None)
                total = whole.count
            places = spread(total, share)
            for at in places * (share // max(len(places), 1)) + places[: share % max(len(places), 1)]:
                world.seed_a_bit_of_everything()
                found, _ = await _cancelled(world, make, at + 1)
                yield Case(f"{mode} {rule}, cancelled at await {at + 1} of {total}", found + await aftermath(world))


async def _cancelled(world: World, make: Make, at: int | None) -> tuple[list[str], Suspensions]:
    janitor = make(world.settings())
    suspensions = Suspensions(at)
    found: list[str] = []
    try:
        world.has_untold_sweeps = True
        await suspensions.run(janitor.tick())
        left_over = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
        found += [f"{len(left_over)} tasks go on after the cancelled sweep"] if left_over else []
        (report,) = await janitor.tick()
        world.reports.append(report)
        if report.error:
            found.append(f"the tick after the cancelled one failed: {report}")
    finally:
        await janitor.close()
    return found, suspensions


def _row(name: str, part: str, body: Body, control_full: int = 4) -> Row:
    return Row(
        name,
        part,
        body,
        full=60,
        quick=6,
        control={"no_deadline": True},
        control_full=control_full,
        control_quick=2,
        each_control_is_caught=True,
    )


ROWS = [
    _row(
        "black hole",
        "hole",
        _silent("black hole", lambda at: Silence(at, old_only=False, replies_only=False), BUDGET_S),
    ),
    _row(
        "silent drop of the connections",
        "drop",
        _silent("silent drop", lambda at: Silence(at, old_only=True, replies_only=bool(at % 2)), BUDGET_S),
    ),
    _row("2 s latency", "latency", _silent("2 s latency", lambda _: Latency(LATENCY_S), LATE_BUDGET_S)),
    Row(
        "cancellation at any await",
        "cancel",
        cancelled_at_any_await,
        full=1_000,
        quick=120,
        control={"ack_first": True},
        control_full=200,
        control_quick=60,
    ),
]
