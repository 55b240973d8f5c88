"""What the webhook sends: the JSON form of a batch, and the id by which a receiver knows a batch that it has had."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from stream_janitor import Entry

EVENT_TYPE: Final = "stream_janitor.entries"


def body_of(entries: Sequence[Entry], at: datetime) -> str:
    """A batch of one stream and group as JSON::

        {"type": "stream_janitor.entries", "timestamp": "2026-11-25T04:28:41+00:00",
         "data": {"stream": "orders", "group": "billing", "entries": [
           {"id": "1700000000000-0", "deliveries": 2, "last_consumer": "worker-3", "age_s": 61.2,
            "fields": [["order", "4711"], ["blob", {"base64": "/w=="}]]}]}}

    ``fields`` holds names and values in order, a name twice if the entry has it twice; each is a string, or
    ``{"base64": …}`` where the bytes are not valid UTF-8.
    """
    data = {
        "stream": entries[0].stream,
        "group": entries[0].group,
        "entries": [_entry(entry) for entry in entries],
    }
    return json.dumps({"type": EVENT_TYPE, "timestamp": at.isoformat(), "data": data}, separators=(",", ":"))


def message_id(entries: Sequence[Entry]) -> str:
    """The ``webhook-id``: the same whenever the same entries are sent again, and of no other batch."""
    first = entries[0]
    named = json.dumps([first.stream, first.group, [entry.entry_id for entry in entries]])
    return f"msg_{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.entry_id,
        "deliveries": entry.deliveries,
        "last_consumer": entry.last_consumer,
        "age_s": round(entry.age_s, 3),
        "fields": [[_text(name), _text(value)] for name, value in entry.pairs],
    }


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
