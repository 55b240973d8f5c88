"""Producers, consumers, janitors and faults in any order that Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from monitor.scripts import store_script
from tests.faults.invariants import look, violations
from tests.faults.proxy import CutAt
from tests.faults.runner import Case, Make, Row, Stage, aftermath, sweep, sweep_through
from tests.faults.silences import Suspensions
from tests.faults.worlds import CRASHED, GROUP, MIN_IDLE_MS, OLD_MS, YOUNG_MS, Kind, Seeded, World

STEPS = 40  # the most; Hypothesis ends some examples earlier, the mean is above 30
MOST_BYTES = 6_000
KINDS = (Kind.HEALTHY, Kind.HEALTHY, Kind.HEALTHY, Kind.NO_ID, Kind.EMPTY_ID, Kind.WRONG_TYPE)
MODES = st.integers(0, 1)


def machine(stage: Stage, make: Make) -> type[RuleBasedStateMachine]:
    """The state machine over one server; a new world for each example."""
    server = stage.new_server()
    raw = stage.looking_at(server)
    loop = asyncio.new_event_loop()
    names = itertools.count()
    store = store_script().text
    worlds = {
        (mode, rule_): stage.world(mode, rule_, raw) for mode in stage.modes for rule_ in ("overwrite", "newer", "keep")
    }

    class Pipeline(RuleBasedStateMachine):
        steps = 0
        has_work = False

        @initialize(rule_=st.sampled_from(("overwrite", "newer", "keep")))
        def begin(self, rule_: str) -> None:
            self.world: World = worlds[stage.modes[0], rule_]
            self.world.reset()
            self.produced: list[Seeded] = []
            self.kinds: dict[bytes, Kind] = {}

        def teardown(self) -> None:
            if hasattr(self, "world"):
                found = loop.run_until_complete(aftermath(self.world))
                assert not found, found

        # --- the pipeline's other programs ---

        @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), same_id=st.integers(0, 3))
        def produce(self, kinds: list[Kind], same_id: int) -> None:
            for kind in kinds:
                collides = kind is Kind.HEALTHY and self.world.on_conflict != "overwrite" and same_id < 3
                entry = self.world.tweet(f"same-{same_id}" if collides else f"own-{next(names)}", kind)
                if kind is Kind.WRONG_TYPE:
                    self.world.must(("SET", self.world.key(entry), "no hash"))
                self.world.must(("XADD", self.world.stream, entry.entry_id, *entry.fields))
                self.produced.append(entry)

        @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), same_id=st.integers(0, 3))
        def produce_and_crash(self, kinds: list[Kind], same_id: int) -> None:
            self.produce(kinds, same_id)
            self.consume(len(self.produced), finishes=False)
            self.time_passes()

        @precondition(lambda self: self.produced)
        @rule(count=st.integers(1, 6), finishes=st.booleans())
        def consume(self, count: int, finishes: bool) -> None:
            some, self.produced = self.produced[:count], self.produced[count:]
            ids = [entry.entry_id for entry in some]
            self.world.must(
                ("XREADGROUP", "GROUP", GROUP, CRASHED, "COUNT", len(some), "STREAMS", self.world.stream, ">")
            )
            for entry in some:
                self.kinds[entry.entry_id] = entry.kind
                if finishes and entry.kind is Kind.HEALTHY:
                    self._finish(entry)
                    self.world.entries.append(entry)
                else:
                    self.world.entries.append(replace(entry, kind=Kind.YOUNG))
            self.world.must(("XCLAIM", self.world.stream, GROUP, CRASHED, 0, *ids, "IDLE", YOUNG_MS, "JUSTID"))

        def _finish(self, entry: Seeded) -> None:
            self.world.must(
                ("EVAL", store, 1, self.world.key(entry), self.world.on_conflict, entry.entry_id, *entry.fields),
                ("XACK", self.world.stream, GROUP, entry.entry_id),
            )

        @rule()
        def time_passes(self) -> None:
            (rows,) = self.world.must(("XPENDING", self.world.stream, GROUP, "-", "+", 10_000))
            for entry_id, consumer, *_ in rows:
                if self.kinds[entry_id] is Kind.GONE:
                    continue  # XCLAIM would drop it from the list; it was old when it was deleted
                self.world.must(("XCLAIM", self.world.stream, GROUP, consumer, 0, entry_id, "IDLE", OLD_MS, "JUSTID"))
            self.world.entries = [
                replace(entry, kind=self.kinds[entry.entry_id]) if entry.kind is Kind.YOUNG else entry
                for entry in self.world.entries
            ]

        @rule(which=st.integers(0, 100))
        def delete_one_that_is_pending(self, which: int) -> None:
            (rows,) = self.world.must(("XPENDING", self.world.stream, GROUP, "-", "+", 10_000))
            old = [row[0] for row in rows if row[2] >= MIN_IDLE_MS]
            if old:
                entry_id = old[which % len(old)]
                self.world.must(("XDEL", self.world.stream, entry_id))
                at = next(at for at, entry in enumerate(self.world.entries) if entry.entry_id == entry_id)
                self.kinds[entry_id] = Kind.GONE
                self.world.entries[at] = replace(self.world.entries[at], kind=Kind.GONE)

        # --- janitors and what befalls them ---

        def _find_work(self) -> None:
            """Not as a precondition: what is still pending depends on how far a cut sweep had come."""
            if not self.has_work:
                self.produce_and_crash([Kind.HEALTHY, Kind.HEALTHY, Kind.NO_ID], same_id=0)
                self.has_work = True

        def _run(self, mode: int, sweeping: Any) -> None:
            self.world.environment["SETTLE_MODE"] = stage.modes[mode % len(stage.modes)]
            self._find_work()
            loop.run_until_complete(sweeping)

        @rule(mode=MODES)
        def janitor_sweeps(self, mode: int) -> None:
            self._run(mode, sweep(self.world, make))

        @rule(mode=MODES)
        def two_janitors_sweep(self, mode: int) -> None:
            self._run(mode, self._two())

        async def _two(self) -> None:
            await asyncio.gather(sweep(self.world, make), sweep(self.world, make))

        @rule(mode=MODES, byte=st.integers(0, MOST_BYTES), of_replies=st.booleans())
        def janitor_loses_its_connection(self, mode: int, byte: int, of_replies: bool) -> None:
            self._run(mode, sweep_through(CutAt(byte, of_replies), server.port, self.world, make))

        @rule(mode=MODES, at=st.integers(1, 90))
        def janitor_is_cancelled(self, mode: int, at: int) -> None:
            self._run(mode, self._cancelled(at))

        async def _cancelled(self, at: int) -> None:
            janitor = make(self.world.settings())
            self.world.has_untold_sweeps = True
            try:
                await Suspensions(at).run(janitor.tick())
            finally:
                await janitor.close()

        @rule(mode=MODES)
        def memory_is_full_for_a_sweep(self, mode: int) -> None:
            self._find_work()
            self.world.must(("CONFIG", "SET", "maxmemory", "1"))
            try:
                self._run(mode, sweep(self.world, make))
            finally:
                self.world.must(("CONFIG", "SET", "maxmemory", "0"))

        @invariant()
        def nothing_is_lost(self) -> None:
            type(self).steps += 1
            if hasattr(self, "world"):
                seen = look(self.world)
                self.has_work = any(row.idle_ms >= MIN_IDLE_MS for row in seen.pending.values())
                found = violations(self.world, seen)
                assert not found, found

    return Pipeline


async def state_machine(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """`count` examples of about 30 steps; the invariants after each step, and a clean sweep at the end."""
    pipeline = machine(stage, make)
    examples = settings(
        max_examples=count,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        await asyncio.to_thread(run_state_machine_as_test, seed(4)(pipeline), settings=examples)
    except AssertionError as error:
        yield Case("one of the examples", [str(error)[:600]], size=count)
        return
    stage.notes.append(f"{pipeline.steps:,} steps")  # type: ignore[attr-defined]
    yield Case("all examples", [], size=count)


ROWS = [
    Row(
        "a state machine over producers, consumers, janitors and faults",
        "machine",
        state_machine,
        full=500,
        quick=20,
        control={"ack_first": True},
        control_full=100,
        control_quick=60,
        each_control_is_caught=True,
    ),
]
