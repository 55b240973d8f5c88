"""What can become of a candidate, and why an entry is invalid: two tables, from which everything else derives.

To add an outcome: a member here with its row, a field of ``SweepReport`` (report.py), and whatever brings it about. A test
holds the table, the report, the scripts and the docs together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from monitor.entry_key import EMPTY_ID, LONG_ID, LONGEST_ID_BYTES, NO_ID


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
    Outcome.PROCESSED: OutcomeRow(b"stored", True, "stores it as the hash {key} and acknowledges it"),
    Outcome.KEPT: OutcomeRow(b"kept", True, "acknowledges it and leaves the hash {key} as it is: {reason}"),
    Outcome.SUPERSEDED: OutcomeRow(b"superseded", True, "acknowledges it and leaves the hash {key} as it is: {reason}"),
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

FAULTS_EXPLAINED: Final = {
    NO_ID: "no id field",
    EMPTY_ID: "empty id",
    LONG_ID: f"id over {LONGEST_ID_BYTES} bytes",
    WRONG_TYPE: "hash key holds another type",
}
"""The faults that are certain at once: trying again cannot help. Any other is an unknown error."""


def fault_explained(fault: str) -> str:
    """A fault in words: ``no id field``; an unknown error by its code."""
    return FAULTS_EXPLAINED.get(fault, f"unknown error {fault.partition(':')[2]}".strip())
