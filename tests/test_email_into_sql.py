"""Batches of email events into a database while workers crash: at the end there are as many rows as events.

The workers insert by the same handler as the janitor. Some are killed before their INSERT, some after it and before XACK; what
they held comes back by HANDLER=sql. MariaDB where it is installed, else SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

sa = pytest.importorskip("sqlalchemy", reason="pip install -r requirements-handlers.txt")

from demo.examples.email import events  # noqa: E402
from monitor.handlers import sql  # noqa: E402
from monitor.janitor import Janitor  # noqa: E402
from stream_janitor import Entry  # noqa: E402
from tests.conftest import Scene  # noqa: E402
from tests.databases import DATABASES  # noqa: E402

pytestmark = pytest.mark.more

EVENTS, BATCH = 2_000, 50
OPTIONS = {"SQL_COLUMNS": "mail=id, event=event_name, campaign, domain, at_ms=at_ms", "HANDLER_TIMEOUT_SEC": "20"}
TABLE = (
    "CREATE TABLE events (stream VARCHAR(100) NOT NULL, entry_id VARCHAR(50) NOT NULL, mail VARCHAR(30) NOT NULL, "
    "event VARCHAR(10) NOT NULL, campaign VARCHAR(20), domain VARCHAR(30), at_ms BIGINT{key})"
)
KEY = ", UNIQUE (stream, entry_id)"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(DATABASES["mariadb"]()).url
        except pytest.skip.Exception:
            url = f"sqlite:///{tmp_path_factory.mktemp('email') / 'events.db'}"
        yield url


@pytest.fixture
def table(database: str) -> Iterator[Callable[[str], Any]]:
    """Asks the database; its table is empty."""
    engine = sa.create_engine(database, poolclass=sa.NullPool)

    def ask(statement: str) -> list[Any]:
        with engine.begin() as connection:
            result = connection.execute(sa.text(statement))
            return list(result) if result.returns_rows else []

    yield ask
    ask("DROP TABLE IF EXISTS events")


def produced(scene: Scene) -> Counter[tuple[str, str]]:
    """EVENTS of the example, and what they say: mail and event."""
    items = list(itertools.islice(events(7), EVENTS))
    for item in items:
        scene.add(*itertools.chain.from_iterable(item.fields.items()))
    return Counter((item.fields["id"], item.fields["event_name"]) for item in items)


def work(port: int, stream: str, group: str, name: str, url: str, crash: str, after: int, naive: bool) -> None:
    """A worker: reads batches, inserts, acknowledges; is killed at ``crash`` of the batch number ``after``."""

    async def run() -> None:
        client = redis.Redis(port=port)
        insert = _naive_insert(url) if naive else None
        async with sql.handler({**OPTIONS, "HANDLER_URL": url, "SQL_TABLE": "events"}) as write:
            for number in itertools.count():
                reply: Any = client.xreadgroup(group, name, {stream: ">"}, count=BATCH)
                if not reply:
                    return
                entries = [
                    Entry(entry_id.decode(), tuple(fields.items()), stream, group, 1, name, 0.0)
                    for entry_id, fields in reply[0][1]
                ]
                if number == after and crash == "before the insert":
                    os.kill(os.getpid(), signal.SIGKILL)
                (insert or write)(entries)
                if number == after and crash == "before the acknowledgement":
                    os.kill(os.getpid(), signal.SIGKILL)
                client.xack(stream, group, *(one.entry_id for one in entries))

    asyncio.run(run())


def _naive_insert(url: str) -> Callable[[list[Entry]], None]:
    """Control: the same rows without a key to know them by."""
    engine = sa.create_engine(sql.url_of(url))

    def insert(entries: list[Entry]) -> None:
        rows = [{"s": e.stream, "i": e.entry_id, "m": e.text("id"), "e": e.text("event_name")} for e in entries]
        with engine.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO events (stream, entry_id, mail, event) VALUES (:s, :i, :m, :e)"), rows
            )

    return insert


CRASHES = ("before the insert", "before the acknowledgement", "never")


async def _crash_on_the_way(scene: Scene, url: str, naive: bool = False) -> None:
    """Two workers at once that are killed, and a third that reads the rest."""
    context = multiprocessing.get_context("spawn")
    port = int(scene.environment["REDIS_HOST"].rpartition(":")[2])
    workers = [
        context.Process(target=work, args=(port, scene.stream, scene.group, f"worker-{number}", url, crash, 2, naive))
        for number, crash in enumerate(CRASHES)
    ]
    *victims, survivor = workers
    for some in (victims, [survivor]):  # the survivor last: it reads whatever is left
        for worker in some:
            worker.start()
        for worker in some:
            await asyncio.to_thread(worker.join)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    for entry_id, consumer, _, deliveries in scene.pending_rows():
        scene.age([entry_id], 60_000, consumer.decode(), deliveries)  # type: ignore[list-item,union-attr,arg-type]


async def _recover(scene: Scene, **settings: str) -> Any:
    janitor = Janitor(scene.settings(ACTION="handle", INDEX_SCHEMA="off", HANDLER_BATCH=str(BATCH), **settings))
    (report,) = await janitor.tick()
    await janitor.close()
    return report


def rows_of(table: Callable[[str], Any]) -> Counter[tuple[str, str]]:
    return Counter((mail, event) for mail, event in table("SELECT mail, event FROM events"))


async def test_at_the_end_there_are_as_many_rows_as_events(scene: Scene, database: str, table: Any) -> None:
    table(TABLE.format(key=KEY))
    expected = produced(scene)
    await _crash_on_the_way(scene, database)
    abandoned = scene.pending()
    assert abandoned == 2 * BATCH
    report = await _recover(
        scene, HANDLER="sql", HANDLER_URL=database, SQL_TABLE="events", SQL_COLUMNS=OPTIONS["SQL_COLUMNS"]
    )
    assert (report.handled, report.error, scene.pending()) == (abandoned, None, 0)
    assert rows_of(table) == expected
    assert table("SELECT COUNT(*) FROM events")[0][0] == EVENTS


async def test_a_table_without_a_key_holds_events_twice_and_the_check_sees_it(
    scene: Scene, database: str, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the janitor itself refuses such a table, so a naive handler inserts what comes back."""
    table(TABLE.format(key=""))
    expected = produced(scene)
    await _crash_on_the_way(scene, database, naive=True)
    monkeypatch.setattr("tests.test_email_into_sql.naive", _naive_insert(database), raising=False)
    report = await _recover(scene, HANDLER="tests.test_email_into_sql:naive")
    assert report.handled == 2 * BATCH
    twice = rows_of(table) - expected
    assert twice.total() == BATCH


async def test_a_janitor_that_only_acknowledges_loses_events_and_the_check_sees_it(
    scene: Scene, database: str, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""
    table(TABLE.format(key=KEY))
    expected = produced(scene)
    await _crash_on_the_way(scene, database)
    monkeypatch.setattr("tests.test_email_into_sql.only_acknowledges", lambda entries: None, raising=False)
    await _recover(scene, HANDLER="tests.test_email_into_sql:only_acknowledges")
    assert (expected - rows_of(table)).total() == BATCH
