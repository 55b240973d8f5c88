"""All rows of the table, in its order."""

from __future__ import annotations

from tests.faults import cuts, entries, kills, machine, refusals, rivals, silences, versions
from tests.faults.runner import Row

ROWS: list[Row] = [
    *cuts.ROWS,
    *kills.ROWS,
    *refusals.ROWS,
    *silences.ROWS,
    *entries.ROWS,
    *machine.ROWS,
    *rivals.ROWS,
    *versions.ROWS,
]
