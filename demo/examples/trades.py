"""Trades in bursts of 200; most are abandoned, and three janitors bring them back at no more than 50 a second together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from redis.asyncio import Redis

from demo.check import Check, check_run
from demo.example import Burst, Column, Example, Faults, Item, Production
from demo.queries import Query
from demo.scene import Scene
from demo.window import most_in_a_second

BURST_SIZE = 200
PAUSE_S, PAUSE_IF_SHORT_S = 5.0, 2.0
SYMBOLS = {"ACME": 1_250, "BOLT": 40, "CRANE": 98_700, "DELTA": 7_310, "EMBER": 505}
"""Symbol → about what one costs, in cents."""


def produce(production: Production) -> Iterator[Burst]:
    trades = made_up(production.seed)
    pause_s = PAUSE_IF_SHORT_S if production.is_short else PAUSE_S
    for number in itertools.count():
        yield pause_s if number else 0.0, list(itertools.islice(trades, BURST_SIZE))


def made_up(seed: int) -> Iterator[Item]:
    chance = random.Random(seed)
    for number in itertools.count(1):
        symbol, about_cents = chance.choice(list(SYMBOLS.items()))
        yield Item(
            {
                "id": f"trade-{number}",
                "symbol": symbol,
                "side": chance.choice(("buy", "sell")),
                "price_cents": str(round(about_cents * chance.uniform(0.9, 1.1))),
                "quantity": str(chance.randrange(1, 500)),
            }
        )


async def check(client: Redis, scene: Scene) -> list[Check]:
    return [*await check_run(client, scene), limit_held(scene)]


def limit_held(scene: Scene) -> Check:
    """In no second, wherever it begins, did the janitors together take up more than the limit, which did bite."""
    witness, limit = scene.witness, scene.example.stream.rate_limit
    assert witness is not None, "nobody watched"
    runs = witness.taken_up()
    taken, most = sum(run.count for run in runs), most_in_a_second(runs)
    return Check(
        f"{taken:,} taken up by {scene.example.janitors} janitors, at most {most} in any one second; the limit is {limit}",
        most <= limit < taken and taken >= scene.recovered,
    )


TRADES = Example(
    name="trades",
    things="trades",
    produce=produce,
    check=check,
    queries=(
        Query("@symbol:{ACME} @price_cents:[1300 +inf]"),
        Query("@side:{buy}", ("GROUPBY", "1", "@symbol", "REDUCE", "SUM", "1", "@quantity", "AS", "bought")),
    ),
    columns=(Column("side", 4, "cyan"), Column("price_cents", 7, "yellow"), Column("quantity", 8)),
    faults=Faults(gives_up=0.6),
    janitors=3,
    rate=BURST_SIZE / PAUSE_S,
    is_witnessed=True,
)
