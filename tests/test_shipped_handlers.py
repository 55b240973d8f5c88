"""HANDLER=webhook and HANDLER=sql in whole sweeps: an outage dead-letters nothing, and what comes back comes once."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="pip install -r requirements-handlers.txt")
pytest.importorskip("aiohttp", reason="pip install -r requirements-handlers.txt")

from monitor.janitor import Janitor
from monitor.report import SweepReport
from tests.conftest import Scene, sum_of_outcomes
from tests.test_webhook import SECRET, Receiver

pytestmark = pytest.mark.more


class Sweeps:
    """One janitor's sweeps; every time all that is pending is due."""

    def __init__(self, scene: Scene, **changes: str) -> None:
        defaults = {"ACTION": "handle", "INDEX_SCHEMA": "off", "HANDLER_BATCH": "10", "RETRY_BACKOFF": "off"}
        self.scene = scene
        self.janitor = Janitor(scene.settings(**defaults, **changes))

    async def __call__(self) -> SweepReport:
        for entry_id, consumer, _, deliveries in self.scene.pending_rows():
            self.scene.age([entry_id], 60_000, consumer.decode(), deliveries)  # type: ignore[list-item,union-attr,arg-type]
        (report,) = await self.janitor.tick()
        assert report.candidates == sum_of_outcomes(report)
        return report


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def by_webhook(scene: Scene, receiver: Receiver) -> AsyncIterator[Sweeps]:
    sweeps = Sweeps(scene, HANDLER="webhook", HANDLER_URL=receiver.url, HANDLER_SECRET=SECRET)
    yield sweeps
    await sweeps.janitor.close()


@pytest.fixture
async def by_sql(scene: Scene, tmp_path: Path) -> AsyncIterator[Sweeps]:
    url = f"sqlite:///{tmp_path / 'tweets.db'}"
    sweeps = Sweeps(
        scene, HANDLER="sql", HANDLER_URL=url, SQL_TABLE="tweets", SQL_COLUMNS="number=id, author=user, text"
    )
    yield sweeps
    await sweeps.janitor.close()


async def test_a_webhook_gets_every_entry_once_after_an_outage(by_webhook: Sweeps, receiver: Receiver) -> None:
    scene = by_webhook.scene
    scene.add_tweets(25)
    ids = scene.abandon()
    receiver.answer = lambda request: (503, {})
    for _ in range(12):
        report = await by_webhook()
        assert report.error == "the handler is unavailable: the receiver answered HTTP 503"
        assert (report.handled, report.dead_lettered) == (0, 0)
    assert {row[3] for row in scene.pending_rows()} == {1}
    receiver.requests.clear()
    receiver.answer = lambda request: (422 if ids[3].decode() in request.ids else 200, {})
    report = await by_webhook()
    assert (report.handled, report.dead_lettered, report.error, scene.pending()) == (24, 1, None, 0)
    accepted = [one for request in receiver.requests if ids[3].decode() not in request.ids for one in request.ids]
    assert sorted(accepted) == sorted(one.decode() for one in ids if one != ids[3])


async def test_a_table_gets_every_entry_once_after_it_was_missing(by_sql: Sweeps, tmp_path: Path) -> None:
    scene = by_sql.scene
    scene.add_tweets(25)
    scene.add("user", "nobody", "text", "no id")
    scene.abandon()
    for _ in range(12):
        report = await by_sql()
        assert report.error == "the handler is unavailable: the table of SQL_TABLE does not exist"
    with sqlite3.connect(tmp_path / "tweets.db") as database:
        database.execute(
            "CREATE TABLE tweets (stream TEXT NOT NULL, entry_id TEXT NOT NULL, number INTEGER NOT NULL, author TEXT, text TEXT, "
            "UNIQUE (stream, entry_id))"
        )
    report = await by_sql()
    assert (report.handled, report.dead_lettered, report.error, scene.pending()) == (25, 1, None, 0)
    assert sorted(database.execute("SELECT number FROM tweets")) == [(number,) for number in range(25)]
    database.close()
    assert any("IntegrityError" in reason for reason in report.reasons)
