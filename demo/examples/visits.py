"""Site visits by user and session; some hold what the index refuses, some have no session."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from redis.asyncio import Redis

from demo.bursts import bursts
from demo.check import Check, documents_once_indexed, hashes_equal_entries, nothing_pending, pages, ticks_went_well
from demo.example import Burst, Column, Example, Faults, Fields, Item, Production
from demo.queries import Query
from demo.scene import Scene

GOOD, REFUSED, NO_SESSION = "good", "refused", "no session"
MOST_REFUSED, MOST_NO_SESSION = 12, 6
"""A report names at most 20 entries for one reason, however many pile up before a slow tick."""
USERS = ("web:anna", "web:bo", "app:chen", "app:dia", "50%off", "kiosk")
PAGES = ("home", "red shoes", "blue shoes", "basket", "checkout", "help with returns")
REFERRERS = ("search", "newsletter", "direct", "partner")


def produce(production: Production) -> Iterator[Burst]:
    return bursts(visits(production.seed), production.rate, random.Random(production.seed))


def visits(seed: int) -> Iterator[Item]:
    """Without end; the bad ones are among the first few hundred."""
    chance = random.Random(seed)
    for number in itertools.count():
        fields = {
            "user": chance.choice(USERS),
            "session": f"s{number}",
            "page": chance.choice(PAGES),
            "referrer": chance.choice(REFERRERS),
            "seconds": str(chance.randrange(1, 900)),
        }
        if number % 20 == 3 and number < 20 * MOST_REFUSED:
            yield Item({**fields, "seconds": chance.choice(("n/a", "a while", "--"))}, REFUSED, is_named=True)
        elif number % 40 == 11 and number < 40 * MOST_NO_SESSION:
            del fields["session"]
            yield Item(fields, NO_SESSION, is_named=True)
        else:
            yield Item(fields, GOOD)


def understood(fields: Fields) -> bool:
    """The consumers stumble over what they cannot read as a number, and over a visit without a session."""
    return fields[b"seconds"].isdigit() and b"session" in fields


async def check(client: Redis, scene: Scene) -> list[Check]:
    settings, kinds = scene.example.stream, scene.kinds
    good, stored = kinds.get(GOOD, 0), scene.produced - kinds.get(NO_SESSION, 0)
    documents = await documents_once_indexed(client, settings, good)
    return [
        Check(f"{good:,} good visits produced, {documents:,} documents in the index", good == documents > 0),
        await nothing_pending(client, settings),
        await hashes_equal_entries(client, settings, stored),
        ticks_went_well(scene),
        _refused_are_named(scene),
        await _dead_letters_are_those_without_session(client, scene),
    ]


def _refused_are_named(scene: Scene) -> Check:
    made, named = (
        scene.named_of(REFUSED),
        sorted(entry_id for tick in scene.ticks for entry_id in tick.named("unsearchable")),
    )
    counted = sum(tick.count("unsearchable") for tick in scene.ticks)
    return Check(
        f"{len(made)} visits made that the index refuses; the reports count {counted} and name {_list(named)}",
        sorted(made) == named and counted == len(made) > 0,
    )


async def _dead_letters_are_those_without_session(client: Redis, scene: Scene) -> Check:
    made, dead = scene.named_of(NO_SESSION), []
    async for letters in pages(client, f"{scene.example.stream.dead_letter_stream}"):
        dead += [fields[b"entry_id"].decode() for _, fields in letters if fields[b"reason"] == b"no id field"]
    return Check(
        f"{len(made)} visits made without a session; dead letters: {_list(sorted(dead))}",
        sorted(made) == sorted(dead) and len(made) > 0,
    )


def _list(ids: list[str]) -> str:
    return ", ".join(ids) if len(ids) <= 3 else f"{ids[0]}, {ids[1]} … {ids[-1]}"


VISITS = Example(
    name="visits",
    things="visits",
    produce=produce,
    check=check,
    queries=(
        Query("@page:shoes @seconds:[600 +inf]"),
        Query("*", ("GROUPBY", "1", "@referrer", "REDUCE", "AVG", "1", "@seconds", "AS", "seconds")),
        Query("@user:{web\\:anna} @referrer:{news*}"),
    ),
    columns=(Column("page", 17, "cyan"), Column("referrer", 10, "yellow"), Column("seconds", 7)),
    faults=Faults(can_process=understood),
)
