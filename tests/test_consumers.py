"""Dead consumers: removed when they have nothing pending and were idle for long enough, never with anything pending."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from monitor.consumers import LIST_EVERY_S, NAMES_AT_ONCE, Reaper, reap
from monitor.scripts import reap_script
from shared.redis_client import Command, RedisLink
from shared.settings import Settings, StreamSettings
from tests import naive
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, Wire, wire
from tests.patience import in_time


def consumers(scene: Scene) -> set[str]:
    rows = scene.raw.execute_command("XINFO", "CONSUMERS", scene.stream, scene.group)
    return {row[b"name"].decode() for row in rows}


def join(scene: Scene, *names: str) -> None:
    for name in names:
        scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, name)


def idle_ms(scene: Scene) -> int:
    """How long the consumer that was heard of last has been idle."""
    rows = scene.raw.execute_command("XINFO", "CONSUMERS", scene.stream, scene.group)
    return min(int(row[b"idle"]) for row in rows)


def long_enough(scene: Scene, after_ms: int = 2) -> StreamSettings:
    """Settings under which every consumer of the group is idle for long enough by now: a consumer's idle time cannot
    be set, as an entry's can, so a few milliseconds have to pass."""
    while idle_ms(scene) < after_ms:
        time.sleep(0.001)
    return replace(scene.settings().streams[0], reap_after_ms=after_ms)


async def test_a_consumer_with_nothing_pending_that_is_idle_for_long_enough_is_removed(
    scene: Scene, link: RedisLink
) -> None:
    join(scene, "pod-1", "pod-2")
    assert await reap(link, long_enough(scene)) == 2
    assert consumers(scene) == set()


async def test_a_consumer_with_pending_entries_is_never_removed(scene: Scene, link: RedisLink) -> None:
    scene.add_tweets(3)
    scene.deliver("pod-1")
    join(scene, "pod-2")
    assert await reap(link, long_enough(scene)) == 1
    assert (consumers(scene), scene.pending()) == ({"pod-1"}, 3)


async def test_a_consumer_that_was_heard_of_lately_stays(scene: Scene, link: RedisLink) -> None:
    join(scene, "pod-1")
    settings = replace(scene.settings().streams[0], reap_after_ms=60_000)
    assert await reap(link, settings) == 0
    assert consumers(scene) == {"pod-1"}


async def test_the_janitor_itself_and_the_names_in_reap_keep_stay(scene: Scene, link: RedisLink) -> None:
    join(scene, "janitor", "worker-1", "worker-22", "Worker-1", "batch", "pod-1")
    settings = replace(long_enough(scene), reap_keep=("worker-*", "batc?"))
    assert await reap(link, settings) == 2
    assert consumers(scene) == {"janitor", "worker-1", "worker-22", "batch"}


async def test_a_consumer_with_an_odd_name_is_removed_like_any_other(scene: Scene, link: RedisLink) -> None:
    scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, b"\xff\x00 *")
    assert await reap(link, long_enough(scene)) == 1


async def test_reaping_is_off_by_default(scene: Scene, sweep: Sweeper) -> None:
    join(scene, "pod-1")
    settings = scene.settings()
    assert settings.streams[0].reap_after_ms == 0
    report = await sweep(settings)
    assert (report.consumers_removed, consumers(scene)) == (0, {"pod-1"})


def _reaping(scene: Scene, **changes: str) -> Settings:
    settings = scene.settings(**changes)
    return replace(settings, streams=(replace(settings.streams[0], reap_after_ms=long_enough(scene).reap_after_ms),))


