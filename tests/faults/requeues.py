"""ACTION=requeue under the same faults: cut at every byte, killed at each boundary, its server killed.

What was abandoned is pending, or in the target again whole, or a dead letter; by script exactly once, from here at most twice
after one fault.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from monitor.janitor import Janitor
from monitor.requeued import ORIGINAL_ENTRY_ID, REQUEUE_COUNT, requeued
from tests.faults.invariants import Row as PendingRow
from tests.faults.invariants import Seen, _by_source, _wrong_counts, _wrong_rows
from tests.faults.kills import _kill_at, boundaries, held_at, spread_over
from tests.faults.proxy import Barrier, CutAt, Plan
from tests.faults.runner import Case, Make, Row, Stage, spread, sweep, sweep_through
from tests.faults.worlds import CRASHED, GROUP, Kind, Seeded, World
from tests.faults.zygote import Zygote

ONE_IN_FOR_GOOD = 24
VARIANTS = (("script", ""), ("gather", ""), ("gather", "elsewhere"))
"""Settle mode, and where entries are requeued to: the same stream, or another."""
MOST_COPIES = {"script": 1, "gather": 2}


@dataclass
class Requeueing(World):
    """A world whose entries are requeued; what store would take for invalid is an entry like any other here."""

    @property
    def target(self) -> str:
        return self.environment.get("REQUEUE_TO") or self.stream

    @property
    def mode(self) -> str:
        return self.environment["SETTLE_MODE"]

    def reset(self) -> None:
        super().reset()
        if self.target != self.stream:
            self.must(("DEL", self.target), ("XGROUP", "CREATE", self.target, "workers", "0", "MKSTREAM"))

    def seed_a_bit_of_everything(self, healthy: int = 4) -> None:
        self.reset()
        twice = self.tweet("twice")
        tired = self.tweet("tired", Kind.NO_ID)
        entries = [self.tweet(number) for number in range(healthy)]
        entries += [replace(twice, fields=(*twice.fields, b"text", b"again")), self.tweet("gone", Kind.GONE)]
        entries += [replace(tired, fields=(*tired.fields, REQUEUE_COUNT, b"5")), self.tweet("young", Kind.YOUNG)]
        self.abandon(sorted(entries, key=lambda entry: entry.order))


def new_requeueing(stage: Stage, mode: str, where: str, raw: Any = None) -> Requeueing:
    world = stage.world(mode, "overwrite", raw, ACTION="requeue")
    if where:
        world.environment["REQUEUE_TO"] = f"{world.stream}:again"
    made = Requeueing(**{field.name: getattr(world, field.name) for field in fields(world)})
    made.reset()
    return made


# --- what has to hold -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    seen: Seen
    copies: dict[bytes, list[list[bytes]]]
    """Original id → the fields of each entry that was added for it."""


def look(world: Requeueing) -> Look:
    rows, letters, entries = world.must(
        ("XPENDING", world.stream, GROUP, "-", "+", 1_000_000),
        ("XRANGE", world.dead_stream, "-", "+"),
        ("XRANGE", world.target, "-", "+"),
    )
    copies = defaultdict(list)
    for _, held in entries:
        if ORIGINAL_ENTRY_ID in held[::2]:
            copies[held[2 * held[::2].index(ORIGINAL_ENTRY_ID) + 1]].append(held)
    pending = {row[0]: PendingRow(row[1], row[2], row[3]) for row in rows}
    return Look(Seen(pending, _by_source(letters), {}), dict(copies))


def violations(world: Requeueing, seen: Look) -> list[str]:
    return [
        *_lost(world, seen),
        *_wrong_copies(world, seen),
        *_wrong_rows(world, seen.seen),
        *_wrong_counts(world, seen.seen),
    ]


def _is_tired(entry: Seeded) -> bool:
    return REQUEUE_COUNT in entry.fields


def _lost(world: Requeueing, seen: Look) -> Iterator[str]:
    for entry in world.entries:
        if entry.entry_id in seen.seen.pending or entry.kind is Kind.GONE:
            continue
        if _is_tired(entry):
            if entry.fields not in seen.seen.letters.get(entry.entry_id, []):
                yield f"{entry.entry_id.decode()} (tired): acknowledged, and no dead letter holds it"
        elif entry.entry_id not in seen.copies:
            yield f"{entry.entry_id.decode()} ({entry.kind.value}): acknowledged, and not in the target"


def _wrong_copies(world: Requeueing, seen: Look) -> Iterator[str]:
    by_id = {entry.entry_id: entry for entry in world.entries}
    for entry_id, copies in seen.copies.items():
        entry = by_id[entry_id]
        if any(copy != requeued(entry_id, entry.fields, 0) for copy in copies):
            yield f"{entry_id.decode()}: its copy is not what it was, byte for byte"
        if _is_tired(entry) or entry.kind in (Kind.YOUNG, Kind.GONE):
            yield f"{entry_id.decode()} ({entry.kind.value}): requeued all the same"
        if len(copies) > MOST_COPIES[world.mode]:
            yield f"{entry_id.decode()}: requeued {len(copies)} times by {world.mode}"
        if world.mode == "script" and entry_id in seen.seen.pending:
            yield f"{entry_id.decode()}: in the target and pending as well, though a script does both at once"


def undrained(world: Requeueing, seen: Look) -> Iterator[str]:
    for entry in world.entries:
        row = seen.seen.pending.get(entry.entry_id)
        if entry.kind is Kind.GONE and row is not None and row.consumer != CRASHED:
            continue  # claimed before it was deleted, so young until the minimum idle time is over
        if (row is not None) != (entry.kind is Kind.YOUNG):
            yield f"{entry.entry_id.decode()} ({entry.kind.value}): {'still' if row else 'not'} pending after a clean sweep"


async def aftermath(world: Requeueing) -> list[str]:
    """What holds as the fault left things, and again after one clean sweep, which has to drain all that is abandoned."""
    found = violations(world, look(world))
    world.age_what_the_janitor_claimed()
    report = await sweep(world, Janitor)
    if report.error or not report.complete:
        found.append(f"the clean sweep did not come to its end: {report}")
    seen = look(world)
    return found + [text for text in (*violations(world, seen), *undrained(world, seen)) if text not in found]


# --- the faults -------------------------------------------------------------------------------------------------------------


async def cut_at_every_byte(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    for mode, where in _variants(stage, make):
        world = new_requeueing(stage, mode, where)
        for whole in (Plan(), Plan()):  # the first loads the scripts
            world.seed_a_bit_of_everything()
            await sweep_through(whole, stage.server.port, world, make)
        places = [(False, byte) for byte in range(whole.requested)] + [(True, byte) for byte in range(whole.replied)]
        for at in spread(len(places), max(count // len(VARIANTS), 2)):
            of_replies, byte = places[at]
            plan = CutAt(byte, of_replies, for_good=at % ONE_IN_FOR_GOOD == 0)
            world.seed_a_bit_of_everything()
            budget_s = "0.3" if plan.for_good else "5"
            await sweep_through(plan, stage.server.port, world, make, SWEEP_BUDGET_SEC=budget_s)
            yield Case(
                f"{mode}{where and f' {where}'}, cut at {'reply' if of_replies else 'request'} byte {byte}",
                await aftermath(world),
            )


def _variants(stage: Stage, make: Make) -> list[tuple[str, str]]:
    """A naive janitor has one way, which is not held to what only a script can promise."""
    modes = stage.modes if make is Janitor else ("gather",)
    return [(mode, where) for mode, where in VARIANTS if mode in modes]


async def janitor_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    variants = _variants(stage, make)
    with Zygote() as zygote:
        for mode, where in variants:
            world = new_requeueing(stage, mode, where)
            places = await boundaries(stage, make, world)
            for number, after in spread_over(places, max(count // len(variants), 1)):
                world.seed_a_bit_of_everything()
                world.has_untold_sweeps = True
                reached = await _kill_at(zygote, stage, world, make, Barrier(number, after))
                found = await aftermath(world)
                if reached:
                    yield Case(
                        f"{mode}{where and f' {where}'}, {'after' if after else 'before'} command {number}", found
                    )


async def server_killed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """SIGKILL to a server that writes each command to disk; it comes back while the sweep is still on."""
    server = stage.new_server("--appendonly", "yes", "--appendfsync", "always")
    raw = stage.looking_at(server)
    variants = _variants(stage, make)
    for mode, where in variants:
        world = new_requeueing(stage, mode, where, raw)
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
                yield Case(f"{mode}{where and f' {where}'}, {'after' if after else 'before'} command {number}", found)


ROWS = [
    Row(
        "requeue: connection cut at every byte of a sweep",
        "requeue-cut",
        cut_at_every_byte,
        full=6_000,
        quick=120,
        control={"ack_first": True},
        control_full=300,
        control_quick=60,
    ),
    Row(
        "requeue: janitor killed with SIGKILL at each command boundary",
        "requeue-kill",
        janitor_killed,
        full=600,
        quick=90,
        control={"ack_first": True},
        control_full=90,
        control_quick=45,
    ),
    Row(
        "requeue: server killed with SIGKILL, AOF on, restarted",
        "requeue-crash",
        server_killed,
        full=60,
        quick=9,
        control={"ack_first": True},
        control_full=60,
        control_quick=30,
    ),
]
