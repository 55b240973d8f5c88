"""ACTION=observe: looks, and changes nothing; with three rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
import redis

from monitor import observation
from monitor.actions import observe
from tests.cli import inside
from tests.conftest import Scene, Sweeper, wire

RIGHTS = "resetkeys resetchannels -@all +client|setname +xpending +xrange +time"
READS = {"XPENDING", "XRANGE", "TIME", "TYPE", "HGET", "XINFO"}


@pytest.fixture
def stuck(scene: Scene) -> Scene:
    """What each action has another answer to."""
    scene.add_tweets(5)
    scene.add("user", "no id")
    scene.add("id", "in the way")
    scene.raw.execute_command("SET", f"{scene.prefix}in the way", "x")
    scene.add("id", "tired", "requeue_count", "5")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, "dead")
    scene.add("id", "young")
    scene.age(scene.deliver(), 1_000)
    return scene


def dump(scene: Scene) -> dict[bytes, object]:
    """Every key of the scene, and the group down to idle times' order and delivery counts."""
    keys = {key: scene.raw.execute_command("DUMP", key) for key in scene.keys() - {scene.stream.encode()}}
    rows = [[row[0], row[1], row[3]] for row in scene.pending_rows()]
    consumers = sorted(
        row[b"name"] for row in scene.raw.execute_command("XINFO", "CONSUMERS", scene.stream, scene.group)
    )
    return {**keys, b"rows": rows, b"consumers": consumers, b"length": scene.raw.execute_command("XLEN", scene.stream)}


async def test_it_tells_what_every_action_would_do_and_changes_nothing(stuck: Scene, sweep: Sweeper) -> None:
    before = dump(stuck)
    janitor = sweep.janitor(stuck.settings(ACTION="observe", RECOVERY_RATE_LIMIT="1", REAP_CONSUMERS_AFTER_SEC="1"))
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (report.candidates, report.error, report.complete, report.pending) == (0, None, True, 10)
    assert report.observed is not None
    assert (report.observed.abandoned, report.observed.sample, report.observed.is_whole) == (9, 9, True)
    assert report.observed.would == {
        "store": {
            "processed": 6,
            "dead_lettered (no id field)": 1,
            "dead_lettered (hash key holds another type)": 1,
            "deleted (gone from the stream while pending)": 1,
        },
        "requeue": {
            "requeued": 7,
            "dead_lettered (requeued as often as MAX_REQUEUES allows)": 1,
            "deleted (gone from the stream while pending)": 1,
        },
        "dead_letter": {"dead_lettered (abandoned)": 8, "deleted (gone from the stream while pending)": 1},
    }
    assert report.observed.would_remove_consumers == 0  # idle for no second yet
    assert {str(command[0]) for command in seen.commands} <= READS
    assert dump(stuck) == before
    assert "observing: 9 abandoned" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["observed"]["abandoned"] == 9


async def test_a_sweep_of_store_is_caught_by_the_same_look(stuck: Scene, sweep: Sweeper) -> None:
    """The control: whatever writes shows."""
    before = dump(stuck)
    await sweep(stuck.settings())
    assert dump(stuck) != before


@pytest.fixture
def lowly(scene: Scene) -> Iterator[dict[str, str]]:
    """A user with three rights."""
    name = f"{scene.stream}-lowly"
    scene.raw.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", *RIGHTS.split(), f"~{scene.stream}")
    yield {"REDIS_USERNAME": name, "REDIS_PASSWORD": "pw"}
    scene.raw.execute_command("ACL", "DELUSER", name)


async def test_three_rights_are_enough_and_the_rest_is_unknown(
    stuck: Scene, sweep: Sweeper, lowly: dict[str, str]
) -> None:
    report = await sweep(stuck.settings(ACTION="observe", REAP_CONSUMERS_AFTER_SEC="1", **lowly))
    assert (report.error, report.pending) == (None, 10)
    assert report.observed is not None
    assert report.observed.would["store"]["unknown (what its hash key holds this user may not see (+type))"] == 7
    assert report.observed.would["requeue"]["requeued"] == 7
    assert report.observed.would_remove_consumers is None
    assert any("+xinfo|groups" in note for note in report.observed.notes)


def test_doctor_and_status_say_that_it_observes_and_ask_for_no_more(stuck: Scene, lowly: dict[str, str]) -> None:
    environment = {**stuck.environment, **lowly, "ACTION": "observe"}
    doctor = inside(environment, "doctor")
    assert doctor.code == 0, doctor.out
    assert "observing" in doctor.out
    rights = {one["right"] for one in inside(environment, "doctor", "--json").records if one["check"] == "right"}
    assert rights == {"time", "xpending", "xrange"}
    status = inside(environment, "status")
    assert (status.code, "observing" in status.out) == (0, True)
    record = inside(environment, "status", "--json").record
    assert (record["action"], record["index"]) == ("observe", None)


@pytest.mark.parametrize("right", ["xpending", "xrange", "time"])
def test_doctor_names_each_of_the_three_that_is_missing(stuck: Scene, lowly: dict[str, str], right: str) -> None:
    stuck.raw.execute_command("ACL", "SETUSER", lowly["REDIS_USERNAME"], f"-{right}")
    ran = inside({**stuck.environment, **lowly, "ACTION": "observe"}, "doctor")
    assert ran.code == 1
    assert f"+{right}" in ran.out


def test_show_and_a_dry_run_tell_and_change_nothing(stuck: Scene) -> None:
    before = dump(stuck)
    environment = {**stuck.environment, "ACTION": "observe"}
    record = inside(environment, "sweep", "--dry-run", "--json").record
    assert (record["candidates"], record["observed"]["abandoned"], record["dry_run"]) == (0, 9, True)
    first = stuck.pending_rows()[0][0]
    assert isinstance(first, bytes)
    told = inside(environment, "show", first.decode()).out
    assert "ACTION=observe; store: processed; requeue: requeued; dead_letter: dead_lettered (abandoned)" in told
    assert dump(stuck) == before


async def test_where_other_groups_read_the_stream_requeue_is_said_to_be_refused(stuck: Scene, sweep: Sweeper) -> None:
    stuck.raw.execute_command("XGROUP", "CREATE", stuck.stream, "audit", "$")
    report = await sweep(stuck.settings(ACTION="observe"))
    assert report.observed is not None
    assert ["audit" in note for note in report.observed.notes] == [True]


async def test_an_entry_that_was_delivered_too_often_is_foreseen_as_dead_lettered_by_every_action(
    scene: Scene, sweep: Sweeper
) -> None:
    scene.add_tweets(2)
    ids = scene.abandon()
    scene.age(ids[:1], deliveries=3)
    report = await sweep(scene.settings(ACTION="observe", MAX_DELIVERIES="3"))
    assert report.observed is not None
    capped = "dead_lettered (delivered as often as MAX_DELIVERIES allows)"
    assert [outcomes.get(capped) for outcomes in report.observed.would.values()] == [1] * len(report.observed.would)


# --- bounds -----------------------------------------------------------------------------------------------------------------


async def test_samples_rotate_so_that_every_entry_is_looked_at(
    scene: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "MOST_BODIES", 40)
    scene.add_tweets(100)
    ids = set(scene.abandon())
    janitor = sweep.janitor(scene.settings(ACTION="observe"))
    seen = wire(janitor)
    sizes = []
    for _ in range(3):
        (report,) = await janitor.tick()
        assert report.observed is not None
        sizes.append(report.observed.sample)
    read = [command[2] for command in seen.sent("XRANGE")]
    assert max(sizes) == 40
    assert set(read) == ids
    assert len(read) <= 120


async def test_a_sample_ends_at_two_megabytes(scene: Scene, sweep: Sweeper) -> None:
    for number in range(30):
        scene.add("id", str(number), "text", "x" * 300_000)
    scene.abandon()
    report = await sweep(scene.settings(ACTION="observe"))
    assert report.observed is not None
    assert 5 <= report.observed.sample <= 6


async def test_the_whole_list_is_walked_once_a_minute_at_most(
    scene: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add_tweets(1_000)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(ACTION="observe", PAGE_SIZE="100"))
    seen = wire(janitor)
    counts = []
    for _ in range(3):
        before = len(seen.sent("XPENDING"))
        (report,) = await janitor.tick()
        counts.append(len(seen.sent("XPENDING")) - before)
    assert counts[0] >= 10 > counts[1] == counts[2]
    assert report.observed is not None
    assert (report.observed.abandoned, report.observed.walked_s_ago > 0) == (1_000, True)
    monkeypatch.setattr(observe, "WALK_EVERY_S", 0.0)
    before = len(seen.sent("XPENDING"))
    await janitor.tick()
    assert len(seen.sent("XPENDING")) - before >= 10


async def test_an_empty_group_is_looked_at_in_one_round_trip(scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(scene.settings(ACTION="observe"))
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (seen.round_trips, report.is_quiet) == (1, True)


async def test_a_list_that_was_cut_short_is_said_to_be(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(200)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(ACTION="observe", PAGE_SIZE="10", SWEEP_BUDGET_SEC="0.1"))
    seen = wire(janitor)

    async def slowly(command: object) -> None:
        await asyncio.sleep(0.05)

    seen.before = slowly  # type: ignore[assignment]
    (report,) = await janitor.tick()
    assert not report.complete
    assert report.observed is None or not report.observed.is_whole


def test_the_idle_times_are_counted_in_slots() -> None:
    assert len(observation.IDLE_NAMES) == len(observation.IDLE_BOUNDS_S) + 1


async def test_a_missing_group_is_named_as_ever(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("XGROUP", "DESTROY", scene.stream, scene.group)
    report = await sweep(scene.settings(ACTION="observe"))
    assert "there is no consumer group" in str(report.error)
    assert isinstance(scene.raw, redis.Redis)
