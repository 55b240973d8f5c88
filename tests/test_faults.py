"""Every row of the fault table with fewer cases; `make faults` runs them in full."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from demo.redis import RedisServer
from tests.faults.rows import ROWS
from tests.faults.runner import Row, Stage, play, quick_retries
from tests.naive_janitor import naive

pytestmark = pytest.mark.more

SOUND = ("cut", "kill", "crash", "wait", "cancel", "stale", "shard", "slots")
QUICK = 0.0


@pytest.fixture(scope="module")
def stage(server: RedisServer) -> Iterator[Stage]:
    with Stage(server) as stage:
        yield stage
        for key in stage.raw.execute_command("KEYS", "f*"):
            stage.raw.execute_command("DEL", key)
        for index in stage.raw.execute_command("FT._LIST"):
            if index.startswith(b"f"):
                stage.raw.execute_command("FT.DROPINDEX", index)


@pytest.fixture(autouse=True)
def _no_logging() -> Iterator[None]:
    """Thousands of sweeps that end in errors, each as it should."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.part)
async def test_no_promise_is_broken_by_this_fault_and_a_naive_janitor_is_caught(stage: Stage, row: Row) -> None:
    result = await play(row, stage, row.cases(QUICK), row.controls(QUICK))
    assert not result.violations, result.shown
    assert result.cases >= row.cases(QUICK) * 0.7, "the fault came too seldom"
    assert result.holds, f"{result.control}: caught {result.controls_caught} of {result.control_runs}; {result.shown}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.part in SOUND], ids=lambda row: row.part)
async def test_a_naive_janitor_without_its_mistakes_is_not_caught(stage: Stage, row: Row) -> None:
    """Else the controls could be caught for anything."""
    with quick_retries():
        cases = [case async for case in row.body(stage, naive(), row.control_quick // 2)]
    assert cases
    assert not [case for case in cases if case.violations]
