"""What a name in ID_FIELDS means: a field; ``@entry``, the stream's own id of the entry; or ``data$.order.id``, a member path
into a field that holds JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

ENTRY_ID: Final = "@entry"
_SEPARATOR: Final = "$."
_JSONPATH_MARKS: Final = frozenset("[]*?()@$'\"")


class MemberPath(NamedTuple):
    """Where in a field's JSON a value is: the members' names, outermost first."""

    field: str
    members: tuple[str, ...]


def path_of(name: str) -> MemberPath | None:
    """The path that ``name`` stands for; None if it is a field or ``@entry``.

    Raises:
        ValueError: it looks like a path and is none; the text says what was expected.
    """
    field, separator, rest = name.partition(_SEPARATOR)
    if not separator:
        return None
    members = tuple(rest.split("."))
    if not field or "" in members or _JSONPATH_MARKS.intersection(rest):
        raise ValueError(
            "expected a path such as data$.order.id: a field, then member names, without indexes or wildcards"
        )
    return MemberPath(field, members)


def first_path(names: Iterable[str]) -> str | None:
    """The first of ``names`` that is a path; such a stream is settled by gather."""
    return next((name for name in names if _SEPARATOR in name), None)


def fields_read(names: Iterable[str]) -> set[str]:
    """The fields of the entry that ``names`` read."""
    return {name.partition(_SEPARATOR)[0] for name in names if name != ENTRY_ID}
