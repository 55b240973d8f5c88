"""What a schema says, as it follows SCHEMA in FT.CREATE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_TYPES: Final = {"TEXT", "TAG", "NUMERIC", "GEO", "VECTOR", "GEOSHAPE"}
_OPTIONS: Final = {
    "SORTABLE",
    "UNF",
    "NOSTEM",
    "NOINDEX",
    "CASESENSITIVE",
    "WITHSUFFIXTRIE",
    "INDEXEMPTY",
    "INDEXMISSING",
}

_OPTIONS_WITH_VALUE: Final = {"WEIGHT", "PHONETIC", "SEPARATOR"}


def field_types(schema: Sequence[str]) -> dict[str, str]:
    """Field → type of the words that follow SCHEMA in FT.CREATE: ``name [AS alias] TYPE [options]``, again and again."""
    types: dict[str, str] = {}
    at = 0
    while at < len(schema):
        if schema[at].upper() in _OPTIONS_WITH_VALUE and "".join(schema[at + 1 : at + 2]).upper() not in _TYPES:
            at += 2
            continue
        has_alias = schema[at + 1 : at + 2] and schema[at + 1].upper() == "AS"
        type_at = at + 3 if has_alias else at + 1
        kind = schema[type_at].upper() if type_at < len(schema) else ""
        # A field may be named like a type (text TEXT) and follow an option (SORTABLE text TEXT).
        if kind in _TYPES and schema[at].upper() not in _OPTIONS:
            types[schema[at]] = kind
            at = type_at
        at += 1
    return types
