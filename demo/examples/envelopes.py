"""Red envelopes: every grant gives one envelope to one user; who is granted several keeps the first that was stored.

The hash of a user is the envelope that the user got, so under ON_CONFLICT=keep it is written once and never again. The money
is counted three times, each by somebody else: by the producer when it granted, by a witness who saw every write that the
server ran, and from the hashes that are there at the end.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from redis.asyncio import Redis

from demo.bursts import bursts
from demo.check import Check, documents_once_indexed, hash_key, nothing_pending, pages, read_hashes, ticks_went_well
from demo.example import Burst, Column, Example, Faults, Item, Production
from demo.queries import Query
from demo.scene import Scene

MOST_CLICKS = 4
LARGEST_CENTS = 20_000
CENTS = "cents"


def produce(production: Production) -> Iterator[Burst]:
    return bursts(grants(production.seed), production.rate, random.Random(production.seed))


def grants(seed: int) -> Iterator[Item]:
    """Without end: users click once or more, and each click is granted an envelope of its own."""
    chance, numbers = random.Random(seed), itertools.count(1)
    for first in itertools.count(step=10):
        clicks = [user for user in range(first, first + 10) for _ in range(chance.randrange(1, MOST_CLICKS + 1))]
        chance.shuffle(clicks)
        for user in clicks:
            amount = chance.randrange(1, LARGEST_CENTS)
            fields = {"user": f"user-{user}", "envelope": f"envelope-{next(numbers)}", "amount_cents": str(amount)}
            yield Item(fields, amounts={CENTS: amount})


@dataclass(frozen=True, slots=True)
class Books:
    """Who got what. Amounts in cents."""

    granted: dict[str, dict[bytes, bytes]]
    """Entry id → the grant."""
    held: dict[bytes, dict[bytes, bytes]]
    """Hash key → what it holds, of all users to whom something was granted."""
    granted_to: dict[bytes, list[dict[bytes, bytes]]]
    """Hash key → the grants to this user."""
    writes: list[tuple[bytes, bytes]]
    """Hash key and envelope of every write that was seen."""
    acknowledged: set[str]

    @property
    def held_cents(self) -> int:
        return sum(map(cents, self.held.values()))

    @property
    def returned_cents(self) -> int:
        """Of the grants that were acknowledged although nobody ever wrote them: these envelopes are free again."""
        written = {envelope for _, envelope in self.writes}
        granted = self.granted.items()
        return sum(cents(grant) for i, grant in granted if i in self.acknowledged and grant[b"envelope"] not in written)


def cents(grant: dict[bytes, bytes]) -> int:
    return int(grant.get(b"amount_cents", b"0"))


async def read_books(client: Redis, scene: Scene) -> Books:
    settings, witness = scene.example.stream, scene.witness
    assert witness is not None, "nobody watched"
    granted = {i.decode(): fields async for page in pages(client, settings.stream) for i, fields in page}
    granted_to: dict[bytes, list[dict[bytes, bytes]]] = {}
    for entry_id, grant in granted.items():
        granted_to.setdefault(hash_key(settings, entry_id.encode(), grant) or b"", []).append(grant)
    writes = []
    for command in witness.named("HSET"):
        fields = dict(zip(command.words[2::2], command.words[3::2], strict=True))
        writes.append((command.words[1].encode(), fields.get("envelope", "").encode()))
    held = await read_hashes(client, list(granted_to))
    return Books(granted, held, granted_to, writes, witness.acknowledged())


async def check(client: Redis, scene: Scene) -> list[Check]:
    settings, books = scene.example.stream, await read_books(client, scene)
    users = len(books.held)
    documents = await documents_once_indexed(client, settings, users)
    return [
        Check(
            f"{scene.produced:,} grants to {users:,} users produced, {documents:,} documents in the index",
            documents == users > 0 and scene.produced == len(books.granted),
        ),
        await nothing_pending(client, settings),
        ticks_went_well(scene),
        _everybody_holds_one_of_their_own(books),
        _nobody_got_two(books),
        _money_adds_up(books, scene),
    ]


def _everybody_holds_one_of_their_own(books: Books) -> Check:
    right = sum(envelope in books.granted_to[key] for key, envelope in books.held.items())
    text = f"{right:,} of {len(books.held):,} users hold exactly one envelope, which was granted to them"
    return Check(text, right == len(books.held))


def _nobody_got_two(books: Books) -> Check:
    """A second write to a user's hash hands out money that no hash shows: of another envelope, or of the same one again."""
    writes = Counter(key for key, _ in books.writes)
    twice = sum(1 for count in writes.values() if count > 1)
    got = {(key, envelope[b"envelope"]) for key, envelope in books.held.items() if envelope}
    return Check(
        f"{len(books.writes):,} envelopes handed out, by the word of a witness; {twice:,} users got a second one",
        twice == 0 and set(books.writes) == got,
    )


def _money_adds_up(books: Books, scene: Scene) -> Check:
    total, held, returned = scene.sums.get(CENTS, 0), books.held_cents, books.returned_cents
    sign = "=" if held + returned == total else "≠"
    return Check(
        f"{_money(held)} in hashes + {_money(returned)} returned {sign} {_money(total)} granted, to the cent",
        held + returned == total and held > 0 and returned > 0,
    )


def _money(amount_cents: int) -> str:
    return f"{amount_cents // 100:,}.{amount_cents % 100:02}"


ENVELOPES = Example(
    name="envelopes",
    things="grants",
    produce=produce,
    check=check,
    queries=(
        Query(
            "*",
            (
                "GROUPBY",
                "0",
                "REDUCE",
                "COUNT",
                "0",
                "AS",
                "users",
                "REDUCE",
                "SUM",
                "1",
                "@amount_cents",
                "AS",
                "cents",
            ),
        ),
        Query("@amount_cents:[15000 +inf]"),
        Query("@user:{user\\-7}"),
    ),
    columns=(Column("envelope", 16, "cyan"), Column("amount_cents", 12)),
    faults=Faults(gives_up=0.2, forgets=0.15),
    janitors=4,
    is_witnessed=True,
)
