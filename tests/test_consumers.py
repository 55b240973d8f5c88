"""Dead consumers: removed when they have nothing pending and were idle for long enough, never with anything pending."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from monitor.consumers import reap
from monitor.scripts import reap_script
from shared.redis_client import Command, RedisLink
from shared.settings import Settings, StreamSettings
from tests import naive
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, Wire, wire


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


def test_the_script_checks_pending_entries_and_idle_time_itself(scene: Scene) -> None:
    scene.add_tweets(1)
    scene.deliver("busy")
    join(scene, "idle", "not-named")
    run = ("EVAL", reap_script().text, 1, scene.stream, scene.group)
    assert scene.raw.execute_command(*run, 60_000, "busy", "idle", "nobody") == []
    long_enough(scene)
    assert scene.raw.execute_command(*run, 1, "busy", "idle", "nobody") == [b"idle"]
    assert consumers(scene) == {"busy", "not-named"}


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
    await janitor.tick()
    seen = wire(janitor)
    await janitor.tick()
    assert (seen.sent("EVALSHA"), len(seen.sent("XINFO"))) == ([], after_ms)
