from __future__ import annotations

import json
import logging
import re

import pytest

from monitor.janitor import log, raise_for
from monitor.outcomes import Outcome
from monitor.report import MOST_IDS_NAMED, Named, SweepReport, Tally
from shared.errors import TickFailed
from tests.conftest import Scene, Sweeper, sum_of_outcomes, wire


def report_with(**changes: object) -> SweepReport:
    values: dict[str, object] = {
        "stream": "s",
        "group": "g",
        "pending": 0,
        "candidates": 0,
        **{outcome.value: 0 for outcome in Outcome},
        "unsearchable": 0,
        "duration_s": 0.01,
        "complete": True,
        "oldest_pending_age_s": None,
        "settle_mode": "none",
        "index": "ok",
        **changes,
    }
    return SweepReport(**values)  # type: ignore[arg-type]


def test_every_outcome_is_a_field_of_the_report() -> None:
    assert all(hasattr(report_with(), outcome.value) for outcome in Outcome)
    assert sum_of_outcomes(report_with(**{outcome.value: 1 for outcome in Outcome})) == len(Outcome)


def test_the_candidates_of_a_tally_are_the_sum_of_its_outcomes() -> None:
    tally = Tally()
    for number, outcome in enumerate(Outcome):
        tally.add(outcome, number)
        tally.name(outcome, "reason", b"1-0")
    tally.name_unsearchable("reason", b"1-0")
    assert tally.candidates == sum(tally.counts.values()) == sum(range(len(Outcome))) + len(Outcome)
    assert tally.unsearchable == 1


@pytest.mark.parametrize("count", [1, MOST_IDS_NAMED - 1, MOST_IDS_NAMED, MOST_IDS_NAMED + 1, 1000])
def test_at_most_twenty_ids_are_named_for_a_reason_and_the_rest_counted(count: int) -> None:
    tally = Tally()
    for number in range(count):
        tally.name(Outcome.FAILED, "no id field", b"%d-0" % number)
    named = tally.reasons()["failed: no id field"]
    assert (named.count, len(named.entry_ids)) == (count, min(count, 20))
    assert named.entry_ids[0] == "0-0"
    assert (f"and {count - 20} more" in str(named)) == (count > 20)


def test_two_tallies_make_one() -> None:
    first, second = Tally(), Tally()
    for number in range(15):
        first.name(Outcome.FAILED, "x", b"%d-0" % number)
        second.name(Outcome.FAILED, "x", b"%d-1" % number)
    second.name_unsearchable("y", b"9-9")
    first.take_over(second)
    assert (first.candidates, first.unsearchable) == (30, 1)
    assert (first.reasons()["failed: x"].count, len(first.reasons()["failed: x"].entry_ids)) == (30, 20)


def test_a_quiet_report_is_one_short_line() -> None:
    assert str(report_with()) == "s/g: 0 pending, 0 taken up; 0.01 s"


def test_a_report_is_one_line_that_a_person_can_read() -> None:
    report = report_with(
        pending=12,
        candidates=4,
        processed=2,
        dead_lettered=1,
        lost_race=1,
        unsearchable=1,
        duration_s=1.234,
        complete=False,
        oldest_pending_age_s=75.4,
        settle_mode="script",
        index="tweets-index is missing",
        consumers_removed=2,
        reasons={"dead_lettered: no id field": Named(1, ("5-1",))},
        error="Redis is out of memory",
    )
    assert str(report) == (
        "s/g: 12 pending, oldest 75 s, 4 taken up; 2 processed, 1 dead lettered, 1 lost race, 1 unsearchable; "
        "1.23 s by script, not complete; index: tweets-index is missing; 2 dead consumers removed; "
        "dead_lettered: no id field: 1 (5-1); error: Redis is out of memory"
    )


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "DEBUG"),
        ({"pending": 500, "oldest_pending_age_s": 5.0}, "DEBUG"),
        ({"index": "off"}, "DEBUG"),
        ({"candidates": 1, "processed": 1}, "INFO"),
        ({"index": "tweets-index is missing"}, "INFO"),
        ({"error": "Redis is out of memory"}, "ERROR"),
        ({"candidates": 1, "processed": 1, "complete": False}, "WARNING"),
        ({"candidates": 1, "processed": 1, "complete": False, "rate_limited": True}, "INFO"),
        ({"consumers_removed": 1}, "INFO"),
    ],
)
def test_the_log_is_quiet_when_the_house_was_clean(
    caplog: pytest.LogCaptureFixture, changes: dict[str, object], level: str
) -> None:
    caplog.set_level(logging.DEBUG, "monitor")
    log(report_with(**changes))
    (record,) = caplog.records
    assert (record.levelname, record.name) == (level, "monitor")


