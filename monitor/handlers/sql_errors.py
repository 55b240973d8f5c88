"""Whose fault a database's error is: a row's, nobody's, or not known."""

from __future__ import annotations

from enum import Enum
from typing import Final

from sqlalchemy import exc


class Blame(Enum):
    """What an error says about the row that met it."""

    ROW = "the row can never be stored"
    UNKNOWN = "the row, perhaps: a trigger refused it"
    DATABASE = "no row: the database, the login or the table"


_POSTGRESQL_ROW: Final = ("22", "23", "54")
"""SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded (a value too long for an index)."""
_POSTGRESQL_UNKNOWN: Final = ("P0",)
"""Raised by a function of the database's own."""
_MARIADB_ROW: Final = frozenset((1153, 1264, 1265, 1292, 1366, 1367, 1406, 3140, 4025))
"""Beside what its driver calls integrity and data errors: packet too large, out of range, truncated, wrong value, CHECK."""
_MARIADB_UNKNOWN: Final = frozenset((1644,))
"""SIGNAL in a trigger."""


def blame(error: exc.DBAPIError) -> Blame:
    """Anything that is not surely about a row is about the database, so that no outage dead-letters anything."""
    if error.connection_invalidated:
        return Blame.DATABASE
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return _by_prefix(state)
    number = _number(error)
    if number in _MARIADB_UNKNOWN:
        return Blame.UNKNOWN
    if number in _MARIADB_ROW or isinstance(error, exc.DataError | exc.IntegrityError):
        return Blame.ROW
    return Blame.DATABASE


def name_of(error: exc.DBAPIError) -> str:
    """The error's class and code, and nothing of its text, which quotes the row."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None) or _number(error)
    return type(error.orig).__name__ + (f" {code}" if code else "")


def _by_prefix(state: str) -> Blame:
    if state.startswith(_POSTGRESQL_ROW):
        return Blame.ROW
    return Blame.UNKNOWN if state.startswith(_POSTGRESQL_UNKNOWN) else Blame.DATABASE


def _number(error: exc.DBAPIError) -> int | None:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None
