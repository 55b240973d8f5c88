from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from demo.redis import RedisServer
from monitor.batch import Batch, Settler
from monitor.context import ResumeState, SweepContext
from monitor.janitor import raise_for
from monitor.pending import PendingEntry
from monitor.sweep import Sweep
from shared.errors import TickFailed
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import Settings
from tests import naive
from tests.conftest import Scene, Sweeper, sum_of_outcomes, wire
from tests.patience import in_time
from tests.test_settle import settler


async def test_abandoned_entries_are_stored_byte_for_byte_and_acknowledged(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add("id", "1", b"\xff\x00", b"\x80binary\r\n", "text", "")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert scene.hash("1") == {b"id": b"1", b"\xff\x00": b"\x80binary\r\n", b"text": b""}
    assert scene.pending() == 0
    assert (report.processed, report.settle_mode, report.complete, report.error) == (1, mode, True, None)


async def test_entries_younger_than_the_minimum_idle_time_are_left_alone(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(2)
    first, second = scene.deliver()
    scene.age([first], idle_ms=60_000)
    scene.age([second], idle_ms=5_000)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert report.candidates == report.processed == 1
    ((entry_id, consumer, _, deliveries),) = scene.pending_rows()
    assert (entry_id, consumer, deliveries) == (second, b"crashed", 1)


async def test_entries_that_were_never_delivered_are_not_touched(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(3)
    scene.abandon()
    scene.add_tweets(4, first=10)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.processed, len(scene.hashes()), len(scene.deliver("alive"))) == (3, 3, 4)


async def test_entries_are_left_in_the_stream(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(5)
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode))
    assert scene.raw.execute_command("XLEN", scene.stream) == 5


async def test_another_group_of_the_same_stream_keeps_what_it_has_pending(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, "others", "0")
    scene.add_tweets(3)
    scene.abandon()
    scene.raw.execute_command("XREADGROUP", "GROUP", "others", "c", "STREAMS", scene.stream, ">")
    await sweep(scene.settings(SETTLE_MODE=mode))
    assert scene.raw.execute_command("XPENDING", scene.stream, "others")[0] == 3


# --- an idle house ------------------------------------------------------------------------------------------------------


async def test_an_empty_stream_is_swept_without_a_word(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    janitor = sweep.janitor(scene.settings())
    await janitor.tick()
    caplog.clear()
    caplog.set_level(logging.DEBUG, "monitor")
    (report,) = await janitor.tick()
    assert (report.pending, report.candidates, report.complete, report.error) == (0, 0, True, None)
    assert (report.oldest_pending_age_s, report.settle_mode, report.index) == (None, "none", "ok")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


@pytest.mark.parametrize(("schema", "commands"), [("", ["XPENDING", "TIME", "FT.INFO"]), ("off", ["XPENDING", "TIME"])])
async def test_with_nothing_pending_a_tick_is_one_round_trip(
    scene: Scene, sweep: Sweeper, schema: str, commands: list[str]
) -> None:
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA=schema))
    await janitor.tick()
    seen = wire(janitor)
    await janitor.tick()
    assert (seen.round_trips, [command[0] for command in seen.commands]) == (1, commands)


async def test_the_server_counts_no_other_command_in_an_idle_tick(own_scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(own_scene.settings())
    await janitor.tick()
    own_scene.raw.execute_command("CONFIG", "RESETSTAT")
    await janitor.tick()
    stats = bytes(own_scene.raw.execute_command("INFO", "commandstats")).decode()
    counted = {line.split(":")[0] for line in stats.splitlines() if line.startswith("cmdstat_")}
    assert counted - {"cmdstat_config|resetstat"} == {"cmdstat_xpending", "cmdstat_time"}


async def test_young_entries_cost_one_page_and_nothing_else(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(50)
    scene.deliver()
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="off"))
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (report.pending, report.candidates, seen.round_trips) == (50, 0, 2)


# --- stop and go on -----------------------------------------------------------------------------------------------------


