"""Backoff, caps and the brake: when an entry is due, when it is delivered too often, when quarantine is too much."""

from __future__ import annotations

import pytest

from monitor.brake import BRAKED, WINDOW, Brake
from monitor.forecast import left_alone
from monitor.outcomes import FATAL, MAX_DELIVERIES, NO_ID
from monitor.patience import FATAL_DELIVERIES, Patience
from monitor.pending import LAST, PendingEntry
from shared.errors import SettingsError
from tests.cli import inside
from tests.conftest import Scene, Sweeper

DOUBLING = Patience(10_000, 2.0, 60_000)

# --- backoff --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deliveries", "threshold_ms"),
    [(-5, 10_000), (0, 10_000), (1, 10_000), (2, 20_000), (3, 40_000), (4, 60_000), (64, 60_000), (2**53, 60_000)],
)
def test_the_threshold_doubles_with_each_delivery_up_to_its_limit(deliveries: int, threshold_ms: int) -> None:
    assert DOUBLING.threshold_ms(deliveries) == threshold_ms


@pytest.mark.parametrize(("off_by_ms", "is_due"), [(-1, False), (0, True), (1, True)])
def test_an_entry_is_due_from_its_own_threshold_on(off_by_ms: int, is_due: bool) -> None:
    assert DOUBLING.is_due(40_000 + off_by_ms, 3) is is_due


def test_a_released_entry_is_due_at_once() -> None:
    assert DOUBLING.is_due(-1, 10)


async def test_entries_wait_for_their_own_threshold_and_are_counted_as_waiting(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(3)
    first, second, third = scene.deliver()
    scene.age([first], idle_ms=15_000, deliveries=1)
    scene.age([second], idle_ms=15_000, deliveries=2)
    scene.age([third], idle_ms=25_000, deliveries=2)
    report = await sweep(scene.settings(SETTLE_MODE=mode, RETRY_BACKOFF="2"))
    assert (report.processed, report.waiting, report.candidates, report.error) == (2, 1, 2, None)
    assert [row[0] for row in scene.pending_rows()] == [second]
    assert "1 waiting" in str(report)


def test_status_counts_what_is_due_as_the_sweep_does(scene: Scene) -> None:
    scene.add_tweets(2)
    first, second = scene.deliver()
    scene.age([first, second], idle_ms=15_000, deliveries=2)
    for backoff, due in (("2", 0), ("off", 2)):
        status = inside({**scene.environment, "RETRY_BACKOFF": backoff}, "status", "--json")
        assert status.record["next_sweep_takes_up"] == due


async def test_a_claim_uses_the_entrys_own_threshold(scene: Scene, sweep: Sweeper, mode: str) -> None:
    """Someone delivers it once more between the page and the claim: it is idle for the minimum, not for its threshold."""
    scene.add_tweets(1)
    (entry_id,) = scene.deliver()
    scene.age([entry_id], idle_ms=25_000, deliveries=2)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, RETRY_BACKOFF="2"))
    is_done = False

    async def taken(*command: object) -> object:
        nonlocal is_done
        reply = await call(*command)
        if command[0] == "XPENDING" and len(command) > 3 and not is_done:
            is_done = True
            scene.age([entry_id], idle_ms=15_000, deliveries=2, consumer="alive")
        return reply

    call, janitor._link.call = janitor._link.call, taken  # type: ignore[method-assign, assignment]
    (report,) = await janitor.tick()
    assert (report.processed, report.lost_race, scene.pending()) == (0, 1, 1)


def test_show_says_until_when_an_entry_waits(scene: Scene) -> None:
    stream = scene.settings(RETRY_BACKOFF="2").streams[0]
    told = left_alone(PendingEntry(b"1-0", b"c", 15_000, 2), 10**9, LAST, stream)
    assert told is not None
    assert told.reason == "waiting: after 2 deliveries it is due when idle for 20 s (RETRY_BACKOFF), and is for 15.0 s"


def test_a_limit_below_the_minimum_is_refused(scene: Scene) -> None:
    with pytest.raises(SettingsError, match="RETRY_BACKOFF_MAX_SEC: must be at least MIN_IDLE_TIME_SEC"):
        scene.settings(RETRY_BACKOFF="2", RETRY_BACKOFF_MAX_SEC="9")
    assert scene.settings(RETRY_BACKOFF="off", RETRY_BACKOFF_MAX_SEC="9").streams[0].retry_backoff == 1


