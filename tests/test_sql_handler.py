"""HANDLER=sql against real databases: done after COMMIT, one row an entry, and a bad row costs no other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy", reason="pip install -r requirements-handlers.txt")

from monitor.handlers import sql  # noqa: E402
from monitor.handlers.sql_table import _SAME_ENTRY_OR_ERROR, columns_of  # noqa: E402
from shared.errors import SettingsError  # noqa: E402
from stream_janitor import Dead, Done, Entry, Unavailable  # noqa: E402
from tests.databases import DATABASES, PASSWORD, Database  # noqa: E402

pytestmark = pytest.mark.more

COLUMNS = "mail=id, event, at_ms, note"
_tables = itertools.count(1)


def entry(number: int, *, stream: str = "emails", **fields: str | bytes) -> Entry:
    values = {"id": f"mail-{number}", "event": "sent", "at_ms": str(number), **fields}
    pairs = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in values.items()]
    return Entry(f"{number}-0", tuple(pairs), stream, "stats", 2, "crashed", 60.0)


class Sink:
    """A database with a fresh table, and the handler over it."""

    def __init__(self, url: str, server: Database | None, kind: str) -> None:
        self.url, self.server, self.kind = url, server, kind
        self.table = f"events{next(_tables)}"
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    def execute(self, statement: str) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(sa.text(statement))
            return list(result) if result.returns_rows else []

    def create(self, more: str = "", stream: str = "VARCHAR(100)", key: str = "UNIQUE (stream, entry_id)") -> None:
        binary = {"postgresql": "BYTEA"}.get(self.kind, "BLOB")
        self.execute(
            f"CREATE TABLE {self.table} (stream {stream} NOT NULL, entry_id VARCHAR(50) NOT NULL, mail VARCHAR(20) NOT NULL, "
            f"event VARCHAR(10), at_ms BIGINT, note {binary}{', ' + more if more else ''}{', ' + key if key else ''})"
        )

    def rows(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.execute(f"SELECT stream, entry_id, mail FROM {self.table} ORDER BY 1, 2")]

    def options(self, **changes: str) -> dict[str, str]:
        defaults = {
            "HANDLER_URL": self.url,
            "SQL_TABLE": self.table,
            "SQL_COLUMNS": COLUMNS,
            "HANDLER_TIMEOUT_SEC": "20",
        }
        return defaults | changes

    async def send(self, *entries: Entry, **changes: str) -> list[Any]:
        async with sql.handler(self.options(**changes)) as write:
            results = await asyncio.to_thread(write, list(entries))
        return [results[one.entry_id] for one in entries]


@pytest.fixture(scope="module", params=["sqlite", *DATABASES])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Database | None, str]]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'events.db'}", None, "sqlite"
        return
    with DATABASES[request.param]() as server:
        yield server.url, server, request.param


@pytest.fixture
def sink(place: tuple[str, Database | None, str]) -> Sink:
    return Sink(*place)


def is_dead(result: object) -> bool:
    return isinstance(result, Dead)


async def test_each_entry_becomes_a_row_once_however_often_it_comes(sink: Sink) -> None:
    sink.create()
    for _ in range(3):
        assert await sink.send(entry(1), entry(2), entry(3)) == [Done()] * 3
    assert await sink.send(entry(3), entry(4)) == [Done()] * 2
    assert sink.rows() == [("emails", f"{number}-0", f"mail-{number}") for number in (1, 2, 3, 4)]


async def test_equal_ids_of_two_streams_are_two_rows(sink: Sink) -> None:
    sink.create()
    assert await sink.send(entry(1), entry(2)) == [Done()] * 2
    assert await sink.send(entry(1, stream="other"), entry(2, stream="other")) == [Done()] * 2
    assert len(sink.rows()) == 4


async def test_another_unique_column_is_the_row_s_fault_and_never_swallowed(sink: Sink) -> None:
    sink.create("UNIQUE (mail)")
    results = await sink.send(entry(1), entry(2, id="mail-1"), entry(3))
    assert [is_dead(result) for result in results] == [False, True, False]
    assert [row[1] for row in sink.rows()] == ["1-0", "3-0"]
    assert "mail-1" not in str(results[1])
    again = await sink.send(entry(1), entry(2, id="mail-1"), entry(3))
    assert [is_dead(result) for result in again] == [False, True, False]


async def test_null_where_none_may_be_is_the_row_s_fault(sink: Sink) -> None:
    sink.create()
    without = Entry("2-0", ((b"event", b"sent"),), "emails", "stats", 2, "crashed", 60.0)
    results = await sink.send(entry(1), without, entry(3))
    assert [is_dead(result) for result in results] == [False, True, False]
    assert [row[1] for row in sink.rows()] == ["1-0", "3-0"]


async def test_overlong_text_is_the_row_s_fault(sink: Sink) -> None:
    if sink.kind == "sqlite":
        sink.create("CHECK (length(mail) <= 20)")  # it ignores the length of VARCHAR
    else:
        sink.create()
    results = await sink.send(entry(1), entry(2, id="x" * 21), entry(3))
    assert [is_dead(result) for result in results] == [False, True, False]
    assert [row[2] for row in sink.rows()] == ["mail-1", "mail-3"]


async def test_words_where_a_number_belongs_are_the_row_s_fault(sink: Sink) -> None:
    if sink.kind == "sqlite":
        sink.create("CHECK (typeof(at_ms) = 'integer')")  # its types are wishes
    else:
        sink.create()
    results = await sink.send(entry(1), entry(2, at_ms="yesterday"), entry(3, at_ms="3"))
    assert [is_dead(result) for result in results] == [False, True, False]
    assert sink.execute(f"SELECT SUM(at_ms) FROM {sink.table}")[0][0] == 4


async def test_bytes_that_are_no_text_go_into_a_binary_column_and_into_no_other(sink: Sink) -> None:
    sink.create()
    results = await sink.send(entry(1, note=b"\xff\x00\xfe"), entry(2, event=b"\xff"))
    assert results == [Done(), Dead("field 'event' is not valid UTF-8")]
    assert [bytes(row[0]) for row in sink.execute(f"SELECT note FROM {sink.table}")] == [b"\xff\x00\xfe"]


async def test_any_text_arrives_as_it_was(sink: Sink) -> None:
    sink.create()
    text = "'\"\\%s:x 🦉\n"
    await sink.send(entry(1, id=text))
    assert sink.rows()[0][2] == text


async def test_streams_that_the_column_cannot_tell_apart_lose_nothing(sink: Sink) -> None:
    """A collation that takes Emails for emails: the second is refused aloud, not taken for a repetition."""
    kinds = {"mariadb": "VARCHAR(100) COLLATE utf8mb4_general_ci", "sqlite": "VARCHAR(100) COLLATE NOCASE"}
    if sink.kind not in kinds:
        pytest.skip("its collations tell case apart")
    sink.create(stream=kinds[sink.kind])
    assert await sink.send(entry(1)) == [Done()]
    (result,) = await sink.send(entry(1, stream="Emails"))
    assert is_dead(result)
    assert await sink.send(entry(1)) == [Done()]


async def test_a_missing_table_is_unavailable_and_found_once_it_is_there(sink: Sink) -> None:
    async with sql.handler(sink.options()) as write:
        with pytest.raises(Unavailable, match="SQL_TABLE does not exist"):
            await asyncio.to_thread(write, [entry(1)])
        sink.create()
        assert await asyncio.to_thread(write, [entry(1)]) == {"1-0": Done()}
        sink.execute(f"DROP TABLE {sink.table}")
        for _ in range(2):
            with pytest.raises(Unavailable):
                await asyncio.to_thread(write, [entry(1)])
        sink.create()
        assert await asyncio.to_thread(write, [entry(1)]) == {"1-0": Done()}


async def test_a_table_that_cannot_keep_the_promise_is_unavailable_by_name(sink: Sink) -> None:
    async def told(**changes: str) -> str:
        with pytest.raises(Unavailable) as unavailable:
            await sink.send(entry(1), **changes)
        sink.execute(f"DROP TABLE {sink.table}")
        return str(unavailable.value)

    sink.create(key="")
    assert "no unique key over (stream, entry_id)" in await told()
    sink.create(key="UNIQUE (stream, entry_id, mail)")
    assert "no unique key over (stream, entry_id)" in await told()
    sink.create()
    assert "no column missing" in await told(SQL_COLUMNS="mail=id,missing=x")
    sink.create("kind INTEGER NOT NULL")
    assert "wants a value in kind" in await told()
    sink.execute(
        f"CREATE TABLE {sink.table} (stream VARCHAR(9), entry_id VARCHAR(9), mail VARCHAR(9), UNIQUE (stream, entry_id))"
    )
    assert "takes NULL in stream, entry_id" in await told(SQL_COLUMNS="mail=id")
    sink.execute(
        f"CREATE TABLE {sink.table} (stream INTEGER NOT NULL, entry_id VARCHAR(9) NOT NULL, mail TEXT, "
        "UNIQUE (stream, entry_id))"
    )
    assert "no plain text in stream" in await told(SQL_COLUMNS="mail=id")


async def test_a_primary_key_of_the_table_s_own_is_no_hindrance(sink: Sink) -> None:
    kinds = {
        "postgresql": "BIGSERIAL PRIMARY KEY",
        "mariadb": "BIGINT AUTO_INCREMENT PRIMARY KEY",
        "sqlite": "INTEGER PRIMARY KEY",
    }
    sink.create(f"number {kinds[sink.kind]}, seen TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL")
    assert await sink.send(entry(1), entry(2)) == [Done()] * 2
    assert await sink.send(entry(1), entry(2)) == [Done()] * 2
    assert len(sink.rows()) == 2


async def test_many_rows_with_one_bad_in_the_middle(sink: Sink) -> None:
    sink.create("UNIQUE (mail)")
    results = await sink.send(
        *(entry(number, id="mail-7" if number == 250 else f"mail-{number}") for number in range(500))
    )
    assert [number for number, result in enumerate(results) if result != Done()] == [250]
    assert len(sink.rows()) == 499


async def test_a_batch_in_which_a_row_is_twice_is_one_row(sink: Sink) -> None:
    sink.create()
    async with sql.handler(sink.options()) as write:
        assert await asyncio.to_thread(write, [entry(1), entry(1)]) == {"1-0": Done()}
    assert len(sink.rows()) == 1


async def test_calls_at_once_have_connections_of_their_own(sink: Sink) -> None:
    sink.create()
    async with sql.handler(sink.options()) as write:
        batches = [[entry(number + 10 * at) for number in range(10)] for at in range(12)]
        results = await asyncio.gather(*(asyncio.to_thread(write, batch) for batch in batches))
    assert all(result == Done() for told in results for result in told.values())
    assert len(sink.rows()) == 120


# --- the database goes away -----------------------------------------------------------------------------------------------


async def test_a_server_that_is_killed_is_unavailable_and_back_when_it_is_back(sink: Sink) -> None:
    if sink.server is None:
        pytest.skip("SQLite has no server")
    sink.create()
    async with sql.handler(sink.options()) as write:
        assert await asyncio.to_thread(write, [entry(1)]) == {"1-0": Done()}
        sink.server.kill()
        for _ in range(3):
            with pytest.raises(Unavailable, match="the database is unavailable"):
                await asyncio.to_thread(write, [entry(2)])
        sink.server.start()
        assert await asyncio.to_thread(write, [entry(1), entry(2)]) == {"1-0": Done(), "2-0": Done()}
    assert len(sink.rows()) == 2


async def test_a_refused_login_is_unavailable_and_prints_no_password(sink: Sink) -> None:
    if sink.kind == "sqlite":
        pytest.skip("SQLite has no logins")
    url = sa.make_url(sink.url)
    wrong = url.set(username="nobody_known", password=PASSWORD).render_as_string(hide_password=False)
    with pytest.raises(Unavailable) as unavailable:
        await sink.send(entry(1), HANDLER_URL=wrong)
    told = f"{unavailable.value!r} {unavailable.value.__cause__!r}"
    assert PASSWORD not in told
    assert "nobody_known" not in told


async def test_a_missing_database_or_folder_is_unavailable(sink: Sink) -> None:
    url = sa.make_url(sink.url)
    database = "/no/such/folder/file.db" if sink.kind == "sqlite" else "missing"
    with pytest.raises(Unavailable):
        await sink.send(entry(1), HANDLER_URL=url.set(database=database).render_as_string(hide_password=False))


async def test_a_locked_database_is_unavailable_and_not_an_attempt(tmp_path: Path) -> None:
    sink = Sink(f"sqlite:///{tmp_path / 'locked.db'}", None, "sqlite")
    sink.create()
    with contextlib.closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="the database is unavailable"):
            await sink.send(entry(1), HANDLER_TIMEOUT_SEC="0.2")
    assert sink.rows() == []


# --- controls: what a naive INSERT does -----------------------------------------------------------------------------------


@pytest.fixture
async def mariadb_sink() -> AsyncIterator[Sink]:
    with DATABASES["mariadb"]() as server:
        yield Sink(server.url, server, "mariadb")


async def test_naive_inserts_are_caught(mariadb_sink: Sink) -> None:
    """INSERT IGNORE, ON DUPLICATE KEY without a look at which key, and no strict mode each lose a row without a word."""
    sink = mariadb_sink
    assert (await sink_losses(sink, "IGNORE", "")) == {"unique", "null", "long"}
    assert "unique" in await sink_losses(sink, "", "ON DUPLICATE KEY UPDATE entry_id = entry_id")
    sloppy = await sink_losses(sink, "", f"ON DUPLICATE KEY UPDATE entry_id = {_SAME_ENTRY_OR_ERROR['mariadb']}")
    assert "long" in sloppy
    strict = await sink_losses(
        sink, "", f"ON DUPLICATE KEY UPDATE entry_id = {_SAME_ENTRY_OR_ERROR['mariadb']}", sql._STRICT
    )
    assert strict == set()


async def sink_losses(sink: Sink, ignore: str, clause: str, mode: str = "SET SESSION sql_mode = ''") -> set[str]:
    """Which bad rows a statement swallows: no error, and no whole row of theirs in the table."""
    bad = {"unique": ("2-0", "'taken'"), "null": ("3-0", "NULL"), "long": ("4-0", "'" + "x" * 21 + "'")}
    lost = set()
    for name, (entry_id, mail) in bad.items():
        sink.table = f"naive{next(_tables)}"
        sink.create("UNIQUE (mail)")
        sink.execute(f"INSERT INTO {sink.table} (stream, entry_id, mail) VALUES ('s', '1-0', 'taken')")
        with contextlib.suppress(sa.exc.DBAPIError), sink.engine.begin() as connection:
            connection.execute(sa.text(mode))
            values = f"('s', '{entry_id}', {mail}), ('s', '9-0', 'good')"
            connection.execute(
                sa.text(f"INSERT {ignore} INTO {sink.table} (stream, entry_id, mail) VALUES {values} {clause}")
            )
            lost.add(name)
    return lost


# --- settings -------------------------------------------------------------------------------------------------------------


def test_columns_are_mapped_by_name() -> None:
    assert columns_of("mail=id, event ,note = the note") == {"mail": b"id", "event": b"event", "note": b"the note"}


@pytest.mark.parametrize("setting", ["", " , ", "=id", "a b=id", "stream=id", "Entry_ID", "a,a", "a;drop table x=id"])
def test_columns_that_cannot_be_are_refused_by_their_setting(setting: str) -> None:
    with pytest.raises(SettingsError, match="SQL_COLUMNS: "):
        columns_of(setting)


@pytest.mark.parametrize(
    "url",
    [
        "kanarie",
        "oracle://kanarie@h/d",
        "postgresql+asyncpg://kanarie@h/d",
        "sqlite://",
        "sqlite:///:memory:",
        "://kanarie",
    ],
)
def test_urls_that_cannot_be_are_refused_without_a_word_of_them(url: str) -> None:
    with pytest.raises(SettingsError, match="HANDLER_URL: ") as refused:
        sql.url_of(url)
    assert "kanarie" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mariadb", "mysql"])
def test_urls_get_the_drivers_that_are_shipped(scheme: str) -> None:
    assert sql.url_of(f"{scheme}://u:p@h/d").drivername in sql.DRIVERS.values()
    assert sql.url_of("").render_as_string() == sql.DEFAULT_URL