class OneBatchASweep:
    """Settles as usual, but the sweep's time is up after each batch; ``size`` entries to a batch."""

    name = "script"
    concurrency = 1
    keeps_whole_batches = False

    def __init__(self, settle: Settler, size: int) -> None:
        self._settle, self.batch_size = settle, size
        self.sweep: Sweep | None = None
        self.taken_up: list[bytes] = []

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        batch = await self._settle.settle(entries)
        self.taken_up += [entry.entry_id for entry in entries[: batch.taken]]
        assert self.sweep is not None
        self.sweep.stop()
        return batch

    async def run(self, link: RedisLink, settings: Settings, carried: ResumeState) -> ResumeState:
        carried.settle = self
        self.sweep = Sweep(SweepContext(link, settings.streams[0], settings.page_size, 1, 10.0), carried)
        report = await self.sweep.run()
        assert report.candidates == sum_of_outcomes(report)
        return carried


async def test_the_next_sweep_goes_on_where_the_budget_of_the_last_one_ended(
    scene: Scene, link: RedisLink, mode: str
) -> None:
    scene.add_tweets(60)
    ids = scene.abandon()
    settings = scene.settings(PAGE_SIZE="25")
    batches, carried = OneBatchASweep(settler(mode, link, settings.streams[0]), 10), ResumeState()
    for number in range(1, 7):
        await batches.run(link, settings, carried)
        assert batches.taken_up == ids[: 10 * number]
    assert scene.pending() == 0
    assert (await batches.run(link, settings, carried)).cursor is None, "through with the list"


async def _sweeps_until_the_tail_is_stored(
    scene: Scene, link: RedisLink, mode: str, remember: bool, most: int = 20
) -> int:
    """40 bad entries at the head that are candidates in every sweep, 10 good ones behind them; 10 entries a sweep."""
    for _ in range(40):
        scene.add("text", "no id")
    scene.add_tweets(10)
    scene.abandon()
    settings = scene.settings(MIN_IDLE_TIME_SEC="0", DEAD_LETTER_STREAM="off", PAGE_SIZE="10")
    batches, carried = OneBatchASweep(settler(mode, link, settings.streams[0]), 10), ResumeState()
    for number in range(most):
        if len(scene.hashes()) == 10:
            return number
        carried = await batches.run(link, settings, carried if remember else ResumeState())
    return most


async def test_a_bad_head_never_starves_the_tail(scene: Scene, link: RedisLink, mode: str) -> None:
    assert await _sweeps_until_the_tail_is_stored(scene, link, mode, remember=True) == 5


async def test_without_the_cursor_a_bad_head_starves_the_tail(scene: Scene, link: RedisLink, mode: str) -> None:
    """Control: the same check with the cursor forgotten after each sweep."""
    assert await _sweeps_until_the_tail_is_stored(scene, link, mode, remember=False) == 20
    assert naive.walk_from_the_smallest_id([b"1-0", b"2-0"], 1) == [b"1-0"]


async def test_after_the_tail_the_sweep_looks_at_the_head_too(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(30)
    ids = scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="7"))
    janitor._resume[janitor.settings.streams[0]].cursor = ids[17]
    (report,) = await janitor.tick()
    assert (report.processed, report.complete, scene.pending()) == (30, True, 0)
    assert janitor._resume[janitor.settings.streams[0]].cursor is None


@pytest.mark.parametrize("cursor", [b"0-0", b"1-0", b"18446744073709551615-18446744073709551615"])
async def test_a_cursor_beyond_either_end_of_the_list_hides_nothing(
    scene: Scene, sweep: Sweeper, cursor: bytes
) -> None:
    scene.add_tweets(5)
    scene.abandon()
    janitor = sweep.janitor(scene.settings())
    janitor._resume[janitor.settings.streams[0]].cursor = cursor
    (report,) = await janitor.tick()
    assert (report.processed, report.error) == (5, None)


async def test_a_sweep_whose_time_is_up_says_that_it_is_not_complete(scene: Scene, link: RedisLink, mode: str) -> None:
    scene.add_tweets(20)
    scene.abandon()
    settings = scene.settings()
    batches = OneBatchASweep(settler(mode, link, settings.streams[0]), 5)
    await batches.run(link, settings, ResumeState())
    assert batches.sweep is not None
    report = batches.sweep._report()
    assert (report.processed, report.complete, report.error) == (5, False, None)
    assert "not complete" in str(report)