def test_a_record_has_the_report_as_attributes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "monitor")
    report = report_with(
        candidates=3, processed=2, failed=1, reasons={"failed: empty id": Named(1, ("1-0",))}, settle_mode="gather"
    )
    log(report)
    (record,) = caplog.records
    assert record.getMessage() == str(report)
    attributes = vars(record)
    assert (attributes["sweep_processed"], attributes["sweep_failed"], attributes["sweep_stream"]) == (2, 1, "s")
    assert attributes["report"] == report.as_dict()
    assert json.loads(json.dumps(attributes["report"]))["reasons"] == {
        "failed: empty id": {"count": 1, "entry_ids": ["1-0"]}
    }


def test_only_a_report_with_an_error_fails_the_tick() -> None:
    raise_for((report_with(failed=5, candidates=5, dead_lettered=3, complete=False),))
    with pytest.raises(TickFailed, match="s/g: Redis is out of memory"):
        raise_for((report_with(), report_with(error="Redis is out of memory")))


@pytest.mark.parametrize("count", [3, 50])
async def test_log_lines_name_entries_by_stream_id_only(
    scene: Scene, sweep: Sweeper, mode: str, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    caplog.set_level(logging.DEBUG)
    for number in range(count):
        scene.raw.execute_command("SET", f"{scene.prefix}canary-{number}", "x")
        scene.add("id", f"canary-{number}", "text", "canary", "canary", "x")
        scene.add("text", "canary", "canary", "y")
        scene.add("id", f"good-canary-{number}", "text", "canary")
    ids = scene.abandon()
    for entry_id in ids[:2]:
        scene.raw.execute_command("XDEL", scene.stream, entry_id)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert report.candidates == sum_of_outcomes(report) == 3 * count
    printed = "".join(record.getMessage() + repr(vars(record)) for record in caplog.records)
    assert "canary" not in printed
    for label, named in report.reasons.items():
        assert len(named.entry_ids) <= 20
        assert set(named.entry_ids) <= {entry_id.decode() for entry_id in ids}
        assert label in str(report)
    assert set(re.findall(r"\d{13}-\d+", str(report))) <= {entry_id.decode() for entry_id in ids}


async def test_candidates_are_the_sum_of_the_outcomes_with_every_kind_of_entry_at_once(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.raw.execute_command("SET", scene.prefix + "string", "x")
    scene.raw.execute_command("HSET", scene.prefix + "newer", "stream_entry_id", "99999999999999-0")
    scene.add_tweets(20)
    for number in range(5):
        scene.add("text", number)
        scene.add("id", "string", "text", number)
        scene.add("id", "newer", "text", number)
    ids = scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, ids[0], ids[1])
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    seen = wire(janitor)
    taken = False

    def take(command: object) -> None:
        nonlocal taken
        if seen.sent("XPENDING") and len(seen.sent("XPENDING")[-1]) > 3 and not taken:
            taken = True
            scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "alive", 0, ids[2], ids[3], ids[4])

    seen.before = take
    (report,) = await janitor.tick()
    assert report.candidates == sum_of_outcomes(report) == 35
    assert (report.processed, report.superseded, report.dead_lettered) == (15, 5, 10)
    assert (report.deleted, report.lost_race, report.failed, report.unknown) == (2, 3, 0, 0)
    assert len(report.reasons["deleted: gone from the stream while pending"].entry_ids) == 2
