"""One entry of a stream, as a handler sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One abandoned entry. ``(stream, entry_id)`` names it for good: the key by which a handler is made repeatable."""

    entry_id: str
    """Its id in the stream, such as ``1700000000000-0``."""
    pairs: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Names and values as they were added, in order, byte for byte; a name may be there twice."""
    stream: str
    group: str
    deliveries: int
    """How often it was delivered, this time included; 1 would be its first."""
    last_consumer: str
    """Who had it before; empty if it was released. Bytes that are not UTF-8 are escaped."""
    age_s: float
    """Seconds since it was added, by the server's clock; 0 if its id lies ahead of that clock."""
    fields: Mapping[bytes, bytes] = field(init=False, repr=False, compare=False)
    """Name → value; of a name that is there twice, the last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.pairs)))

    def text(self, name: str | bytes) -> str:
        """A field's value as text.

        Raises:
            KeyError: there is no such field.
            ValueError: it is not valid UTF-8. The message names the field, and never quotes its value.
        """
        try:
            return self._value(name).decode()
        except UnicodeDecodeError:
            raise ValueError(f"field {_shown(name)} is not valid UTF-8") from None

    def json(self, name: str | bytes) -> Any:
        """What the JSON in a field says.

        Raises:
            KeyError: there is no such field.
            ValueError: it is not valid JSON. The message names the field, and never quotes its value.
        """
        try:
            return json.loads(self.text(name))
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"field {_shown(name)} is not valid JSON") from None

    def _value(self, name: str | bytes) -> bytes:
        key = name.encode() if isinstance(name, str) else name
        if key not in self.fields:
            raise KeyError(f"there is no field {_shown(name)}")
        return self.fields[key]


def _shown(name: str | bytes) -> str:
    return repr(name if isinstance(name, str) else name.decode(errors="backslashreplace"))
