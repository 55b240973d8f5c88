"""Runs the rows of the fault table: each body with the janitor, which has to hold, and a naive one, which must be caught."""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis

import shared.retry
from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.report import SweepReport
from shared.settings import Settings
from tests.faults.invariants import look, undrained, violations
from tests.faults.proxy import Plan, Proxy
from tests.faults.worlds import World, client, new_world
from tests.naive_janitor import naive
from tests.patience import in_time

BUDGET_SLACK_S = 1.5
"""What may be added to a sweep's budget; more on a machine that is busy otherwise."""
MOST_SHOWN = 20
ENOUGH = {"SWEEP_BUDGET_SEC": "45", "MONITOR_SCHEDULE": "0 * * * * *"}
"""For a clean sweep, which has to come to its end on a busy machine too."""
RESULTS = Path(__file__).parent / "results"


class Sweeper(Protocol):
    """What the suite asks of a janitor, the real one or a naive one."""

    async def tick(self) -> tuple[SweepReport, ...]: ...

    async def close(self) -> None: ...


Make = Callable[[Settings], Sweeper]


@dataclass(frozen=True, slots=True)
class Case:
    """One fault that came, and which promises were broken after it."""

    label: str
    violations: Sequence[str]
    size: int = 1
    """How many cases it stands for: entries, where a row counts those."""
    is_broken: bool = False
    """The suite itself failed here: proves nothing, and must not pass for a mistake that was caught."""


class Stage:
    """The servers that a row plays on. Every server and client that was made here ends with it."""

    def __init__(
        self, server: RedisServer, modes: Sequence[str] = ("script", "gather"), has_search: bool = True
    ) -> None:
        self.server = server
        self.modes = tuple(modes)
        self.has_search = has_search
        self.executable = server._files.executable  # a stage plays on one version
        self.notes: list[str] = []
        """What a row has to say beside its numbers."""
        self._extras = contextlib.ExitStack()
        self.raw = client(server.port)

    def looking_at(self, server: RedisServer) -> redis.Redis:
        return self._extras.enter_context(client(server.port))

    def world(self, mode: str, on_conflict: str = "newer", raw: redis.Redis | None = None, **changes: str) -> World:
        looking = raw or self.raw
        port = looking.connection_pool.connection_kwargs["port"]
        if not self.has_search or raw is not None:
            changes = {"INDEX_SCHEMA": "off", **changes}
        return new_world(looking, port, mode, on_conflict, **changes)

    def new_server(self, *arguments: str) -> RedisServer:
        """Another server of the same version, without search, for faults that would be everybody's."""
        server = RedisServer(search=False, arguments=arguments, executable=self.executable)
        return self._extras.enter_context(server)

    def clear(self) -> None:
        """End what the last body started beside the stage's own server."""
        self._extras.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self.raw.close()


