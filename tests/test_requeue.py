"""ACTION=requeue: abandoned entries go back to living consumers; both ways, on real servers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.scripts import requeue_script
from shared.redis_client import Command
from shared.settings import Settings
from tests import naive, naive_janitor
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire
from tests.fronts import Judging
from tests.test_old_redis import as_6_0, redis_6_2, redis_7_on_path

GROUP = "redisearch_app_group"


def requeueing(mode: str, **changes: str) -> dict[str, str]:
    return {"ACTION": "requeue", "SETTLE_MODE": mode, **changes}


def added(scene: Scene, stream: str = "", after: int = 0) -> list[list[bytes]]:
    """The fields of the entries of a stream, without the first ``after``."""
    entries = scene.raw.execute_command("XRANGE", stream or scene.stream, "-", "+")
    return [fields for _, fields in entries][after:]


def mark(entry_id: bytes, count: int = 1) -> list[bytes]:
    return [b"original_entry_id", entry_id, b"requeue_count", b"%d" % count]


@pytest.fixture
def target(scene: Scene) -> str:
    """Another stream, which a group reads."""
    name = f"{scene.stream}:again"
    scene.raw.execute_command("XGROUP", "CREATE", name, "workers", "0", "MKSTREAM")
    return name


# --- what is added ----------------------------------------------------------------------------------------------------------


async def test_an_abandoned_entry_is_added_again_byte_for_byte_and_acknowledged(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    held = [
        b"id",
        b"1",
        b"\xff\x00",
        b"\r\n\x80",
        b"twice",
        b"a",
        b"twice",
        b"b",
        b"",
        b"",
        b"traceparent",
        b"00-1-2-01",
    ]
    scene.add(*held)
    (entry_id,) = scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.candidates, report.error, report.settle_mode) == (1, 1, None, mode)
    assert added(scene, after=1) == [[*held, *mark(entry_id)]]
    assert (scene.pending(), report.index) == (0, "off")
    assert scene.hashes() == []


async def test_a_requeued_entry_reaches_a_living_consumer(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(50)
    ids = scene.abandon()
    await sweep(scene.settings(**requeueing(mode)))
    delivered = scene.deliver("alive")
    assert len(delivered) == 50
    originals = [fields[fields.index(b"original_entry_id") + 1] for fields in added(scene, after=50)]
    assert sorted(originals) == ids  # batches overlap


async def test_the_count_goes_up_and_the_first_id_stays(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("id", "1", "requeue_count", "1", "original_entry_id", "5-5", "requeue_count", "2")
    scene.abandon()
    await sweep(scene.settings(**requeueing(mode)))
    assert added(scene, after=1) == [[b"id", b"1", b"original_entry_id", b"5-5", b"requeue_count", b"3"]]


@pytest.mark.parametrize("count", ["", "-1", "1.5", "two", "1e3", " 1", "٣"])
async def test_a_count_that_is_no_whole_number_is_none(scene: Scene, sweep: Sweeper, mode: str, count: str) -> None:
    scene.add("id", "1", "requeue_count", count)
    (entry_id,) = scene.abandon()
    await sweep(scene.settings(**requeueing(mode)))
    assert added(scene, after=1) == [[b"id", b"1", *mark(entry_id)]]


@pytest.mark.parametrize("number", [3_900, 3_949, 3_951, 4_500, 40_000])
async def test_an_entry_of_any_number_of_fields_is_requeued_whole(
    scene: Scene, sweep: Sweeper, mode: str, number: int
) -> None:
    """Lua's unpack ends at about 8,000 values; the entries around the widest are requeued as ever."""
    scene.add_tweets(3)
    wide = [part for at in range(number) for part in (b"f%d" % at, b"v")]
    wide_id = scene.add(*wide)
    scene.add_tweets(3, first=3)
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.error, scene.pending()) == (7, None, 0)
    assert [*wide, *mark(wide_id)] in added(scene, after=7)


# --- how often --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "is_dead"), [("4", False), ("5", True), ("6", True), ("0" * 20 + "4", False), ("9" * 30, True)]
)
async def test_an_entry_is_dead_lettered_at_exactly_max_requeues(
    scene: Scene, sweep: Sweeper, mode: str, count: str, is_dead: bool
) -> None:
    scene.add("id", "1", "requeue_count", count, "original_entry_id", "5-5")
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.dead_lettered, scene.pending()) == (not is_dead, is_dead, 0)
    assert len(added(scene)) == (1 if is_dead else 2)
    if is_dead:
        (letter,) = scene.dead_letters()
        assert letter[1][6:8] == [b"reason", b"requeued as often as MAX_REQUEUES allows"]  # type: ignore[index]
        assert letter[1][14:] == [b"id", b"1", b"requeue_count", count.encode(), b"original_entry_id", b"5-5"]  # type: ignore[index]


