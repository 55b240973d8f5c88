"""A setting is one row, and the row stands at the dataclass field that it fills: ``field(metadata=env.get(…))``.

Imported as ``env``. The variables' defaults, the keys of a STREAMS item, the reading and the docs' table all come from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Final, NamedTuple

REQUIRED: Final = None
"""As a default: there is none, and the variable must be set."""

Metadata = dict[str, Any]


class Row(NamedTuple):
    """All there is to know about one variable."""

    variable: str
    default: str | None
    """As somebody would write it; ``REQUIRED``: there is none."""
    parse: Callable[[str], Any]
    """From the text to the field's value, in the field's unit; raises ValueError with what was expected, not with the text."""
    effect: str
    """For the docs' table, in Markdown."""
    unit: str
    """Of the variable."""
    item_key: str | None
    """The key of a STREAMS item that says the same for one stream; None: it holds for all of them."""
    is_verbatim: bool
    """Whether blanks at its ends are part of the value."""


def get(
    variable: str,
    default: str | None,
    parse: Callable[[str], Any],
    effect: str,
    *,
    unit: str = "",
    item_key: str | None = None,
    is_verbatim: bool = False,
) -> Metadata:
    """The metadata of a field that gets its value from ``variable``."""
    return {"row": Row(variable, default, parse, effect, unit, item_key, is_verbatim)}


def without_row(reason: str) -> Metadata:
    """The metadata of a field that no variable of its own fills, and why."""
    return {"without_row": reason}


def rows_of(settings_class: type[Any]) -> Iterator[tuple[str, Row]]:
    """The fields of a settings class that have a row, by name, in their order."""
    for field in fields(settings_class):
        if "row" in field.metadata:
            yield field.name, field.metadata["row"]
