"""What can become of a candidate, and why an entry is invalid: two tables, from which everything else derives.

To add an outcome: a member here with its row, a field of ``SweepReport`` (report.py), and whatever brings it about. A test
holds the table, the report, the scripts and the docs together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from monitor.entry_key import EMPTY_ID, LONG_ID, LONGEST_ID_BYTES, NO_ID, OWN_KEY


class Outcome(str, Enum):
    """What became of one candidate; its value is the name of the report's field."""

    PROCESSED = "processed"
    KEPT = "kept"
    SUPERSEDED = "superseded"
    REQUEUED = "requeued"
    HANDLED = "handled"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    FAILED = "failed"
    DELETED = "deleted"
    LOST_RACE = "lost_race"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What the project says of one outcome."""

    wire: bytes | None
    """The word with which a script reports it; None: no script does."""
    is_acknowledged: bool
    """Whether the entry is off the pending entries list afterwards, by our doing."""
    foreseen: str
    """What ``show`` says that the next sweep does; ``{key}``, ``{dead_letters}``, ``{target}`` and ``{reason}`` are
    filled in."""


OUTCOMES: Final[dict[Outcome, OutcomeRow]] = {
    Outcome.PROCESSED: OutcomeRow(b"stored", True, "stores it as {key} and acknowledges it"),
    Outcome.KEPT: OutcomeRow(b"kept", True, "acknowledges it and leaves {key} as it is: {reason}"),
    Outcome.SUPERSEDED: OutcomeRow(b"superseded", True, "acknowledges it and leaves {key} as it is: {reason}"),
    Outcome.REQUEUED: OutcomeRow(b"requeued", True, "adds it to {target} and acknowledges it"),
    Outcome.HANDLED: OutcomeRow(None, True, "calls the handler with it, and acknowledges it once that is done"),
    Outcome.RETRIED: OutcomeRow(None, False, "leaves it pending for a later sweep: {reason}"),
    Outcome.DEAD_LETTERED: OutcomeRow(None, True, "moves it to {dead_letters}: {reason}"),
    Outcome.FAILED: OutcomeRow(None, False, "leaves it pending: {reason}"),
    Outcome.DELETED: OutcomeRow(
        b"gone", True, "counts it as deleted and acknowledges it: {reason}; what it held is lost"
    ),
    Outcome.LOST_RACE: OutcomeRow(b"lost", False, "leaves it to whoever has it by then: {reason}"),
    Outcome.UNKNOWN: OutcomeRow(None, False, "cannot tell: {reason}"),
}

BY_WIRE: Final[dict[bytes, Outcome]] = {row.wire: outcome for outcome, row in OUTCOMES.items() if row.wire is not None}
"""A script's word → the outcome. Any other word is the fault of an invalid entry."""
WITH_HASH: Final = frozenset((Outcome.PROCESSED, Outcome.KEPT, Outcome.SUPERSEDED))
"""The outcomes of an entry whose hash is there: the words of store.lua."""

WRONG_TYPE: Final = "wrong_type"
NOT_JSON_ID: Final = "not_json_id"
BAD_ID: Final = "bad_id"
RESERVED_FIELD: Final = "reserved_field"
NO_PAYLOAD: Final = "no_payload"
NOT_UTF8: Final = "not_utf8"
NOT_JSON: Final = "not_json"
NUMBER_CHANGED: Final = "number_changed"
REQUEUED_TOO_OFTEN: Final = "requeued_too_often"
ABANDONED: Final = "abandoned"
"""No fault: ACTION=dead_letter moves whatever was left behind."""
MAX_DELIVERIES: Final = "max_deliveries"
FATAL: Final = "fatal"


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A fault that is certain at once: trying again cannot help."""

    text: str
    """The reason in the report and in the dead letter."""
    setting: str
    """What to look at if most entries have it."""


FAULTS: Final[dict[str, FaultRow]] = {
    NO_ID: FaultRow("no id field", "ID_FIELDS"),
    EMPTY_ID: FaultRow("empty id", "ID_FIELDS"),
    LONG_ID: FaultRow(f"id over {LONGEST_ID_BYTES} bytes", "ID_FIELDS"),
    WRONG_TYPE: FaultRow("hash key holds another type", "HASH_PREFIX"),
    NOT_JSON_ID: FaultRow("field with the id is not JSON", "ID_FIELDS"),
    BAD_ID: FaultRow("id is neither a string nor a whole number up to 2^53-1", "ID_FIELDS"),
    OWN_KEY: FaultRow("names one of the janitor's own keys", "HASH_PREFIX"),
    RESERVED_FIELD: FaultRow("holds a field stream_entry_id, which ON_CONFLICT=newer needs for itself", "ON_CONFLICT"),
    NO_PAYLOAD: FaultRow("no payload field", "PAYLOAD_FIELD"),
    NOT_UTF8: FaultRow("not valid UTF-8, which JSON has to be", "STORE_AS"),
    NOT_JSON: FaultRow("payload is not a JSON object", "PAYLOAD_FIELD"),
    NUMBER_CHANGED: FaultRow("payload holds a number that JSON.SET would change", "STORE_AS"),
    REQUEUED_TOO_OFTEN: FaultRow("requeued as often as MAX_REQUEUES allows", "MAX_REQUEUES, and at why consumers fail"),
    ABANDONED: FaultRow("abandoned", "ACTION"),
    MAX_DELIVERIES: FaultRow(
        "delivered as often as MAX_DELIVERIES allows", "MAX_DELIVERIES, and at why consumers fail"
    ),
    FATAL: FaultRow("given up by its consumer (XNACK FATAL)", "the consumers that give them up"),
}
CAPS: Final = frozenset((MAX_DELIVERIES, FATAL))
"""The faults of entries that were delivered too often, whatever the action."""
FAULTS_EXPLAINED: Final = {fault: row.text for fault, row in FAULTS.items()}
"""The certain faults in words. Any other fault is an unknown error, which needs MAX_ATTEMPTS."""


HANDLER_SAYS: Final = "handler:"
"""In front of the reason for which a handler called an entry dead: certain at once."""


def fault_of_handler(reason: str) -> str:
    """The fault of an entry that the handler called dead."""
    return HANDLER_SAYS + reason


def row_of(fault: str) -> FaultRow:
    """The row of a certain fault."""
    return FAULTS.get(fault) or FaultRow(fault_explained(fault), "HANDLER, and at what it calls dead")


def is_certain(fault: str) -> bool:
    """Whether trying again cannot help; else it needs MAX_ATTEMPTS."""
    return fault in FAULTS_EXPLAINED or fault.startswith(HANDLER_SAYS)


def fault_explained(fault: str) -> str:
    """A fault in words: ``no id field``; a handler's own; an unknown error by its code."""
    if fault.startswith(HANDLER_SAYS):
        return fault.removeprefix(HANDLER_SAYS) or "the handler called it dead"
    return FAULTS_EXPLAINED.get(fault, f"unknown error {fault.partition(':')[2]}".strip())