async def test_without_a_limit_the_count_goes_on(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("id", "1", "requeue_count", "999999")
    (entry_id,) = scene.abandon()
    await sweep(scene.settings(**requeueing(mode, MAX_REQUEUES="off")))
    assert added(scene, after=1) == [[b"id", b"1", *mark(entry_id, 1_000_000)]]


async def test_a_poison_message_ends_in_the_dead_letters_after_so_many_crashes(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """Each round a consumer crashes over it; the sixth time it is dead-lettered, under its first id's name."""
    first_id = scene.add("id", "poison")
    scene.abandon()
    for trip in range(1, 6):
        report = await sweep(scene.settings(**requeueing(mode)))
        assert report.requeued == 1, trip
        scene.raw.execute_command("XTRIM", scene.stream, "MAXLEN", 1)
        fields = added(scene)[0]
        # The new entry was made just now; a day passes.
        scene.raw.execute_command("DEL", scene.stream)
        scene.raw.execute_command("XGROUP", "CREATE", scene.stream, scene.group, "0", "MKSTREAM")
        scene.add(*fields)
        scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.dead_lettered) == (0, 1)
    ((_, letter),) = scene.dead_letters()
    assert letter[14:] == [b"id", b"poison", *mark(first_id, 5)]  # type: ignore[index]


async def test_without_a_dead_letter_stream_it_stays_pending_and_says_why(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add("id", "1", "requeue_count", "5")
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode, DEAD_LETTER_STREAM="off")))
    assert (report.failed, scene.pending(), report.error) == (1, 1, None)
    assert list(report.reasons) == ["failed: requeued as often as MAX_REQUEUES allows"]


# --- who is left alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle_ms", "is_requeued"), [(9_000, False), (11_000, True)])
async def test_young_entries_are_left_alone(
    scene: Scene, sweep: Sweeper, mode: str, idle_ms: int, is_requeued: bool
) -> None:
    scene.add_tweets(3)
    scene.abandon(idle_ms)
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, scene.pending()) == ((3, 0) if is_requeued else (0, 3))


async def test_a_deleted_entry_is_counted_and_nothing_is_added(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(3)
    ids = scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, ids[1])
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.deleted, scene.pending()) == (2, 1, 0)
    assert len(added(scene)) == 4


async def test_nothing_is_trimmed_and_nothing_is_deleted(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(200)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(**requeueing(mode)))
    seen = wire(janitor)
    await janitor.tick()
    assert len(added(scene)) == 400
    assert not [one for one in seen.commands if {"MAXLEN", "MINID", "XDEL", "XTRIM"} & set(map(str, one))]
    assert "MAXLEN" not in requeue_script().text


async def test_what_a_rival_took_between_the_page_and_the_run_is_its_own(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(4)
    ids = scene.abandon()
    janitor = sweep.janitor(scene.settings(**requeueing(mode)))
    seen, has_read = wire(janitor), False

    def rival(command: Command, reply: object) -> None:
        nonlocal has_read
        if command[0] == "XPENDING" and len(command) > 3 and not has_read:
            has_read = True
            scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "rival", 0, ids[0])

    seen.after = rival
    (report,) = await janitor.tick()
    assert (report.requeued, report.lost_race) == (3, 1)
    assert [row[1] for row in scene.pending_rows()] == [b"rival"]


async def swept_by_four(scene: Scene, make: Callable[[Settings], Any], mode: str) -> int:
    """How many copies there are after four janitors swept 300 abandoned entries at once."""
    scene.add_tweets(300)
    scene.abandon()
    janitors = [make(scene.settings(**requeueing(mode, PAGE_SIZE="50"))) for _ in range(4)]
    await asyncio.gather(*(janitor.tick() for janitor in janitors))
    for janitor in janitors:
        await janitor.close()
    return len(added(scene)) - 300


async def test_several_janitors_requeue_each_entry_once(scene: Scene, mode: str) -> None:
    assert await swept_by_four(scene, Janitor, mode) == 300
    assert scene.pending() == 0


async def test_a_claim_without_the_minimum_idle_time_requeues_entries_twice(scene: Scene) -> None:
    """The control."""
    assert await swept_by_four(scene, naive_janitor.naive(min_idle_zero=True), "gather") > 300


# --- acknowledged only once it is there ----------------------------------------------------------------------------------------


async def test_nothing_is_acknowledged_before_it_is_in_the_target(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(20)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(**requeueing("gather")))
    seen, at_acknowledgement = wire(janitor), []

    def look(command: Command) -> None:
        if command[0] == "XACK":
            at_acknowledgement.append((len(command) - 3, len(added(scene)) - 20))

    seen.before = look
    await janitor.tick()
    acknowledged = 0
    for count, there in at_acknowledgement:
        acknowledged += count
        assert there >= acknowledged
    assert acknowledged == 20


