"""What of an entry is stored, and under which key; pure, for all who store from our side: gather, redrive, the dry run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from monitor.entry_key import EntryKey
from monitor.outcomes import RESERVED_FIELD
from monitor.trace_fields import split_from_trace
from shared.settings import StreamSettings

STORED_ID_FIELD: Final = b"stream_entry_id"
"""Under ON_CONFLICT=newer: which entry a hash holds (see store.lua). No entry may bring a field of this name then."""


class Storing(NamedTuple):
    """One entry on its way into its hash."""

    key: bytes
    entry_id: bytes
    fields: Sequence[bytes]
    document: bytes | None = None
    """What is stored instead of the fields; None for a hash."""


class StoringRule:
    """The rule of one stream, as settle.lua has it for what is stored inside Redis."""

    __slots__ = ("_document", "_keeps_trace_fields", "_key", "_reserved")

    def __init__(self, settings: StreamSettings) -> None:
        self._key = EntryKey(settings)
        self._keeps_trace_fields = settings.keep_trace_fields
        self._reserved = STORED_ID_FIELD if settings.on_conflict == "newer" else None
        self._document = None
        if settings.store_as == "json":
            from monitor.document import DocumentRule  # only then: a cold start pays for imports

            self._document = DocumentRule(settings.payload_field)

    def of(self, entry_id: bytes, fields: list[bytes]) -> tuple[Storing, None] | tuple[None, str]:
        """The entry as it is stored, or None and its fault; ``fields`` are names and values in turn, all that it holds."""
        if not self._keeps_trace_fields:
            fields = split_from_trace(fields)[0] or fields
        return self.of_data(entry_id, fields)

    def of_data(self, entry_id: bytes, fields: Sequence[bytes]) -> tuple[Storing, None] | tuple[None, str]:
        """The same for one whose trace context is out already."""
        key, fault = self._key.of(fields, entry_id)
        if key is None:
            return None, str(fault)
        if self._reserved is not None and self._reserved in fields[::2]:
            return None, RESERVED_FIELD
        if self._document is None:
            return Storing(key, entry_id, fields), None
        document, fault = self._document.of(fields)
        return (None, str(fault)) if document is None else (Storing(key, entry_id, fields, document), None)
