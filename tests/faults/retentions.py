"""While the stream is trimmed a group comes to need entries: it is set back or made, or claims by force, between two commands."""

from __future__ import annotations

from collections.abc import AsyncIterator

from monitor.pending import order_of
from tests.faults.kills import held_at, spread_over
from tests.faults.proxy import Barrier
from tests.faults.runner import Case, Make, Row, Stage, aftermath, sweep_through
from tests.faults.worlds import World

ENTRIES, MIDDLE = 250, 60
OTHER = "audit"
COMMANDS = frozenset({b"XPENDING", b"TIME", b"XINFO", b"XACK", b"EVALSHA", b"XTRIM"})
"""Where to hold: what looks at groups or changes the stream."""
ACTS = ("set back", "made", "claims by force")


async def needed_while_trimmed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """Held at each command of a sweep that trims, another group comes to need entries; none of them may go from then on."""
    for mode in stage.modes:
        world = stage.world(mode, "overwrite", RETAIN_SEC="3600", PAGE_SIZE="1000")
        places = await _places(stage, make, world)
        for number, (at, after) in enumerate(spread_over(places, max(count // len(stage.modes), 1))):
            act = ACTS[number % len(ACTS)]
            found = await _one(stage, make, world, Barrier(at, after, COMMANDS), act)
            if found is not None:
                yield Case(f"{mode}, {OTHER} {act} {'after' if after else 'before'} command {at}", found)


async def _places(stage: Stage, make: Make, world: World) -> list[tuple[int, bool]]:
    for plan in (Barrier(0), Barrier(0)):  # the first makes the index and loads the scripts
        _seed(world)
        await sweep_through(plan, stage.server.port, world, make)
    count = sum(name in COMMANDS for name in plan.commands)
    return [(number, after) for number in range(1, count + 1) for after in (False, True)]


def _seed(world: World) -> None:
    """Abandoned entries that another group has finished with."""
    world.reset()
    world.must(("XGROUP", "CREATE", world.stream, OTHER, "0"))
    world.abandon([world.tweet(number) for number in range(ENTRIES)])
    world.must(
        ("XREADGROUP", "GROUP", OTHER, "reader", "COUNT", ENTRIES, "STREAMS", world.stream, ">"),
        ("XACK", world.stream, OTHER, *(entry.entry_id for entry in world.entries)),
    )


async def _one(stage: Stage, make: Make, world: World, barrier: Barrier, act: str) -> list[str] | None:
    """What is wrong; None if the sweep did not come that far."""
    _seed(world)
    reached, running = await held_at(world, make, barrier, stage.server.port)
    needed = _come_to_need(world, act) if reached else set()
    barrier.release()
    await running
    gone = needed - _present(world)
    found = [f"{len(gone)} entries were trimmed that a group was to read or had pending"] if gone else []
    return [*found, *await aftermath(world)] if reached else None


def _come_to_need(world: World, act: str) -> set[bytes]:
    """Let the other group act; the entries that it needs then, of those that are there."""
    present, middle = _present(world), world.entries[MIDDLE].entry_id
    if act == "claims by force":
        # Above what it was given last, too: an entry that is gone is not claimed.
        world.must(("XCLAIM", world.stream, OTHER, "reader", 0, middle, "FORCE", "JUSTID"))
        return present & {middle}
    if act == "set back":
        world.must(("XGROUP", "SETID", world.stream, OTHER, middle))
    else:
        world.must(("XGROUP", "CREATE", world.stream, "late", middle))
    return {entry_id for entry_id in present if order_of(entry_id) > order_of(middle)}


def _present(world: World) -> set[bytes]:
    (rows,) = world.must(("XRANGE", world.stream, "-", "+"))
    return {row[0] for row in rows}


ROWS = [
    Row(
        "a group comes to need entries while the stream is trimmed",
        "retain",
        needed_while_trimmed,
        full=600,
        quick=36,
        control={"trims_by_its_own_bound": True},
        control_full=120,
        control_quick=36,
    ),
]
