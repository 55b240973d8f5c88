"""HANDLER=sql: INSERT abandoned entries into SQL_TABLE of the database that HANDLER_URL names.

SQLite by default, PostgreSQL and MariaDB by their URLs (SQLAlchemy's form). The table is yours; it needs a unique key over
``(stream, entry_id)``, two columns that the janitor fills, so that a row that is there already is no second one. Any other
conflict is the row's fault. HANDLER_URL is a secret: it is never printed.

======================================================  =========================================================
what the database answers                               what becomes of the entries
======================================================  =========================================================
COMMIT done                                             done
a row refused: NULL, too long, another unique column …  each row alone; the bad one is dead, the others done
lost connection, refused login, missing table …         unavailable
a trigger's own error                                   an attempt
======================================================  =========================================================
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Engine, make_url

from monitor.handlers.sql_errors import Blame, blame, name_of
from monitor.handlers.sql_table import Target, columns_of, look_up
from shared.errors import SettingsError
from stream_janitor import Dead, Done, Entry, Retry, Unavailable

Result: TypeAlias = Done | Retry | Dead | Unavailable
Handler: TypeAlias = Callable[[list[Entry]], dict[str, Result]]

DEFAULT_URL: Final = "sqlite:///stream_janitor.db"
DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
}
_TABLE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)?")
_STRICT: Final = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,STRICT_TRANS_TABLES')"
"""Without it MariaDB shortens what is too long, turns NULL into '' and words into 0, and says so in a warning."""


@contextlib.asynccontextmanager
async def handler(options: Mapping[str, str]) -> AsyncIterator[Handler]:
    """The handler, over one pool of connections; connects at the first call.

    Raises:
        SettingsError: HANDLER_URL, SQL_TABLE or SQL_COLUMNS cannot be used.
    """
    url = url_of(options.get("HANDLER_URL", ""))
    table = options.get("SQL_TABLE", "")
    if not _TABLE.fullmatch(table):
        raise SettingsError(["SQL_TABLE: expected a table's name, or schema.table"])
    columns = columns_of(options.get("SQL_COLUMNS", ""))
    engine = _engine(url, float(options["HANDLER_TIMEOUT_SEC"]))
    try:
        yield Writer(engine, table, columns)
    finally:
        engine.dispose()


def url_of(setting: str) -> URL:
    """HANDLER_URL with the driver that comes in requirements-handlers.txt.

    Raises:
        SettingsError: without a word of it.
    """
    try:
        url = make_url(setting or DEFAULT_URL)
    except (exc.ArgumentError, ValueError):
        raise SettingsError(["HANDLER_URL: expected a URL such as postgresql://user:password@host/database"]) from None
    driver = DRIVERS.get(url.get_backend_name())
    if driver is None or url.drivername not in (url.get_backend_name(), driver):
        raise SettingsError([f"HANDLER_URL: expected {', '.join(DRIVERS)} in front of ://, with no other driver"])
    if driver == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise SettingsError(["HANDLER_URL: name a file; what is stored in memory is gone with the process"])
    return url.set(drivername=driver)


def _engine(url: URL, timeout_s: float) -> Engine:
    arguments = _connect_arguments(url, timeout_s)
    try:
        # As many connections as calls: HANDLER_CONCURRENCY is the limit. A stale connection is replaced before it is used.
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, max_overflow=-1, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise SettingsError(
            [f"HANDLER_URL: its driver {error.name!r} is missing: pip install -r requirements-handlers.txt"]
        ) from None


def _connect_arguments(url: URL, timeout_s: float) -> dict[str, Any]:
    """A database that falls silent must not keep a slot: its own timeouts end the call, the runner's come after."""
    connect_s, whole_s = max(int(min(timeout_s / 2, 10)), 1), max(int(timeout_s), 1)
    if url.get_backend_name() == "sqlite":
        return {"timeout": min(timeout_s / 2, 5.0)}
    if url.get_backend_name() == "postgresql":
        ours = {
            "connect_timeout": max(connect_s, 2),
            "tcp_user_timeout": whole_s * 1000,
            "options": f"-c statement_timeout={whole_s * 1000}",
        }
        return {name: value for name, value in ours.items() if name not in url.query}
    return {"connect_timeout": connect_s, "read_timeout": whole_s, "write_timeout": whole_s, "init_command": _STRICT}


class Writer:
    """Called with a batch on a thread of its own; several at once, each on its connection."""

    def __init__(self, engine: Engine, table: str, columns: Mapping[str, bytes]) -> None:
        self._engine, self._table, self._columns = engine, table, columns
        self._target: Target | None = None

    def __call__(self, entries: list[Entry]) -> dict[str, Result]:
        try:
            target = self._known_target()
            results, rows = _rows(target, entries)
            return results | self._write(target, rows)
        except exc.DBAPIError as error:
            self._target = None  # the table may have changed
            raise Unavailable(f"the database is unavailable ({name_of(error)})") from None
        except exc.TimeoutError:
            raise Unavailable("the database is unavailable (no connection in time)") from None

    def _known_target(self) -> Target:
        if self._target is None:
            with self._engine.connect() as connection:
                self._target = look_up(connection, self._table, self._columns)
        return self._target

    def _write(self, target: Target, rows: dict[str, dict[str, Any]]) -> dict[str, Result]:
        if not rows:
            return {}
        try:
            self._insert(target, list(rows.values()))
        except exc.DBAPIError as error:
            if blame(error) is Blame.DATABASE:
                raise
            return self._write_one_by_one(target, rows)
        return dict.fromkeys(rows, Done())

    def _insert(self, target: Target, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:  # ends with COMMIT: only then is anything done
            connection.execute(target.insert, rows)

    def _write_one_by_one(self, target: Target, rows: dict[str, dict[str, Any]]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        for entry_id, row in rows.items():
            results[entry_id] = result = self._result_of_one(target, row)
            if isinstance(result, Unavailable):
                return dict.fromkeys(rows, result) | results
        return results

    def _result_of_one(self, target: Target, row: dict[str, Any]) -> Result:
        try:
            self._insert(target, [row])
        except exc.DBAPIError as error:
            whose = blame(error)
            if whose is Blame.ROW:
                return Dead(f"the database refuses the row ({name_of(error)})")
            if whose is Blame.UNKNOWN:
                return Retry(reason=f"the database refused the row ({name_of(error)})")
            self._target = None
            return Unavailable(f"the database is unavailable ({name_of(error)})")
        return Done()


def _rows(target: Target, entries: list[Entry]) -> tuple[dict[str, Result], dict[str, dict[str, Any]]]:
    """The entries that no column could take, and the rows of the others."""
    results: dict[str, Result] = {}
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        try:
            rows[entry.entry_id] = target.row(entry)
        except ValueError as error:
            results[entry.entry_id] = Dead(str(error))
    return results, rows