Body = Callable[[Stage, Make, int], AsyncIterator[Case]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a fault, how often it comes, and the mistake that its body has to catch."""

    name: str
    part: str
    body: Body
    full: int
    quick: int
    control: Mapping[str, bool]
    control_full: int
    control_quick: int
    each_control_is_caught: bool = False
    """Else once is enough: a cut at most bytes does no harm to a naive janitor either."""

    def cases(self, scale: float) -> int:
        return max(min(self.full, self.quick), round(self.full * scale))

    def controls(self, scale: float) -> int:
        return max(min(self.control_full, self.control_quick), round(self.control_full * scale))


@dataclass
class Result:
    """What came of one row."""

    fault: str
    part: str
    cases: int = 0
    violations: int = 0
    control: str = ""
    control_runs: int = 0
    controls_caught: int = 0
    broken: int = 0
    seconds: float = 0.0
    holds: bool = False
    shown: list[str] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    """What gave the naive janitor away, a few times."""
    notes: list[str] = field(default_factory=list)


async def play(row: Row, stage: Stage, cases: int, controls: int) -> Result:
    """The row's body with the janitor, then with the naive one."""
    result = Result(row.name, row.part, control=", ".join(name.replace("_", " ") for name in row.control))
    started_s = time.monotonic()
    with quick_retries():
        async for case in _guarded(row.body(stage, Janitor, cases)):
            result.cases += case.size
            result.violations += bool(case.violations)
            result.shown += [f"{case.label}: {text}" for text in case.violations]
        stage.clear()
        result.notes, stage.notes = stage.notes, []
        async for case in _guarded(row.body(stage, naive(**row.control), controls)):
            if case.is_broken:
                result.broken += 1
                result.shown += [f"control, {case.label}: {text}" for text in case.violations]
                continue
            result.control_runs += 1
            result.controls_caught += bool(case.violations)
            result.caught += [f"{case.label}: {text}" for text in case.violations[:1]]
    stage.clear()
    stage.notes = []
    del result.shown[MOST_SHOWN:], result.caught[3:]
    result.seconds = round(time.monotonic() - started_s, 1)
    enough = result.control_runs if row.each_control_is_caught else 1
    result.holds = (
        not (result.violations or result.broken) and result.controls_caught >= max(enough, 1) and result.cases > 0
    )
    return result


async def _guarded(cases: AsyncIterator[Case]) -> AsyncIterator[Case]:
    """A body that itself breaks is a violation, with where it broke."""
    try:
        async for case in cases:
            yield case
    except Exception:  # noqa: BLE001
        yield Case("the suite itself broke", [traceback.format_exc()[-1500:]], is_broken=True)


@contextlib.contextmanager
def quick_retries() -> Iterator[None]:
    """Thousands of cases meet a lost connection; what is tried is the retry, not its waiting."""
    before = shared.retry.FIRST_WAIT_S, shared.retry.LONGEST_WAIT_S
    shared.retry.FIRST_WAIT_S, shared.retry.LONGEST_WAIT_S = 0.002, 0.02
    try:
        yield
    finally:
        shared.retry.FIRST_WAIT_S, shared.retry.LONGEST_WAIT_S = before


# --- what most bodies do ----------------------------------------------------------------------------------------------------


async def sweep(world: World, make: Make, port: int | None = None, **changes: str) -> SweepReport:
    """One tick of a janitor that was just started; its report, also kept in the world."""
    janitor = make(world.settings(port, **changes))
    try:
        (report,) = await janitor.tick()
    finally:
        await janitor.close()
    world.reports.append(report)
    return report


async def sweep_through(plan: Plan, server_port: int, world: World, make: Make, **changes: str) -> SweepReport:
    async with Proxy(server_port, plan) as proxy:
        return await sweep(world, make, proxy.port, **changes)


async def timed_sweep(plan: Plan, server_port: int, world: World, make: Make, budget_s: float) -> list[str]:
    """Sweep through a fault that swallows time; what is wrong with how long it took and with what it said."""
    started_s = time.monotonic()
    try:
        async with Proxy(server_port, plan) as proxy:
            waiting = sweep(world, make, proxy.port, SWEEP_BUDGET_SEC=f"{budget_s:g}")
            report = await asyncio.wait_for(waiting, budget_s + in_time(2 * BUDGET_SLACK_S))
            took_s = time.monotonic() - started_s
    except asyncio.TimeoutError:
        world.has_untold_sweeps = True
        return [f"no end long after the budget of {budget_s:g} s"]
    if took_s > budget_s + in_time(BUDGET_SLACK_S):
        return [f"took {took_s:.1f} s, budget {budget_s:g} s"]
    return (
        []
        if report.complete or report.error or took_s >= budget_s / 2
        else [f"a partial sweep without a word: {report}"]
    )


async def aftermath(world: World) -> list[str]:
    """The invariants as the fault left things, and again after one clean sweep, which has to drain all that is healthy."""
    found = violations(world, look(world))
    world.age_what_the_janitor_claimed()
    report = await sweep(world, Janitor, **ENOUGH)
    if report.error or not report.complete:
        found.append(f"the clean sweep did not come to its end: {report}")
    return found + [text for text in undrained(world, look(world)) if text not in found]


def spread(total: int, count: int) -> list[int]:
    """``count`` numbers below ``total``, evenly; all of them if there are no more."""
    if count >= total:
        return list(range(total))
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


# --- the table --------------------------------------------------------------------------------------------------------------


def versions(stage: Stage) -> dict[str, str]:
    (info,) = client_info(stage.raw)
    return {"redis": info, "redis-py": redis.__version__, "python": platform.python_version()}


def client_info(raw: redis.Redis) -> tuple[str]:
    text: bytes = raw.execute_command("INFO", "server")
    line = next(line for line in text.splitlines() if line.startswith(b"redis_version:"))
    return (line.split(b":", 1)[1].decode(),)


def markdown(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    scale = facts["scale"]
    lines = [
        f"{facts['date']}{'' if scale == 1 else f', scale {scale:g}'}, "
        + ", ".join(f"{name} {value}" for name, value in facts["versions"].items()),
        "",
        "| fault | cases run | violations | control: a naive janitor that | runs | caught | s |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r.fault} | {r.cases:,} | {r.violations} | {r.control} | {r.control_runs:,} | {r.controls_caught:,} "
        f"| {r.seconds:.0f} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


def write(results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.md").write_text(markdown(results, facts), encoding="utf-8")
    data = {**facts, "rows": [asdict(result) for result in results]}
    (RESULTS / "faults.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
