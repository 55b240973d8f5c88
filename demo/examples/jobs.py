"""Jobs that go back to living workers; a few pictures crash every worker that opens them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from redis.asyncio import Redis

from demo.bursts import bursts
from demo.check import Check, nothing_pending, pages, read_hashes, ticks_went_well
from demo.example import Burst, Example, Faults, Fields, Item, Production
from demo.scene import Scene
from monitor.requeued import ORIGINAL_ENTRY_ID, REQUEUE_COUNT

GOOD, POISON = "good", "poison"
WIDTHS = ("64", "128", "256", "512")


def produce(production: Production) -> Iterator[Burst]:
    return bursts(jobs(production.seed), production.rate, random.Random(production.seed))


def jobs(seed: int) -> Iterator[Item]:
    """Without end; one in fifty is a picture that no worker survives."""
    chance = random.Random(seed)
    for number in itertools.count():
        is_poison = number % 50 == 7
        picture = f"broken-{number}.jpg" if is_poison else f"picture-{number}.jpg"
        fields = {"id": f"job-{number}", "picture": picture, "width": chance.choice(WIDTHS)}
        yield Item(fields, POISON if is_poison else GOOD)


def survives(fields: Fields) -> bool:
    return not fields[b"picture"].startswith(b"broken")


async def check(client: Redis, scene: Scene) -> list[Check]:
    settings = scene.example.stream
    produced: dict[bytes, dict[bytes, bytes]] = {}
    copies = 0
    async for entries in pages(client, settings.stream):
        for _, fields in entries:
            if ORIGINAL_ENTRY_ID in fields:
                copies += 1
            else:
                produced[fields[b"id"]] = fields
    done, dead = await _done(client, scene, produced), await _dead(client, scene)
    poison = {job for job, fields in produced.items() if not survives(fields)}
    requeued = sum(tick.count("requeued") for tick in scene.ticks)
    return [
        Check(
            f"{scene.produced:,} jobs produced: {len(done):,} done, {len(dead - done.keys()):,} in the dead-letter stream",
            len(produced) == scene.produced > 0 and done.keys() | dead == produced.keys(),
        ),
        Check(
            f"{len(poison)} pictures that no worker survives: {len(poison & dead)} in the dead-letter stream, "
            f"after {settings.max_requeues} more tries each",
            poison <= dead and not poison & done.keys() and 0 < len(poison) == scene.kinds.get(POISON, 0),
        ),
        Check(
            f"{requeued:,} times a job was added again, by the reports; {copies:,} are there", requeued == copies > 0
        ),
        await nothing_pending(client, settings),
        ticks_went_well(scene),
    ]


async def _done(
    client: Redis, scene: Scene, produced: dict[bytes, dict[bytes, bytes]]
) -> dict[bytes, dict[bytes, bytes]]:
    """The jobs whose result is there and whole; requeueing adds two fields, and changes none."""
    prefix = scene.example.stream.hash_prefix.encode()
    results = await read_hashes(client, [prefix + job for job in produced])
    own = (ORIGINAL_ENTRY_ID, REQUEUE_COUNT)
    seen = {job: {name: value for name, value in results[prefix + job].items() if name not in own} for job in produced}
    return {job: result for job, result in seen.items() if result == produced[job]}


async def _dead(client: Redis, scene: Scene) -> set[bytes]:
    """The dead letters that were tried as often as the settings say."""
    most, found = b"%d" % scene.example.stream.max_requeues, set()
    async for letters in pages(client, f"{scene.example.stream.dead_letter_stream}"):
        found |= {fields[b"id"] for _, fields in letters if fields.get(REQUEUE_COUNT) == most}
    return found


JOBS = Example(
    name="jobs",
    things="jobs",
    produce=produce,
    check=check,
    queries=(),
    columns=(),
    faults=Faults(gives_up=0.02, can_process=survives),
    consumers_stay=True,
)
