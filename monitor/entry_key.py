"""The identity rule: which key the hash of an entry has. In Python here, in Lua in entry_key.lua; a differential test
(tests/test_entry_key.py) holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.settings import StreamSettings

LONGEST_ID_BYTES: Final = 1024

NO_ID: Final = "no_id"
EMPTY_ID: Final = "empty_id"
LONG_ID: Final = "long_id"


class EntryKey:
    """The rule of one stream: HASH_PREFIX, then the value of ID_FIELDS."""

    __slots__ = ("_names", "_prefix")

    def __init__(self, settings: StreamSettings) -> None:
        self._prefix = settings.hash_prefix.encode()
        self._names = [name.encode() for name in settings.id_fields]

    def of(self, fields: Sequence[bytes]) -> tuple[bytes, None] | tuple[None, str]:
        """The hash key of an entry that holds ``fields`` (names and values in turn), or None and the entry's fault."""
        key_id, fault = hash_id(fields, self._names)
        return (self._prefix + key_id, None) if key_id is not None else (None, str(fault))


def hash_id(fields: Sequence[bytes], id_fields: Sequence[bytes]) -> tuple[bytes, None] | tuple[None, str]:
    """What follows the prefix in the entry's hash key, or None and the entry's fault.

    ``fields`` holds names and values in turn; of a field that is there twice the last value counts. Several id fields are
    joined by ``:``, with ``%`` and ``:`` inside a value percent-escaped, so that no two ids collide. A missing field is
    reported before an empty one.
    """
    if len(id_fields) == 1:  # the usual case, once an entry in gather mode: no dict for it
        names = fields[::2]
        if names.count(id_fields[0]) == 1:
            value = fields[2 * names.index(id_fields[0]) + 1]
            if 0 < len(value) <= LONGEST_ID_BYTES:
                return value, None
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    parts = [values.get(name) for name in id_fields]
    if None in parts:
        return None, NO_ID
    if b"" in parts:
        return None, EMPTY_ID
    if len(parts) > 1:
        parts = [part.replace(b"%", b"%25").replace(b":", b"%3A") for part in parts if part is not None]
    joined = b":".join(part for part in parts if part is not None)
    return (joined, None) if len(joined) <= LONGEST_ID_BYTES else (None, LONG_ID)
