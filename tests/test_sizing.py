"""docs/SIZING.md says what bench/results/sizing.json holds and what follows from it. Nothing here looks at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.results import FOLDER, Results
from bench.sizing import PLANS, backlog_s, sizing_tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "SIZING.md"


def results() -> Results:
    return Results.load(FOLDER / "sizing.json")


def test_every_table_of_the_page_is_as_the_script_prints_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = sizing_tables(results())
    assert all(tables)
    assert [table for table in tables if table not in text] == []
    assert text.count("\n| ") == sum(table.count("\n| ") for table in tables) + len(tables) - 1  # no other tables


def test_readme_leads_to_the_page() -> None:
    assert "(docs/SIZING.md)" in (PAGE.parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("plan", "tick_s", "gb_s"),
    [
        (0, 0.001, 2.0), (0, 1.0, 2.0), (0, 1.01, 2.2), (0, 14.0, 28.0), (1, 1.0, 0.5),
        (2, 0.001, 0.025), (2, 0.1, 0.025), (2, 0.1004, 0.02525), (2, 14.0, 3.5),
    ],
)  # fmt: skip
def test_a_tick_is_billed_for_its_shortest_time_and_in_steps(plan: int, tick_s: float, gb_s: float) -> None:
    assert PLANS[plan].gb_s(tick_s, 1) == pytest.approx(gb_s)


def test_what_is_free_is_taken_off_before_anything_is_paid() -> None:
    flex = PLANS[0]
    assert flex.usd(flex.free_gb_s, flex.free_executions) == 0
    assert flex.usd(flex.free_gb_s + 1e6, flex.free_executions + 1e6) == pytest.approx(26.0 + 0.4)


@pytest.mark.parametrize(
    ("entries", "rate", "seconds"),
    [(1_000, 100.0, 10.0), (1_400, 100.0, 14.0), (1_401, 100.0, 20.01), (2_800, 100.0, 34.0), (2_900, 100.0, 41.0)],
)
def test_a_backlog_takes_whole_ticks_and_a_part_of_the_last_one(entries: int, rate: float, seconds: float) -> None:
    assert backlog_s(entries, rate) == pytest.approx(seconds)