async def test_a_sweep_removes_dead_consumers_and_reports_how_many(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(5)
    scene.abandon(consumer="crashed")
    join(scene, "pod-1")
    report = await sweep(_reaping(scene, SETTLE_MODE=mode))
    assert report.processed == 5
    assert report.consumers_removed == 2, "the crashed one too: what it had pending was settled first"
    assert consumers(scene) <= {"janitor"}
    assert "2 dead consumers removed" in str(report)


async def test_an_idle_sweep_removes_them_too(scene: Scene, sweep: Sweeper) -> None:
    join(scene, "pod-1")
    report = await sweep(_reaping(scene))
    assert (report.consumers_removed, report.is_quiet) == (1, False)


async def test_a_user_without_the_right_is_told_which_and_entries_are_settled_all_the_same(
    own_scene: Scene, sweep: Sweeper
) -> None:
    own_scene.raw.execute_command("ACL", "SETUSER", "j", "on", ">pw", "~*", "+@all", "-xinfo")
    own_scene.add_tweets(2)
    own_scene.abandon()
    report = await sweep(_reaping(own_scene, REDIS_USERNAME="j", REDIS_PASSWORD="pw"))
    assert (report.processed, own_scene.pending()) == (2, 0)
    assert "+xinfo" in str(report.error)


async def test_a_script_that_was_flushed_is_loaded(scene: Scene, link: RedisLink) -> None:
    scene.raw.execute_command("SCRIPT", "FLUSH")
    join(scene, "pod-1")
    assert await reap(link, long_enough(scene)) == 1


def test_the_script_checks_itself_that_nothing_is_pending(scene: Scene) -> None:
    scene.add_tweets(1)
    scene.deliver("busy")
    join(scene, "idle", "not-named")
    run = ("EVAL", reap_script().text, 1, scene.stream, scene.group, 1000)
    assert scene.raw.execute_command(*run, "busy", "idle", "nobody") == [3, [b"idle", b"nobody"]]
    assert consumers(scene) == {"busy", "not-named"}


# --- many consumers ---------------------------------------------------------------------------------------------------------

MANY = 2_000


def join_many(scene: Scene, count: int = MANY) -> None:
    scene.raw.execute_command(
        "EVAL", "for i = 1, ARGV[2] do redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], 'pod-' .. i) end",
        1, scene.stream, scene.group, count,
    )  # fmt: skip


async def test_many_consumers_are_removed_in_slices(scene: Scene, link: RedisLink) -> None:
    join_many(scene)
    seen = Wire(link)
    assert await reap(link, long_enough(scene)) == MANY
    assert consumers(scene) == set()
    runs = seen.sent("EVALSHA")
    assert len(runs) >= MANY / NAMES_AT_ONCE
    assert max(len(run) for run in runs) <= NAMES_AT_ONCE + 6
    assert len(seen.sent("XINFO")) == 1


def test_a_run_ends_when_its_time_is_up_and_says_how_far_it_came(scene: Scene) -> None:
    join_many(scene, 100)
    names = [f"pod-{number}" for number in range(1, 101)]
    run = ("EVAL", reap_script().text, 1, scene.stream, scene.group)
    assert scene.raw.execute_command(*run, 0, *names) == [1, [b"pod-1"]]
    assert scene.raw.execute_command(*run, 60_000, *names[1:])[0] == 99  # the control: time enough


def test_a_run_without_a_clock_ends_by_count(scene: Scene) -> None:
    """As on Redis 7.0, which keeps `os` from scripts."""
    join_many(scene, 100)
    without = reap_script().text.replace("rawget(_G, 'os')", "rawget(_G, 'no_such_library')")
    names = [f"pod-{number}" for number in range(1, 101)]
    taken, removed = scene.raw.execute_command("EVAL", without, 1, scene.stream, scene.group, 60_000, *names)
    assert (taken, len(removed)) == (64, 64)


@pytest.mark.parametrize("names", [10_000, 40_000])
async def test_no_slice_keeps_the_server_for_long(own_scene: Scene, sweep: Sweeper, names: int) -> None:
    """Of all the runs together the server's own slowest-command log names none over 20 ms; one run for all is in there."""
    raw = own_scene.raw
    join_many(own_scene, names)
    raw.execute_command("CONFIG", "SET", "slowlog-log-slower-than", int(in_time(20_000)))
    raw.execute_command("SLOWLOG", "RESET")
    report = await sweep(_reaping(own_scene, SWEEP_BUDGET_SEC="19"))
    assert report.consumers_removed == names
    assert [row[3][0] for row in raw.execute_command("SLOWLOG", "GET", 100) if row[3][0] == b"EVALSHA"] == []


def test_one_run_for_all_of_them_is_seen_to_keep_the_server(own_scene: Scene) -> None:
    """Control."""
    join_many(own_scene, 40_000)
    own_scene.raw.execute_command("CONFIG", "SET", "slowlog-log-slower-than", 20_000)
    own_scene.raw.execute_command("SLOWLOG", "RESET")
    names = [f"pod-{number}" for number in range(1, 40_001)]
    own_scene.raw.execute_command(
        "EVAL", reap_script().text, 1, own_scene.stream, own_scene.group, 60_000, *names
    )  # fmt: skip
    assert b"EVAL" in [row[3][0] for row in own_scene.raw.execute_command("SLOWLOG", "GET", 100)]


async def test_consumers_are_listed_at_most_every_ten_minutes(scene: Scene, link: RedisLink) -> None:
    seen, now_s = Wire(link), 1000.0
    reaper = Reaper(lambda: now_s)
    join(scene, "pod-1")
    assert await reaper.reap(link, long_enough(scene)) == 1
    join(scene, "pod-2")
    settings = long_enough(scene)
    now_s += LIST_EVERY_S - 1
    assert await reaper.reap(link, settings) == 0
    assert len(seen.sent("XINFO")) == 1
    now_s += 1
    assert await reaper.reap(link, settings) == 1
    assert len(seen.sent("XINFO")) == 2


async def test_what_a_sweep_did_not_get_to_the_next_one_removes_without_listing_again(
    scene: Scene, link: RedisLink
) -> None:
    join_many(scene, 300)
    seen, reaper, looks = Wire(link), Reaper(), iter((False, True))
    settings = long_enough(scene)
    removed = await reaper.reap(link, settings, lambda: next(looks))
    assert 0 < removed <= NAMES_AT_ONCE
    assert await reaper.reap(link, settings) == 300 - removed
    assert len(seen.sent("XINFO")) == 1


# --- a consumer that reads while it is being removed ------------------------------------------------------------------------


async def _lost_when_it_reads_meanwhile(scene: Scene, remove: Callable[[Callable[[], None]], object]) -> int:
    """A consumer with nothing pending reads three entries between the look at it and its removal."""
    join(scene, "reader")
    scene.add_tweets(3)
    entries = entries_of(scene)
    read = False

    def meanwhile() -> None:
        nonlocal read
        if not read:
            read = True
            scene.deliver("reader")

    waiting = remove(meanwhile)
    if hasattr(waiting, "__await__"):
        await waiting
    assert read
    return len(lost(scene, entries))


async def test_what_a_consumer_reads_while_it_is_being_removed_is_not_lost(scene: Scene, link: RedisLink) -> None:
    seen = Wire(link)

    async def remove(meanwhile: Callable[[], None]) -> None:
        def look(command: Command) -> None:
            if command[0] == "EVALSHA":
                meanwhile()

        settings = long_enough(scene)
        seen.before = look
        assert await reap(link, settings) == 0

    assert await _lost_when_it_reads_meanwhile(scene, remove) == 0
    assert (consumers(scene), scene.pending()) == ({"reader"}, 3)


async def test_check_then_delete_loses_what_the_consumer_reads_meanwhile(scene: Scene) -> None:
    """Control: the same check."""

    def remove(meanwhile: Callable[[], None]) -> None:
        assert naive.check_then_delete_consumer(scene, "reader", meanwhile)

    assert await _lost_when_it_reads_meanwhile(scene, remove) == 3


@pytest.mark.parametrize("after_ms", [0, 1])
async def test_with_nobody_to_remove_no_script_runs(scene: Scene, sweep: Sweeper, after_ms: int) -> None:
    settings = scene.settings()
    janitor = sweep.janitor(replace(settings, streams=(replace(settings.streams[0], reap_after_ms=after_ms),)))
    seen = wire(janitor)
    await janitor.tick()
    await janitor.tick()
    assert (seen.sent("EVALSHA"), len(seen.sent("XINFO"))) == ([], after_ms)
