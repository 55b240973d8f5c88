"""One table of outcomes: whoever forgets a row finds out here."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from monitor.actions import ACTIONS, action_for
from monitor.context import ResumeState, SweepContext
from monitor.outcomes import BY_WIRE, OUTCOMES, Outcome
from monitor.report import SweepReport
from shared.redis_client import ServerLink
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