# --- caps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deliveries", "most", "fault"),
    [
        (4, 5, None), (5, 5, MAX_DELIVERIES), (6, 5, MAX_DELIVERIES), (10**6, 0, None),
        (FATAL_DELIVERIES - 1, 0, None), (FATAL_DELIVERIES, 0, FATAL), (2**63 - 1, 5, FATAL), (-(2**63), 0, FATAL), (0, 5, None),
    ],
)  # fmt: skip
def test_a_cap_counts_deliveries_and_what_is_fatal_is_always_capped(
    deliveries: int, most: int, fault: str | None
) -> None:
    assert Patience(10_000, max_deliveries=most).cap_of(deliveries) == fault


async def test_an_entry_delivered_too_often_is_dead_lettered_before_anything_else(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(4)
    ids = scene.deliver()
    scene.age(ids[:2], deliveries=5)
    scene.age(ids[2:], deliveries=4)
    report = await sweep(scene.settings(SETTLE_MODE=mode, MAX_DELIVERIES="5"))
    assert (report.dead_lettered, report.processed, scene.pending()) == (2, 2, 0)
    assert [letter[1][5] for letter in scene.dead_letters()] == [ids[0], ids[1]]  # type: ignore[index]
    assert {letter[1][7] for letter in scene.dead_letters()} == {b"delivered as often as MAX_DELIVERIES allows"}  # type: ignore[index]
    assert len(scene.hashes()) == 2


async def test_without_a_dead_letter_stream_a_capped_entry_stays_pending_and_counts_as_failed(
    scene: Scene, sweep: Sweeper
) -> None:
    scene.add_tweets(1)
    scene.age(scene.deliver(), deliveries=5)
    report = await sweep(scene.settings(MAX_DELIVERIES="5", DEAD_LETTER_STREAM="off"))
    assert (report.failed, scene.pending(), scene.hashes()) == (1, 1, [])
    assert list(report.reasons) == ["failed: delivered as often as MAX_DELIVERIES allows"]


async def test_a_fatal_entry_is_dead_lettered_and_its_count_is_left_as_it_is(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(1)
    ids = scene.deliver()
    scene.age(ids, deliveries=2**63 - 1)
    report = await sweep(scene.settings(SETTLE_MODE=mode, DEAD_LETTER_STREAM="off"))
    assert (report.failed, scene.pending_rows()[0][3]) == (1, 2**63 - 1)
    scene.age(ids, deliveries=2**63 - 1)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.dead_lettered, scene.pending()) == (1, 0)


async def test_a_capped_entry_that_is_gone_is_counted_as_deleted(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.deliver()
    scene.age([entry_id], deliveries=5)
    scene.raw.execute_command("XDEL", scene.stream, entry_id)
    report = await sweep(scene.settings(MAX_DELIVERIES="5"))
    assert (report.deleted, report.lost_race, scene.pending()) == (1, 0, 0)


# --- the brake ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "is_on"), [(50, False), (51, True), (100, True)])
def test_the_brake_goes_on_when_over_half_of_the_last_hundred_would_be_dead_lettered(bad: int, is_on: bool) -> None:
    assert (Brake().judge(WINDOW - bad, [NO_ID] * bad) is not None) is is_on


def test_a_few_invalid_entries_are_no_reason_to_brake() -> None:
    assert Brake().judge(0, [NO_ID] * (WINDOW - 1)) is None


def test_the_brake_remembers_and_lets_go() -> None:
    brake = Brake()
    assert [brake.judge(0, [NO_ID] * 30) is not None for _ in range(5)] == [False, False, False, True, True]
    brake.judge(60, [])
    assert brake.judge(0, [NO_ID]) is None


def test_an_unknown_error_is_no_reason_to_brake() -> None:
    assert Brake().judge(0, ["error:ERR"] * 200) is None


async def test_wrong_settings_do_not_empty_a_stream_into_quarantine(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(400)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ID_FIELDS="tweet_id", PAGE_SIZE="100"))
    assert report.failed > 300
    assert report.dead_lettered < WINDOW
    assert scene.pending() == 400 - report.dead_lettered
    assert f"failed: {BRAKED}" in report.reasons
    assert "Look at ID_FIELDS" in str(report.error)
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.processed, report.error, scene.pending()) == (400 - len(scene.dead_letters()), None, 0)


async def test_without_the_brake_wrong_settings_empty_the_stream(scene: Scene, sweep: Sweeper) -> None:
    """Control, and what DEAD_LETTER_BRAKE=off is for."""
    scene.add_tweets(400)
    scene.abandon()
    report = await sweep(scene.settings(ID_FIELDS="tweet_id", DEAD_LETTER_BRAKE="off"))
    assert (report.dead_lettered, report.error, scene.pending()) == (400, None, 0)
