"""The identity rule: which key the hash of an entry has. In Python here, in Lua in entry_key.lua; a differential test
(tests/test_entry_key.py) holds the two together. Member paths are read in Python only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from shared.id_fields import ENTRY_ID, MemberPath, first_path, path_of
from shared.own_keys import guarded_keys
from shared.settings import StreamSettings

LONGEST_ID_BYTES: Final = 1024

NO_ID: Final = "no_id"
EMPTY_ID: Final = "empty_id"
LONG_ID: Final = "long_id"
OWN_KEY: Final = "own_key"

_ENTRY: Final = ENTRY_ID.encode()


class EntryKey:
    """The rule of one stream: HASH_PREFIX, then the value of ID_FIELDS."""

    __slots__ = ("_guarded", "_names", "_only", "_paths", "_prefix")

    def __init__(self, settings: StreamSettings) -> None:
        self._prefix = settings.hash_prefix.encode()
        self._names = [name.encode() for name in settings.id_fields]
        paths = {name.encode(): path_of(name) for name in settings.id_fields} if first_path(settings.id_fields) else {}
        self._guarded = guarded_keys(settings)
        """Keys that no hash may be written to; as a rule none can be named, and the check costs nothing."""
        self._only = self._names[0] if self._is_plain(paths) else None
        """The one field that is the id, if there is no more to it."""
        self._paths = {name: path for name, path in paths.items() if path is not None}

    def of(self, fields: Sequence[bytes], entry_id: bytes) -> tuple[bytes, None] | tuple[None, str]:
        """The key of an entry that holds ``fields`` (names and values in turn), or None and the entry's fault."""
        if self._only is not None:  # the usual case, once an entry in gather mode: no dict for it
            names = fields[::2]
            if names.count(self._only) == 1:
                value = fields[2 * names.index(self._only) + 1]
                if 0 < len(value) <= LONGEST_ID_BYTES:
                    return self._prefix + value, None
        key_id, fault = hash_id(fields, self._names, entry_id, self._paths)
        if key_id is None:
            return None, str(fault)
        key = self._prefix + key_id
        return (None, OWN_KEY) if key in self._guarded else (key, None)

    def _is_plain(self, paths: Mapping[bytes, MemberPath | None]) -> bool:
        return len(self._names) == 1 and not paths and self._names[0] != _ENTRY and not self._guarded


def hash_id(
    fields: Sequence[bytes],
    id_fields: Sequence[bytes],
    entry_id: bytes = b"",
    paths: Mapping[bytes, MemberPath] | None = None,
) -> tuple[bytes, None] | tuple[None, str]:
    """What follows the prefix in the entry's hash key, or None and the entry's fault.

    ``fields`` holds names and values in turn; of a field that is there twice the last value counts. ``@entry`` stands for
    ``entry_id``, and the names in ``paths`` for what these lead to. Several are joined by ``:``, with ``%`` and ``:`` inside
    a value percent-escaped, so that no two ids collide. A missing field is reported before an empty one, and both before any
    other fault.
    """
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    values[_ENTRY] = entry_id
    fault: str | None = None
    if paths:
        from monitor.member_path import members_of  # only then: a cold start pays for imports

        found, fault = members_of(values, paths)
        for name in paths:  # also where the entry has a field of that very name
            values.pop(name, None)
        values |= found
    parts = [values.get(name) for name in id_fields]
    if None in parts:
        return None, NO_ID
    if b"" in parts:
        return None, EMPTY_ID
    if fault is not None:
        return None, fault
    if len(parts) > 1:
        parts = [part.replace(b"%", b"%25").replace(b":", b"%3A") for part in parts if part is not None]
    joined = b":".join(part for part in parts if part is not None)
    return (joined, None) if len(joined) <= LONGEST_ID_BYTES else (None, LONG_ID)
