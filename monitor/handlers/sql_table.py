"""The table of HANDLER=sql: what it has to have, the row that an entry becomes, and the INSERT that may be repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import Insert

from shared.errors import SettingsError
from stream_janitor import Entry, Unavailable

KEY: Final = ("stream", "entry_id")
"""The columns by which a row is known: they need a unique key over both, and nothing else, and take no NULL."""
_NAME: Final = re.compile(r"[^\W\d]\w*")
# What is equal only by a column's collation (Orders, orders) is another entry, and on MariaDB any unique key of the table takes
# this path. NULL for a NOT NULL column is an error there (on MariaDB in strict mode), so nothing is swallowed.
_SAME_ENTRY_OR_ERROR: Final = {
    "mariadb": "IF(BINARY stream = BINARY VALUES(stream) AND BINARY entry_id = BINARY VALUES(entry_id), entry_id, NULL)",
    "sqlite": "CASE WHEN CAST(stream AS BLOB) = CAST(excluded.stream AS BLOB)"
    " AND CAST(entry_id AS BLOB) = CAST(excluded.entry_id AS BLOB) THEN entry_id END",
}


def columns_of(setting: str) -> dict[str, bytes]:
    """SQL_COLUMNS, ``column=field,column=field``, where a name alone stands for both: column → the field it is filled from.

    Raises:
        SettingsError: naming what is wrong.
    """
    columns: dict[str, bytes] = {}
    for item in filter(None, (part.strip() for part in setting.split(","))):
        column, _, name = (part.strip() for part in item.partition("="))
        if not _NAME.fullmatch(column):
            raise SettingsError([f"SQL_COLUMNS: {column!r} is no column's name"])
        if column.lower() in KEY:
            raise SettingsError([f"SQL_COLUMNS: the column {column!r} is filled by the janitor: leave it out"])
        if column in columns:
            raise SettingsError([f"SQL_COLUMNS: the column {column!r} is there twice"])
        columns[column] = (name or column).encode()
    if not columns:
        raise SettingsError(["SQL_COLUMNS: expected column=field, column=field, …: which field goes into which column"])
    return columns


@dataclass(frozen=True, slots=True)
class Target:
    """The table as the database describes it, and the statement for one row or many."""

    insert: Insert
    columns: Mapping[str, bytes]
    binary: frozenset[str]
    """The columns that take bytes; the others take text."""

    def row(self, entry: Entry) -> dict[str, Any]:
        """The entry's row; NULL for a field that it does not have.

        Raises:
            ValueError: a value is not valid UTF-8, and its column takes text.
        """
        row: dict[str, Any] = {"stream": entry.stream, "entry_id": entry.entry_id}
        for column, name in self.columns.items():
            if name not in entry.fields:
                row[column] = None
            else:
                row[column] = entry.fields[name] if column in self.binary else entry.text(name)
        return row


def look_up(connection: Connection, name: str, columns: Mapping[str, bytes]) -> Target:
    """Ask the database for the table.

    Raises:
        stream_janitor.Unavailable: it is missing, or lacks what the INSERT needs; no entry is at fault.
    """
    schema, _, bare_name = name.rpartition(".")
    try:
        table = sa.Table(bare_name, sa.MetaData(), schema=schema or None, autoload_with=connection)
    except sa.exc.NoSuchTableError:
        raise Unavailable("the table of SQL_TABLE does not exist") from None
    _check(table, columns)
    binary = frozenset(
        column.name for column in table.c if isinstance(column.type, sa.LargeBinary | sa.BINARY | sa.VARBINARY)
    )
    # Without types the database itself turns the text of a field into a number, a time or JSON, or refuses it.
    plain = sa.table(table.name, *(sa.column(column) for column in (*KEY, *columns)), schema=table.schema)
    return Target(_insert(plain, connection.dialect.name), columns, binary)


def _check(table: sa.Table, columns: Mapping[str, bytes]) -> None:
    missing = [column for column in (*KEY, *columns) if column not in table.c]
    if missing:
        raise Unavailable(f"the table of SQL_TABLE has no column {', '.join(missing)}")
    if not _has_key(table):
        raise Unavailable("the table of SQL_TABLE has no unique key over (stream, entry_id)")
    nullable = [name for name in KEY if table.c[name].nullable]
    if nullable:
        raise Unavailable(f"the table of SQL_TABLE takes NULL in {', '.join(nullable)}: declare it NOT NULL")
    fuzzy = [name for name in KEY if not isinstance(table.c[name].type, sa.String)]
    if fuzzy:  # PostgreSQL's citext among them: it takes Orders for orders
        raise Unavailable(f"the table of SQL_TABLE has no plain text in {', '.join(fuzzy)}: declare it TEXT or VARCHAR")
    unfilled = [column.name for column in table.c if _must_be_filled(column) and column.name not in (*KEY, *columns)]
    if unfilled:  # else each entry would be dead-lettered for it
        raise Unavailable(
            f"the table of SQL_TABLE wants a value in {', '.join(unfilled)}, which SQL_COLUMNS leaves out"
        )


def _has_key(table: sa.Table) -> bool:
    keys: list[Sequence[str]] = [[column.name for column in table.primary_key]]
    keys += [
        [column.name for column in constraint.columns]
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    keys += [[column.name for column in index.columns] for index in table.indexes if index.unique]
    return any(sorted(key) == sorted(KEY) for key in keys)


def _must_be_filled(column: sa.Column[Any]) -> bool:
    fills_itself = column.server_default is not None or column.primary_key or column.identity or column.computed
    return not column.nullable and not fills_itself


def _insert(table: sa.TableClause, dialect: str) -> Insert:
    """An INSERT to which a row that is there already, by its stream and entry id, is no conflict; any other is."""
    if dialect in ("mysql", "mariadb"):
        return mysql.insert(table).on_duplicate_key_update({"entry_id": sa.text(_SAME_ENTRY_OR_ERROR["mariadb"])})
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=KEY)
    same_entry = {"entry_id": sa.text(_SAME_ENTRY_OR_ERROR["sqlite"])}
    return sqlite.insert(table).on_conflict_do_update(index_elements=KEY, set_=same_entry)
