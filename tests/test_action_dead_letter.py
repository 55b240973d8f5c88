"""ACTION=dead_letter: everything that was left behind is moved to the dead-letter stream."""

from __future__ import annotations

import pytest

from demo.redis import RedisServer
from monitor.dead_letter import read_letter
from shared.redis_client import Command
from tests import naive
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire
from tests.test_old_redis import redis_6_2


async def test_everything_abandoned_is_moved_byte_for_byte(scene: Scene, sweep: Sweeper) -> None:
    held = [b"\xff\x00", b"\r\n\x80", b"twice", b"a", b"twice", b"b", b"traceparent", b"00-1-2-01"]
    scene.add(*held)
    scene.add_tweets(40)
    ids = scene.abandon()
    report = await sweep(scene.settings(ACTION="dead_letter"))
    assert (report.dead_lettered, report.candidates, report.error, scene.pending()) == (41, 41, None, 0)
    assert (report.settle_mode, report.index) == ("gather", "off")
    letters = [read_letter(*letter) for letter in scene.dead_letters()]  # type: ignore[arg-type]
    by_entry = {letter.entry_id: letter for letter in letters if letter is not None}
    assert set(by_entry) == set(ids)
    first = by_entry[ids[0]]
    assert (first.fields, first.reason, first.last_consumer, first.deliveries) == (held, b"abandoned", b"crashed", 1)
    assert scene.hashes() == []


@pytest.mark.parametrize(("idle_ms", "moved"), [(9_000, 0), (11_000, 3)])
async def test_young_entries_are_left_alone(scene: Scene, sweep: Sweeper, idle_ms: int, moved: int) -> None:
    scene.add_tweets(3)
    scene.abandon(idle_ms)
    assert (await sweep(scene.settings(ACTION="dead_letter"))).dead_lettered == moved


async def test_what_a_rival_took_since_the_page_is_not_moved(scene: Scene, sweep: Sweeper) -> None:
    """The minimum idle time is on the claim itself."""
    scene.add_tweets(4)
    ids = scene.abandon()
    janitor = sweep.janitor(scene.settings(ACTION="dead_letter"))

    def rival(command: Command) -> None:
        if command[0] == "XCLAIM":
            scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "rival", 0, ids[1])

    wire(janitor).before = rival
    (report,) = await janitor.tick()
    assert (report.dead_lettered, report.lost_race) == (3, 1)
    assert [row[1] for row in scene.pending_rows()] == [b"rival"]


async def test_nothing_is_acknowledged_before_it_is_in_the_dead_letter_stream(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(20)
    scene.abandon()
    scene.raw.execute_command("SET", f"{scene.stream}:dead", "no stream")
    report = await sweep(scene.settings(ACTION="dead_letter"))
    assert (report.failed > 0, report.dead_lettered, scene.pending()) == (True, 0, 20)
    assert "WRONGTYPE" in str(report.error)


def test_acknowledging_first_loses_them(scene: Scene) -> None:
    """The control: the check above would catch it."""
    scene.add_tweets(20)
    ids = scene.abandon()
    scene.raw.execute_command("SET", f"{scene.stream}:dead", "no stream")
    naive.acknowledge_then_requeue(scene, ids, f"{scene.stream}:dead")
    assert scene.pending() == 0


async def test_a_deleted_entry_is_counted_as_deleted(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(3)
    ids = scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, ids[1])
    report = await sweep(scene.settings(ACTION="dead_letter"))
    assert (report.dead_lettered, report.deleted, scene.pending()) == (2, 1, 0)


async def test_while_replicas_are_away_no_sweep_makes_another_letter(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(5)
    ids = scene.abandon()
    for _ in range(2):
        report = await sweep(scene.settings(ACTION="dead_letter", ACK_REPLICAS="1"))
        assert (report.failed, scene.pending(), scene.dead_letters()) == (5, 5, [])
        assert "ACK_REPLICAS" in str(report.error)
        scene.age(ids)


async def test_a_rate_limit_holds(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(60)
    scene.abandon()
    settings = scene.settings(ACTION="dead_letter", RECOVERY_RATE_LIMIT="20", SWEEP_BUDGET_SEC="1")
    report = await sweep(settings)
    assert report.rate_limited
    assert 20 <= report.dead_lettered <= 40
    assert len(scene.dead_letters()) == 60 - scene.pending() == report.dead_lettered


async def test_it_works_on_redis_6(sweep: Sweeper) -> None:
    with RedisServer(search=False, executable=redis_6_2()) as server:
        scene = new_scene(raw_client(server), server.environment)
        scene.add_tweets(30)
        scene.abandon()
        report = await sweep(scene.settings(ACTION="dead_letter"))
        assert (report.dead_lettered, report.error, scene.pending()) == (30, None, 0)
        scene.raw.close()
