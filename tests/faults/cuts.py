"""The connection is cut at every byte of a sweep, in both directions; sometimes for good."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tests.faults.proxy import CutAt, Plan
from tests.faults.runner import Case, Make, Row, Stage, aftermath, spread, sweep_through
from tests.faults.worlds import World

ONE_IN_FOR_GOOD = 24
VARIANTS = (
    ("script", "newer", 0.45),
    ("gather", "overwrite", 0.45),
    ("script", "overwrite", 0.05),
    ("gather", "newer", 0.05),
)
"""Settle mode, rule, and their share of the cases: in full the first two meet the cut at every byte."""


async def cut_at_every_byte(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """`count` cuts, spread evenly over all the bytes of a sweep."""
    for mode, rule, share in VARIANTS:
        if mode not in stage.modes:
            continue
        world = stage.world(mode, rule)
        for whole in (Plan(), Plan()):  # the first creates the index and loads the scripts
            world.seed_a_bit_of_everything()
            await sweep_through(whole, stage.server.port, world, make)
        bytes_ = [(False, byte) for byte in range(whole.requested)] + [(True, byte) for byte in range(whole.replied)]
        for at in spread(len(bytes_), max(round(count * share), 2)):
            of_replies, byte = bytes_[at]
            yield await _cut(stage, make, world, CutAt(byte, of_replies, for_good=at % ONE_IN_FOR_GOOD == 0), byte)


async def _cut(stage: Stage, make: Make, world: World, plan: CutAt, byte: int) -> Case:
    world.seed_a_bit_of_everything()
    budget_s = "0.3" if plan.for_good else "5"
    report = await sweep_through(plan, stage.server.port, world, make, SWEEP_BUDGET_SEC=budget_s)
    found = await aftermath(world)
    if plan.for_good and plan.has_cut and not report.error:
        found.append("Redis stayed away and the sweep ended without an error")
    label = f"{report.settle_mode} {world.on_conflict}, cut at {'reply' if plan.of_replies else 'request'} byte {byte}"
    return Case(label + (" for good" if plan.for_good else ""), found)


ROWS = [
    Row(
        "connection cut at every byte of a sweep, both directions",
        "cut",
        cut_at_every_byte,
        full=23_500,
        quick=160,
        control={"ack_first": True},
        control_full=400,
        control_quick=80,
    ),
]
