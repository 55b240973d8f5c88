"""All rows of the table, in its order."""

from __future__ import annotations

import asyncio
import logging

from demo.redis import RedisServer
from tests.faults import (
    cuts,
    entries,
    kills,
    machine,
    refusals,
    requeues,
    retentions,
    rivals,
    shards,
    silences,
    versions,
)
from tests.faults.runner import Result, Row, Stage, play

ROWS: list[Row] = [
    *cuts.ROWS,
    *kills.ROWS,
    *shards.ROWS,
    *requeues.ROWS,
    *refusals.ROWS,
    *silences.ROWS,
    *entries.ROWS,
    *machine.ROWS,
    *rivals.ROWS,
    *retentions.ROWS,
    *versions.ROWS,
]


def play_part(part: str, scale: float) -> Result:
    """Play one row on a server of its own. Here, not in __main__, which a spawned process does not import."""
    logging.getLogger("monitor").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    (row,) = [row for row in ROWS if row.part == part]
    with RedisServer() as server, Stage(server) as stage:
        return asyncio.run(play(row, stage, row.cases(scale), row.controls(scale)))
