"""A member path of ID_FIELDS: an id that lies inside a field's JSON. Read here only, so it forces gather mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from monitor.outcomes import BAD_ID, NOT_JSON_ID
from shared.id_fields import MemberPath

LARGEST_WHOLE: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps as it is."""
_MISSING: Final = object()


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN, Infinity: not JSON


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)


def members_of(
    values: Mapping[bytes, bytes], paths: Mapping[bytes, MemberPath]
) -> tuple[dict[bytes, bytes], str | None]:
    """What the paths lead to in an entry that holds ``values``, and the first fault that is neither a missing nor an empty id.

    A name is left out if its field or a member is missing. A name at fault has some value that is not empty.
    """
    found: dict[bytes, bytes] = {}
    documents: dict[str, Any] = {}
    fault: str | None = None
    for name, path in paths.items():
        text = values.get(path.field.encode())
        if text is None:
            continue
        if path.field not in documents:
            documents[path.field] = _document(text)
        value = _member(documents[path.field], path.members)
        if value is _MISSING:
            continue
        found[name] = b"-"
        if documents[path.field] is _MISSING:
            fault = fault or NOT_JSON_ID
        elif (key_part := _as_id(value)) is None:
            fault = fault or BAD_ID
        else:
            found[name] = key_part
    return found, fault


def _document(text: bytes) -> Any:
    """The parsed JSON; ``_MISSING`` if it is none."""
    try:
        return _DECODER.decode(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return _MISSING


def _member(document: Any, members: tuple[str, ...]) -> Any:
    if document is _MISSING:
        return None
    for member in members:
        if not isinstance(document, dict) or member not in document:
            return _MISSING
        document = document[member]
    return document


def _as_id(value: Any) -> bytes | None:
    """A string, or a whole number that was written as one; None for anything else: true, 1.0, 1e3, null, an object."""
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
    if type(value) is int and abs(value) <= LARGEST_WHOLE:
        return b"%d" % value
    return None