def in_neither(scene: Scene, ids: list[bytes], target: str) -> list[bytes]:
    pending = {row[0] for row in scene.pending_rows()}
    there = {fields[fields.index(b"original_entry_id") + 1] for fields in added(scene, target)}
    return [entry_id for entry_id in ids if entry_id not in pending and entry_id not in there]


@pytest.mark.parametrize("when", ["from the start", "since the look at its groups"])
async def test_a_target_that_refuses_loses_nothing_and_fails_the_sweep(
    scene: Scene, sweep: Sweeper, mode: str, when: str
) -> None:
    target = f"{scene.stream}:again"
    scene.add_tweets(10)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(**requeueing(mode, REQUEUE_TO=target)))
    seen = wire(janitor)

    def put_in_the_way(command: Command) -> None:
        if command[0] == ("XPENDING" if when == "from the start" else "EVALSHA" if mode == "script" else "XCLAIM"):
            scene.raw.execute_command("SET", target, "no stream")

    seen.before = put_in_the_way
    (report,) = await janitor.tick()
    assert (report.requeued, report.dead_lettered, scene.pending()) == (0, 0, 10)
    assert (report.failed > 0) == (when != "from the start"), report
    assert report.error is not None
    assert "is a key of another type, not a stream" in report.error


def test_acknowledging_first_loses_what_the_target_refuses(scene: Scene) -> None:
    """The control: the check above would catch it."""
    target = f"{scene.stream}:again"
    scene.raw.execute_command("SET", target, "no stream")
    scene.add_tweets(10)
    ids = scene.abandon()
    naive.acknowledge_then_requeue(scene, ids, target)
    scene.raw.execute_command("DEL", target)
    assert in_neither(scene, ids, target) == ids


async def test_an_exhausted_target_fails_the_sweep_and_nothing_is_dead_lettered(
    scene: Scene, sweep: Sweeper, mode: str, target: str
) -> None:
    scene.raw.execute_command("XADD", target, f"{2**64 - 1}-{2**64 - 1}", "the", "last")
    scene.add_tweets(3)
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode, REQUEUE_TO=target)))
    assert (report.requeued, report.dead_lettered, scene.pending()) == (0, 0, 3)
    assert "takes no more entries" in str(report.error)


async def test_the_same_stream_exhausted_says_what_to_set(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(3)
    scene.abandon()
    scene.raw.execute_command("XADD", scene.stream, f"{2**64 - 1}-{2**64 - 1}", "the", "last")
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.failed, scene.pending()) == (3, 3)
    assert "set REQUEUE_TO" in str(report.error)


async def test_a_full_server_loses_nothing_and_adds_nothing(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.add_tweets(10)
    own_scene.abandon()
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", "1")
    report = await sweep(own_scene.settings(**requeueing(mode)))
    assert (report.requeued, report.dead_lettered, own_scene.pending()) == (0, 0, 10)
    assert "out of memory" in str(report.error)
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", "0")
    own_scene.age([row[0] for row in own_scene.pending_rows()])  # type: ignore[misc]
    assert (await sweep(own_scene.settings(**requeueing(mode)))).requeued == 10


async def test_while_replicas_are_away_no_sweep_adds_another_copy(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(5)
    ids = scene.abandon()
    for _ in range(3):
        report = await sweep(scene.settings(ACTION="requeue", ACK_REPLICAS="1"))
        assert (report.requeued, report.failed, scene.pending()) == (0, 5, 5)
        assert "ACK_REPLICAS" in str(report.error)
        scene.age(ids)
    assert len(added(scene)) == 5


# --- who reads the target -----------------------------------------------------------------------------------------------------


async def test_where_other_groups_read_the_stream_the_sweep_refuses_and_names_them(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, "audit", "$")
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.candidates, scene.pending(), len(added(scene))) == (0, 3, 3)
    assert "audit" in str(report.error)
    assert "REQUEUE_WITH_OTHER_GROUPS=true" in str(report.error)
    report = await sweep(scene.settings(**requeueing(mode, REQUEUE_WITH_OTHER_GROUPS="true")))
    assert (report.requeued, report.error) == (3, None)


async def test_another_stream_may_have_any_number_of_groups(
    scene: Scene, sweep: Sweeper, mode: str, target: str
) -> None:
    scene.raw.execute_command("XGROUP", "CREATE", target, "audit", "$")
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, "audit", "$")
    scene.add_tweets(3)
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode, REQUEUE_TO=target)))
    assert (report.requeued, report.error, len(added(scene, target))) == (3, None, 3)


