"""What became of emails, 50,000 events in one burst; the key takes the email and the event, since an email has several."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

from redis.asyncio import Redis

from demo.check import Check, check_run
from demo.example import Burst, Column, Example, Faults, Item, Production
from demo.queries import Query, ask
from demo.scene import Scene

EVENTS, EVENTS_IF_SHORT = 50_000, 2_000
READ_PER_S = 5_000.0
"""About what three consumers get through."""
CAMPAIGNS = ("spring_sale", "spring_news", "welcome", "invoice", "survey")
DOMAINS = ("example.com", "example.org", "example.net")
FIRST_MS = 1_700_000_000_000
BY_EVENT = Query("*", ("GROUPBY", "1", "@event_name", "REDUCE", "COUNT", "0", "AS", "events"))


def count(production: Production) -> int:
    return EVENTS_IF_SHORT if production.is_short else EVENTS


def produce(production: Production) -> Iterator[Burst]:
    """Everything at once."""
    yield 0.0, list(itertools.islice(events(production.seed), count(production)))


def events(seed: int) -> Iterator[Item]:
    """Each email is sent, then bounces, or is perhaps opened, and then perhaps clicked."""
    chance = random.Random(seed)
    for number in itertools.count(1):
        campaign, domain = chance.choice(CAMPAIGNS), chance.choice(DOMAINS)
        at_ms = FIRST_MS + 20 * number
        for event_name in _course(chance):
            fields = {"id": f"mail-{number}", "event_name": event_name, "campaign": campaign, "domain": domain}
            yield Item({**fields, "at_ms": str(at_ms)}, kind=event_name)
            at_ms += chance.randrange(1_000, 3_600_000)


def _course(chance: random.Random) -> tuple[str, ...]:
    luck = chance.random()
    if luck < 0.04:
        return ("sent", "bounce")
    return ("sent", "open", "clicked")[: 1 if luck < 0.4 else 2 if luck < 0.8 else 3]


async def check(client: Redis, scene: Scene) -> list[Check]:
    return [*await check_run(client, scene), await _each_event_counted(client, scene)]


async def _each_event_counted(client: Redis, scene: Scene) -> Check:
    answer = await ask(client, scene.example.stream.index_name, BY_EVENT)
    found = Counter({group[b"event_name"].decode(): int(group[b"events"]) for _, group in answer.hits})
    told = ", ".join(f"{name} {number:,}" for name, number in found.most_common())
    holds = found == Counter(scene.kinds) and found.total() > 0
    return Check(f"FT.AGGREGATE by event_name {'equals' if holds else 'differs from'} what was produced: {told}", holds)


EMAIL = Example(
    name="email",
    things="email events",
    produce=produce,
    check=check,
    queries=(BY_EVENT, Query("@event_name:{bounce} @campaign:{spring*}"), Query("@id:{mail\\-7}")),
    columns=(Column("event_name", 10, "cyan"), Column("campaign", 12, "yellow"), Column("domain", 12)),
    faults=Faults(kills=2, batch_size=500, forgets=0.02),
    rate=READ_PER_S,
    count=count,
)
