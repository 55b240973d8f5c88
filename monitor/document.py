"""STORE_AS=json: the document that an entry becomes, and whether RedisJSON would keep it as it is.

In Python here, for gather, redrive and the dry run; in Lua in document.lua. tests/test_document.py holds the two together.
Whether a text is JSON to the last comma JSON.SET itself says; here it is only seen to be one object with nothing behind it, as
JSON.SET takes ``{"a": 1} and more`` for ``{"a": 1}``. (UTF-8 is its word too where a script asks it.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from monitor.json_numbers import is_changed
from monitor.outcomes import NO_PAYLOAD, NOT_JSON, NOT_UTF8, NUMBER_CHANGED

DEEPEST: Final = 127
"""RedisJSON's limit of objects and arrays inside each other."""
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)
_STRING: Final = re.compile(rb'"[^"]*"')
_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]*")
_MAY_CHANGE: Final = re.compile(rb"[0-9.]{16}|[0-9][eE]")
"""Shorter numbers without an exponent are kept as they are."""
_NO_BRACES: Final = bytes(set(range(256)) - set(b"{}"))
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_BLANKS: Final = b" \t\r\n"


class DocumentRule:
    """What becomes a document: the field PAYLOAD_FIELD as it is, or all fields as strings."""

    __slots__ = ("_payload_field",)

    def __init__(self, payload_field: str | None) -> None:
        self._payload_field = None if payload_field is None else payload_field.encode()

    def of(self, fields: Sequence[bytes]) -> tuple[bytes, None] | tuple[None, str]:
        """The document of an entry that holds ``fields`` (names and values in turn), or None and the entry's fault.

        Of a field that is there twice the last value counts.
        """
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        if self._payload_field is None:
            return _of_strings(values)
        document = values.get(self._payload_field)
        if document is None:
            return None, NO_PAYLOAD
        fault = _fault_of(document)
        return (document, None) if fault is None else (None, fault)


def _of_strings(values: dict[bytes, bytes]) -> tuple[bytes, None] | tuple[None, str]:
    try:
        strings = {name.decode("utf-8"): value.decode("utf-8") for name, value in values.items()}
    except UnicodeDecodeError:
        return None, NOT_UTF8
    return json.dumps(strings, ensure_ascii=False).encode(), None


def _fault_of(document: bytes) -> str | None:
    bare = _without_strings(document)
    if not _is_one_object(bare):
        return NOT_JSON
    if _MAY_CHANGE.search(bare) and any(map(is_changed, _NUMBER.findall(bare))):
        return NUMBER_CHANGED
    try:
        document.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8
    return None


def _without_strings(document: bytes) -> bytes:
    """A mark stands for what is taken out, so that behind the object it is seen as well."""
    return _STRING.sub(b"x", _ESCAPED.sub(b"x", document) if b"\\" in document else document)


def _is_one_object(bare: bytes) -> bool:
    bare = bare.strip(_BLANKS)
    if bare[:1] != b"{" or bare[-1:] != b"}":
        return False
    depth, braces = 0, bare.translate(None, _NO_BRACES)
    for brace in braces[:-1]:
        depth += 1 if brace == ord("{") else -1
        if depth == 0:
            return False
    return depth == 1


def is_refused_by_json_set(document: bytes) -> bool:
    """Whether JSON.SET would refuse a document that the rule lets through; for the dry run, which cannot ask it."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    try:
        parsed = json.loads(document, parse_constant=no_constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return True
    return _depth(_without_strings(document)) > DEEPEST


def _depth(bare: bytes) -> int:
    depth = deepest = 0
    for mark in bare.translate(None, _NO_BRACKETS):
        depth += 1 if mark in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest
