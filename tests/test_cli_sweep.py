from __future__ import annotations

import signal
import time
from collections.abc import Awaitable
from datetime import datetime, timedelta, timezone
from itertools import islice

import pytest

from demo.redis import RedisServer
from shared.redis_client import Command
from shared.schedule import fires
from tests.cli import eventually, finished, inside, on_terminal, start
from tests.conftest import Scene, Sweeper, sum_of_outcomes, wire

EVERY_SECOND = {"MONITOR_SCHEDULE": "*/1 * * * * *"}


@pytest.mark.parametrize("conflict", ["overwrite", "newer", "keep"])
def test_a_dry_run_foresees_the_sweep_and_leaves_everything_as_it_is(scene: Scene, conflict: str) -> None:
    scene.add_tweets(5)
    scene.add("no", "id")
    scene.add("id", "")
    scene.add("id", "typed")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.add("id", "young", entry_id="*")
    scene.deliver("alive")
    scene.raw.execute_command("XDEL", scene.stream, gone)
    scene.raw.execute_command("SADD", f"{scene.prefix}typed", "x")
    scene.raw.execute_command("HSET", f"{scene.prefix}1", "stream_entry_id", "99999999999999-0")
    environment = {**scene.environment, "ON_CONFLICT": conflict}
    before = [row[:2] + row[3:] for row in scene.pending_rows()], scene.keys()
    expected = inside(environment, "sweep", "--dry-run", "--json").record
    after = [row[:2] + row[3:] for row in scene.pending_rows()], scene.keys()
    assert before == after
    assert all(row[2] >= 60_000 for row in scene.pending_rows()[:-1])
    done = inside(environment, "sweep", "--json").record
    assert (expected["dry_run"], done["dry_run"]) == (True, False)
    differing = {name for name in done if expected[name] != done[name]}
    assert differing <= {"dry_run", "duration_s", "settle_mode", "oldest_pending_age_s", "index"}, (expected, done)


@pytest.mark.parametrize(
    "changes",
    [
        {"ID_FIELDS": "@entry"},
        {"ID_FIELDS": "data$.order.id,@entry"},
        {"ID_FIELDS": "data$.order.id", "ON_CONFLICT": "newer"},
    ],
    ids=str,
)
def test_a_dry_run_foresees_the_sweep_by_every_kind_of_id(scene: Scene, changes: dict[str, str]) -> None:
    scene.add("data", '{"order": {"id": 1}}', "stream_entry_id", "5-5")
    for data in ('{"order": {"id": "a"}}', '{"order": {"id": 1.5}}', "{}", "no JSON"):
        scene.add("data", data, "traceparent", "00-0-0-0")
    scene.abandon()
    environment = {**scene.environment, **changes}
    expected = inside(environment, "sweep", "--dry-run", "--json").record
    done = inside(environment, "sweep", "--json").record
    differing = {name for name in done if expected[name] != done[name]}
    assert differing <= {"dry_run", "duration_s", "settle_mode", "oldest_pending_age_s", "index"}, (expected, done)


def test_a_sweep_shows_a_bar_on_a_terminal_only(scene: Scene) -> None:
    scene.add_tweets(3000)
    scene.abandon()
    ran = on_terminal({**scene.environment, "SETTLE_MODE": "gather"}, "sweep")
    assert "━" in ran.out
    assert "/3000" in ran.out
    assert "3000 processed" in ran.out
    assert "━" not in inside(scene.environment, "sweep").err


async def test_a_sweep_that_is_asked_to_stop_finishes_the_batches_in_hand(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(2000)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="500"))
    seen = wire(janitor)

    def stop_at_the_first_write(command: Command) -> Awaitable[None] | None:
        if command[0] in ("XCLAIM", "EVALSHA") and len(command) > 8:
            janitor.sweeps[0].stop()
        return None

    seen.before = stop_at_the_first_write
    (report,) = await janitor.tick()
    assert not report.complete
    assert report.error is None
    assert 0 < report.processed == report.candidates == sum_of_outcomes(report) < 2000
    assert (scene.pending(), len(scene.hashes())) == (2000 - report.processed, report.processed)
    total, through = janitor.sweeps[0].progress
    assert (total, through) == (2000, report.processed)
    seen.before = lambda command: None
    (report,) = await janitor.tick()
    assert (report.complete, scene.pending()) == (True, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_run_sweeps_on_its_schedule_until_a_signal(scene: Scene, number: signal.Signals, code: int) -> None:
    scene.add_tweets(3)
    scene.abandon()
    process = start({**scene.environment, **EVERY_SECOND}, "run", "--json")
    eventually(lambda: scene.pending() == 0)
    scene.add_tweets(2, first=3)
    scene.abandon()
    eventually(lambda: scene.pending() == 0)
    process.send_signal(number)
    ran = finished(process)
    assert ran.code == code, ran
    assert sum(record["processed"] for record in ran.records) == 5
    assert len(ran.records) >= 2


def test_run_ended_in_the_middle_of_a_sweep_leaves_each_entry_pending_or_stored(scene: Scene) -> None:
    script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. i, 'id', i, 'text', 'hello') end"
    day_ago_ms = int(time.time() * 1000) - 24 * 3600 * 1000
    scene.raw.execute_command("EVAL", script, 1, scene.stream, 20_000, day_ago_ms)
    scene.abandon()
    environment = {**scene.environment, **EVERY_SECOND, "SETTLE_MODE": "gather", "CONCURRENCY": "2"}
    process = start(environment, "run", "--json")
    eventually(lambda: scene.pending() < 20_000)
    process.send_signal(signal.SIGTERM)
    ran = finished(process)
    assert ran.code == 0, ran
    assert scene.pending() + len(scene.hashes()) == 20_000
    assert sum(record["processed"] for record in ran.records) == len(scene.hashes())


def test_run_goes_on_while_redis_is_away(own_server: RedisServer, own_scene: Scene) -> None:
    own_server.kill()
    process = start({**own_scene.environment, **EVERY_SECOND}, "run", "--json")
    assert process.stdout is not None
    assert "check REDIS_HOST" in process.stdout.readline()
    own_server.start()
    own_scene.raw.execute_command("XGROUP", "CREATE", own_scene.stream, own_scene.group, "0", "MKSTREAM")
    own_scene.add_tweets(1)
    own_scene.abandon()
    eventually(lambda: own_scene.pending() == 0)
    process.terminate()
    assert finished(process).code == 0


def test_an_interrupted_sweep_prints_its_report(scene: Scene) -> None:
    script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. i, 'id', i) end"
    scene.raw.execute_command("EVAL", script, 1, scene.stream, 30_000, int(time.time() * 1000) - 24 * 3600 * 1000)
    scene.abandon()
    process = start({**scene.environment, "SETTLE_MODE": "gather", "CONCURRENCY": "1"}, "sweep", "--json")
    eventually(lambda: scene.pending() < 30_000)
    process.send_signal(signal.SIGINT)
    ran = finished(process)
    assert ran.code == 130, ran
    assert ran.record["complete"] is False
    assert ran.record["processed"] == len(scene.hashes())


def test_a_schedule_that_cannot_be_read_is_a_problem_of_the_settings(scene: Scene) -> None:
    ran = inside({**scene.environment, "MONITOR_SCHEDULE": "now and then"}, "run")
    assert (ran.code, "MONITOR_SCHEDULE" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("*/20 * * * * *", [20, 40, 60]),
        ("5 * * * * *", [5, 65, 125]),
        ("0 */5 * * * *", [300, 600, 900]),
        ("*/5 * * * *", [300, 600, 900]),
        ("00:00:30", [30, 60, 90]),
    ],
)
def test_a_schedule_fires_where_azure_would(schedule: str, seconds: list[int]) -> None:
    began = datetime(2026, 5, 1, tzinfo=timezone.utc)
    assert list(islice(fires(schedule, began), 3)) == [began + timedelta(seconds=after) for after in seconds]


# --- consumers ------------------------------------------------------------------------------------------------------------


def test_reap_removes_idle_consumers_and_never_one_with_pending_entries_nor_the_janitor(scene: Scene) -> None:
    for name in ("sleeper", "kept-1", "janitor"):
        scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, name)
    scene.add_tweets(1)
    scene.abandon(consumer="crashed")
    environment = {**scene.environment, "REAP_KEEP": "kept-*"}
    assert inside(environment, "consumers", "reap").code == 2
    time.sleep(1.05)
    dry = inside(environment, "consumers", "reap", "--after", "1", "--dry-run", "--json").record
    assert (dry["name"], dry["dry_run"]) == ("sleeper", True)
    assert inside(environment, "consumers", "reap", "--after", "1", "--json").record["name"] == "sleeper"
    left = {record["name"] for record in inside(environment, "consumers", "ls", "--json").records}
    assert left == {"crashed", "kept-1", "janitor"}