async def test_a_target_that_nobody_reads_is_reported(
    scene: Scene, sweep: Sweeper, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    with caplog.at_level(logging.WARNING, "monitor"):
        report = await sweep(scene.settings(**requeueing(mode, REQUEUE_TO=f"{scene.stream}:again")))
    assert report.requeued == 3
    assert "has no consumer group" in caplog.text


# --- the ways ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("redis_of", "expected"), [(redis_6_2, "gather"), (redis_7_on_path, "script")])
async def test_each_version_requeues_by_the_way_it_has(
    redis_of: Callable[[], Path], expected: str, sweep: Sweeper
) -> None:
    with RedisServer(search=False, executable=redis_of()) as server:
        scene = new_scene(raw_client(server), server.environment, INDEX_SCHEMA="off")
        scene.add_tweets(300)
        ids = scene.abandon()
        report = await sweep(scene.settings(ACTION="requeue"))
        assert (report.requeued, report.settle_mode, scene.pending()) == (300, expected, 0)
        originals = [fields[fields.index(b"original_entry_id") + 1] for fields in added(scene, after=300)]
        assert sorted(originals) == sorted(ids)
        scene.raw.close()


async def test_a_rate_limit_holds_and_what_waits_is_untouched(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(60)
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode, RECOVERY_RATE_LIMIT="20", SWEEP_BUDGET_SEC="1")))
    assert report.rate_limited
    assert 20 <= report.requeued <= 40
    assert (scene.pending(), len(added(scene))) == (60 - report.requeued, 60 + report.requeued)
    assert {row[1] for row in scene.pending_rows()} == {b"crashed"}


async def test_one_run_never_keeps_others_waiting_for_long(scene: Scene, sweep: Sweeper) -> None:
    """The slowest script of a large sweep, by the server's own log: 3 ms are asked for."""
    scene.add_tweets(5_000)
    scene.abandon()
    scene.raw.execute_command("CONFIG", "SET", "slowlog-log-slower-than", "30000")
    scene.raw.execute_command("SLOWLOG", "RESET")
    report = await sweep(scene.settings(**requeueing("script")))
    slow = scene.raw.execute_command("SLOWLOG", "GET", "-1")
    assert report.requeued == 5_000
    assert [one[3][0] for one in slow if one[3][0] == b"EVALSHA"] == []


async def test_heavy_entries_are_requeued_whole(scene: Scene, sweep: Sweeper, mode: str) -> None:
    for number in range(12):
        scene.add("id", str(number), "body", bytes([65 + number]) * 1_000_000)
    scene.abandon()
    report = await sweep(scene.settings(**requeueing(mode)))
    assert (report.requeued, report.error, scene.pending()) == (12, None, 0)
    bodies = sorted(fields[3] for fields in added(scene, after=12))
    assert bodies == [bytes([65 + number]) * 1_000_000 for number in range(12)]


async def test_every_stream_of_an_app_has_its_own_action(scene: Scene, sweep: Sweeper) -> None:
    streams = {action: f"{scene.stream}:{action}" for action in ("store", "requeue", "dead_letter", "observe")}
    for stream in streams.values():
        scene.raw.execute_command("XGROUP", "CREATE", stream, scene.group, "0", "MKSTREAM")
        entry_id = scene.raw.execute_command("XADD", stream, "1-1", "id", "1")
        scene.raw.execute_command("XREADGROUP", "GROUP", scene.group, "c", "STREAMS", stream, ">")
        scene.raw.execute_command("XCLAIM", stream, scene.group, "c", 0, entry_id, "IDLE", 60_000, "JUSTID")
    items = [{"name": stream, "action": action} for action, stream in streams.items()]
    environment = {name: value for name, value in scene.environment.items() if name != "STREAM_NAME"}
    settings = Settings.from_env({**environment, "STREAMS": json.dumps(items), "INDEX_SCHEMA": "off"})
    reports = await sweep.janitor(settings).tick()
    assert [report.error for report in reports] == [None] * 4
    assert [(one.processed, one.requeued, one.dead_lettered, one.candidates) for one in reports] == [
        (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 0),
    ]  # fmt: skip
    assert [report.observed is not None for report in reports] == [False, False, False, True]


@pytest.mark.parametrize("action", ["requeue", "dead_letter", "observe"])
async def test_nothing_is_sent_that_redis_6_0_does_not_know(
    server: RedisServer, scene: Scene, sweep: Sweeper, action: str
) -> None:
    scene.add_tweets(20)
    scene.abandon()
    async with Judging(server.port, as_6_0) as front:
        report = await sweep(scene.settings(ACTION=action, **front.environment))
    done = report.requeued + report.dead_lettered + (report.observed.sample if report.observed else 0)
    assert (done, report.error) == (20, None)
    refused = {command[0] for command in front.refused}
    assert refused <= {b"SCRIPT", b"CLIENT"}  # the probe of script mode, whose text 6.0 does not compile