def _pause_once_at(scene: Scene, names: Sequence[str], pause_ms: int) -> Callable[[Command], None]:
    """The server answers nobody for a while, from the first of these commands on."""
    is_paused = False

    def pause(command: Command) -> None:
        nonlocal is_paused
        if command[0] in names and not is_paused:
            is_paused = True
            scene.raw.execute_command("CLIENT", "PAUSE", pause_ms, "ALL")

    return pause


async def test_a_server_that_falls_silent_costs_no_more_than_the_budget(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.add_tweets(50)
    own_scene.abandon()
    janitor = sweep.janitor(own_scene.settings(SETTLE_MODE=mode, SWEEP_BUDGET_SEC="1"))
    seen = wire(janitor)

    seen.before = _pause_once_at(own_scene, ("EVALSHA", "XCLAIM"), 1500)
    (report,) = await janitor.tick()
    assert 0.5 < report.duration_s < in_time(1.3)
    assert report.error
    assert report.candidates == sum_of_outcomes(report)
    with pytest.raises(TickFailed):
        raise_for((report,))


# --- what cannot be swept -----------------------------------------------------------------------------------------------


async def test_a_missing_group_is_named_with_the_command_that_creates_it(scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(STREAM_CONSUMER_GROUP_NAME="nobody"))
    assert f"XGROUP CREATE {scene.stream} nobody 0 MKSTREAM" in str(report.error)
    assert not report.complete


async def test_a_missing_stream_is_named_with_the_command_that_creates_it(scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(STREAM_NAME=scene.stream + "-not-there"))
    assert f"XGROUP CREATE {scene.stream}-not-there redisearch_app_group 0 MKSTREAM" in str(report.error)


async def test_a_stream_that_is_another_type_is_said_so(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("SET", scene.stream + "-string", "x")
    report = await sweep(scene.settings(STREAM_NAME=scene.stream + "-string"))
    assert "not a stream" in str(report.error)


async def test_a_group_destroyed_midway_ends_the_sweep_with_its_error(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(200)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="50"))
    seen = wire(janitor)

    def destroy(command: Command, reply: Reply) -> None:
        if len(seen.sent("XPENDING")) == 2:
            scene.raw.execute_command("XGROUP", "DESTROY", scene.stream, scene.group)

    seen.after = destroy
    (report,) = await janitor.tick()
    assert report.error
    assert report.candidates == sum_of_outcomes(report)


async def test_a_refused_batch_does_not_hide_what_was_settled_before_it(
    own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.add_tweets(100)
    own_scene.abandon()
    janitor = sweep.janitor(own_scene.settings(SETTLE_MODE=mode, PAGE_SIZE="20", CONCURRENCY="1"))
    seen = wire(janitor)

    def fill(command: Command, reply: Reply) -> None:
        if command[0] == "XACK" or (command[0] == "EVALSHA" and isinstance(reply, list)):
            own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)

    seen.after = fill
    (report,) = await janitor.tick()
    assert report.processed == len(own_scene.hashes()) > 0
    assert own_scene.pending() == 100 - report.processed
    assert "out of memory" in str(report.error)


async def test_the_settle_mode_is_chosen_and_logged_once(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "monitor")
    janitor = sweep.janitor(scene.settings())
    for first in (0, 10):
        scene.add_tweets(3, first)
        scene.abandon()
        (report,) = await janitor.tick()
        assert report.settle_mode == "script"
    assert [record.getMessage() for record in caplog.records if "settle mode" in record.getMessage()] == [
        f"settle mode for {scene.stream}/{scene.group}: script (a script may)"
    ]


async def test_a_cancelled_tick_counts_what_it_had_in_hand_as_unknown_and_loses_nothing(
    own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.add_tweets(100)
    own_scene.abandon()
    janitor = sweep.janitor(own_scene.settings(SETTLE_MODE=mode, SWEEP_BUDGET_SEC="0.3"))
    seen = wire(janitor)

    seen.before = _pause_once_at(own_scene, ("EVALSHA", "HSET"), 500)
    (report,) = await janitor.tick()
    assert report.candidates == sum_of_outcomes(report) == report.unknown + report.processed
    own_scene.age([row[0] for row in own_scene.pending_rows()])  # type: ignore[misc]
    seen.before = lambda command: None
    await janitor.tick()
    assert (own_scene.pending(), len(own_scene.hashes())) == (0, 100)
