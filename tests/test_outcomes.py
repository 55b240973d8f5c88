"""One table of outcomes: whoever forgets a row finds out here."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from monitor.actions import ACTIONS, action_for
from monitor.context import ResumeState, SweepContext
from monitor.outcomes import ABANDONED, BY_WIRE, FAULTS_EXPLAINED, OUTCOMES, REQUEUED_TOO_OFTEN, Outcome
from monitor.report import SweepReport
from shared.redis_client import ServerLink
from shared.settings import ROWS
from tests.conftest import Scene, sum_of_outcomes

ROOT = Path(__file__).parent.parent


def test_every_outcome_has_a_row_and_a_field_of_the_report() -> None:
    names = [field.name for field in fields(SweepReport)]
    first = names.index("candidates") + 1
    assert list(OUTCOMES) == list(Outcome)
    assert names[first : first + len(Outcome)] == [outcome.value for outcome in Outcome]


def test_no_two_outcomes_share_a_word() -> None:
    assert len(BY_WIRE) == sum(row.wire is not None for row in OUTCOMES.values())


def test_the_suites_sum_of_outcomes_misses_none() -> None:
    report = SweepReport(
        "s", "g", 0, 0, **{outcome.value: 1 for outcome in Outcome}, unsearchable=0, duration_s=0.0, complete=True,
        oldest_pending_age_s=None, settle_mode="none", index="ok",
    )  # fmt: skip
    assert sum_of_outcomes(report) == len(Outcome)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_show_says_of_an_outcome_can_be_filled_in(outcome: Outcome) -> None:
    text = OUTCOMES[outcome].foreseen
    assert "{" not in text.format(key="k", dead_letters="d", target="t", reason="r")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_docs_name_every_outcome(outcome: Outcome) -> None:
    for name in ("README.md", "ARCHITECTURE.md"):
        assert outcome.value in (ROOT / name).read_text(encoding="utf-8").replace(" ", "_"), name


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_can_be_made(scene: Scene, link: ServerLink, name: str) -> None:
    context = SweepContext(link, scene.settings().streams[0], 1000, 4, 10.0)
    action = action_for(context, ResumeState())
    assert isinstance(action.uses_index, bool)


def test_the_page_of_store_explains_every_fault_as_the_report_does() -> None:
    page = (ROOT / "docs" / "actions" / "store.md").read_text(encoding="utf-8")
    for fault in FAULTS_EXPLAINED.keys() - {REQUEUED_TOO_OFTEN, ABANDONED}:
        text = FAULTS_EXPLAINED[fault]
        assert f"| `{fault}` | {text} |" in page


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "actions").glob("*.md")), ids=lambda page: page.name)
def test_an_actions_page_names_no_setting_that_there_is_not(page: Path) -> None:
    first_column = re.findall(r"^\| (`[A-Z_`, ]+`) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for cell in first_column for name in re.findall(r"[A-Z_]{4,}", cell)}
    assert named or page.name != "store.md"
    assert named <= set(ROWS)


def test_nothing_that_belongs_to_an_action_is_forgotten() -> None:
    """Its forecast, what doctor and status say of it, its page, and its value of ACTION."""
    from monitor.cli.doctor import ACTIONS_TOLD
    from monitor.cli.status import _ACTIONS
    from monitor.forecast import FORECASTS

    assert (
        set(ACTIONS)
        == set(FORECASTS)
        == set(ACTIONS_TOLD)
        == {page.stem for page in (ROOT / "docs" / "actions").glob("*.md")}
    )
    assert set(ACTIONS) - {"store"} <= set(_ACTIONS)
    for name in ACTIONS:
        ROWS["ACTION"].parse(name)
