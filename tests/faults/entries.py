"""Entries of every shape that a producer can send, 100,000 of them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from tests.faults.invariants import look, undrained
from tests.faults.runner import Case, Make, Row, Stage, aftermath, sweep
from tests.faults.worlds import ENTRY_ID_FIELD, Kind, Seeded, World

SEED = 4
BATCH = 500
EACH_CLASS = 6
"""Of each class in a batch: 100,000 entries hold 1,200 of each."""
MOST_FIELDS, MEGABYTE = 9_000, 1_000_000

Maker = Callable[[random.Random, World, bytes], Seeded]


def _bytes(chance: random.Random, least: int, most: int) -> bytes:
    return chance.randbytes(chance.randint(least, most))


def _with(entry: Seeded, *fields: bytes) -> Seeded:
    return replace(entry, fields=(*entry.fields, *fields))


def _binary_id(chance: random.Random, world: World, name: bytes) -> Seeded:
    return world.tweet(name + _bytes(chance, 1, 40))


def _longest_id(chance: random.Random, world: World, name: bytes) -> Seeded:
    return world.tweet(name.ljust(1024, b"x"))


def _many_fields(chance: random.Random, world: World, name: bytes) -> Seeded:
    count = min(round(10 ** chance.uniform(0, 3.96)), MOST_FIELDS)
    return _with(world.tweet(name), *(b"f%d" % (number // 2) for number in range(2 * count)))


def _one_field(chance: random.Random, world: World, name: bytes) -> Seeded:
    return replace(world.tweet(name), fields=(b"id", name))


def _megabyte(chance: random.Random, world: World, name: bytes) -> Seeded:
    return _with(world.tweet(name), b"blob", chance.randbytes(1000) * (MEGABYTE // 1000))


def _twice(chance: random.Random, world: World, name: bytes) -> Seeded:
    return _with(world.tweet(b"not-" + name), b"text", b"", b"id", name, b"text", _bytes(chance, 0, 20))


def _with_the_guards_field(chance: random.Random, world: World, name: bytes) -> Seeded:
    """At fault under `newer`, which needs that field; data like any other under the other rules."""
    kind = Kind.RESERVED if world.on_conflict == "newer" else Kind.HEALTHY
    return _with(replace(world.tweet(name), kind=kind), ENTRY_ID_FIELD, _bytes(chance, 0, 20))


def _of(kind: Kind) -> Maker:
    return lambda chance, world, name: world.tweet(name, kind)


CLASSES: dict[str, Maker] = {
    "plain": _of(Kind.HEALTHY),
    "no id": _of(Kind.NO_ID),
    "empty id": _of(Kind.EMPTY_ID),
    "id over 1 KB": _of(Kind.LONG_ID),
    "id of 1 KB": _longest_id,
    "binary id": _binary_id,
    "one field": _one_field,
    "1 to 9,000 fields": _many_fields,
    "1 MB": _megabyte,
    "fields twice": _twice,
    "wrong type at the key": _of(Kind.WRONG_TYPE),
    "the guard's own field": _with_the_guards_field,
    "deleted": _of(Kind.GONE),
    "younger than the minimum idle time": _of(Kind.YOUNG),
}


def _batch(chance: random.Random, world: World, size: int, counts: Counter[str]) -> list[Seeded]:
    """Entries in a random order, the first few of them to be trimmed away."""
    names = [name for name in CLASSES for _ in range(EACH_CLASS)]
    names += ["plain"] * (size - len(names) - EACH_CLASS)
    chance.shuffle(names)
    counts.update(names)
    counts["trimmed"] += EACH_CLASS
    trimmed = [replace(world.tweet(f"trimmed-{number}"), kind=Kind.GONE) for number in range(EACH_CLASS)]
    return trimmed + [CLASSES[name](chance, world, b"%d-" % number) for number, name in enumerate(names)]


async def fuzzed(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """`count` entries in batches; each batch is swept once and has to be gone, every byte of it accounted for."""
    rules = ("newer", "overwrite", "keep") * 2
    modes = itertools.cycle(stage.modes)
    worlds = [
        stage.world(mode, rule, PAGE_SIZE="200", CONCURRENCY="4", SWEEP_BUDGET_SEC="19")
        for mode, rule in zip(modes, rules, strict=False)
    ]
    counts: Counter[str] = Counter()
    for number in range(max(count // BATCH, 1)):
        world = worlds[number % len(worlds)]
        chance = random.Random(SEED + number)
        world.reset()
        batch = _batch(chance, world, min(BATCH, count), counts)
        world.abandon(batch)
        world.must(("XTRIM", world.stream, "MINID", "=", batch[EACH_CLASS].entry_id))
        report = await sweep(world, make)
        found = undrained(world, look(world))
        if report.error or not report.complete:
            found.append(f"the sweep ended early: {report}")
        wanted = sum(entry.kind is not Kind.YOUNG for entry in batch)
        if report.candidates != wanted:
            found.append(f"{wanted} entries were abandoned, {report.candidates} taken up")
        found += await aftermath(world)
        yield Case(f"batch {number}, {report.settle_mode} {world.on_conflict}", found, size=len(batch))
    for world in worlds:
        world.reset()
    stage.notes.append(", ".join(f"{name} {counted:,}" for name, counted in counts.items()))


ROWS = [
    Row(
        "entries from a fuzzer, of every shape",
        "fuzz",
        fuzzed,
        full=100_500,
        quick=3_000,
        control={"one_pipeline": True},
        control_full=3_000,
        control_quick=1_000,
        each_control_is_caught=True,
    ),
]
