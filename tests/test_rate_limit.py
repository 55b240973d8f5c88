"""RECOVERY_RATE_LIMIT: no window of a second holds more, whoever takes entries up; what waits is as it was."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

import monitor.actions.in_scripts
import monitor.claims
import monitor.scripts
from demo.redis import RedisServer
from demo.window import Run, most_in_a_second
from demo.witness import Witness, watching
from monitor.actions.script import ScriptSettle
from monitor.rate import rate_key
from monitor.scripts import claim_script, settle_script
from monitor.sweep_state import SweepState
from shared.redis_client import Command, RedisLink, Reply
from tests import acl
from tests.checks import entries_of, lost
from tests.cli import finished, start
from tests.conftest import Scene, Sweeper, Wire, wire
from tests.test_acl import SETTLING, Users, assert_nothing_lost
from tests.test_settle import candidates, settler

RATE_LUA = (Path(monitor.scripts.__file__).parent / "rate.lua").read_text()
JANITORS = 3


@pytest.fixture
def users(raw: redis.Redis) -> Iterator[Users]:
    users = Users(raw)
    yield users
    users.delete()


# --- the window, by a simulated clock -------------------------------------------------------------------------------------

SIMULATION = """
local runs = {}
for i = 2, #ARGV, 4 do
  clock = { math.floor(ARGV[i] / 1000), (ARGV[i] % 1000) * 1000 }
  local window = open_window(KEYS[1 + ARGV[i + 3] % #KEYS])
  local granted = math.min(tonumber(ARGV[1]) - window.taken, tonumber(ARGV[i + 1]))
  if granted > 0 then
    charge(window, granted)
    local taken = math.random(0, granted)
    settle_up(window, granted, taken, tonumber(ARGV[i + 2]))
    runs[#runs + 1] = taken
  else
    runs[#runs + 1] = 0
  end
end
return runs
"""

LIMITERS = {
    "ours": (RATE_LUA, 1),
    "a fixed window for each second": (RATE_LUA.replace("= 20, 51", "= 1000, 0"), 1),
    "a window of exactly a second": (RATE_LUA.replace("= 20, 51", "= 20, 49"), 1),
    "each janitor for itself": (RATE_LUA, JANITORS),
    "charged when the run began": (RATE_LUA.replace("window.now_ms + took_ms", "window.now_ms"), 1),
}


def simulated(raw: redis.Redis, scene: Scene, limiter: str, limit: int, rng: random.Random) -> list[Run]:
    """What the limiter grants to janitors who come at any time, take any share of it and are as slow as they like."""
    text, windows = LIMITERS[limiter]
    script = "local clock\n" + text.replace("redis.call('TIME')", "clock") + SIMULATION
    at_ms, asked = 1_800_000_000_000 + rng.randrange(1000), []
    for number in range(600):
        took_ms = rng.choice((0, 0, 0, 3, 19, 60))
        asked.append((at_ms, rng.randint(1, 2 * limit), took_ms, number % JANITORS))
        at_ms += took_ms + rng.choice((0, 1, 7, 19, 20, 100, rng.randrange(1500)))
    keys = [f"{scene.stream}:{limiter}:{limit}:{number}" for number in range(windows)]
    counts = raw.execute_command("EVAL", script, windows, *keys, limit, *itertools.chain(*asked))
    return [Run(at, at + took, count) for (at, _, took, _), count in zip(asked, counts, strict=True)]


@pytest.mark.parametrize("limit", [1, 7, 50, 5000])
def test_no_second_holds_more_than_the_limit(raw: redis.Redis, scene: Scene, limit: int) -> None:
    runs = simulated(raw, scene, "ours", limit, random.Random(limit))
    assert 0 < most_in_a_second(runs) <= limit


@pytest.mark.parametrize("limiter", sorted(set(LIMITERS) - {"ours"}))
def test_wrong_limiters_are_caught(raw: redis.Redis, scene: Scene, limiter: str) -> None:
    """Control: the same check."""
    assert LIMITERS[limiter] != LIMITERS["ours"]
    most = [most_in_a_second(simulated(raw, scene, limiter, 50, random.Random(seed))) for seed in range(20)]
    assert max(most) > 50


WAITING = """
local taken, at = 0, 1800000000000
for _ = 1, 2000 do
  clock = { math.floor(at / 1000), (at % 1000) * 1000 }
  local window = open_window(KEYS[1])
  local granted = math.min(tonumber(ARGV[1]) - window.taken, 7)
  if granted > 0 then
    charge(window, granted)
    settle_up(window, granted, granted, 0)
    taken, at = taken + granted, at + 1
  else
    at = at + wait_ms(window)
  end
end
return { taken, at - 1800000000000, redis.call('HLEN', KEYS[1]), redis.call('TTL', KEYS[1]) }
"""


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_who_waits_as_told_reaches_96_percent_of_the_limit_in_a_small_key(
    raw: redis.Redis, scene: Scene, limit: int
) -> None:
    script = "local clock\n" + RATE_LUA.replace("redis.call('TIME')", "clock") + WAITING
    taken, took_ms, fields, lifetime_s = raw.execute_command("EVAL", script, 1, f"{scene.stream}:window", limit)
    assert 0.96 * limit <= taken / (took_ms / 1000 + 1.04) * 1.04 <= 1.04 * limit
    assert fields <= 53
    assert 0 < lifetime_s <= 5


def test_a_clock_that_was_set_back_stops_nothing(raw: redis.Redis, scene: Scene) -> None:
    text = "local clock\n" + RATE_LUA.replace("redis.call('TIME')", "clock") + SIMULATION
    later, earlier = 1_800_000_000_000, 1_800_000_000_000 - 3_600_000
    asked = (later, 5, 0, 0, later + 1, 5, 0, 0, earlier, 5, 0, 0)
    script = text.replace("math.random(0, granted)", "granted")
    assert raw.execute_command("EVAL", script, 1, f"{scene.stream}:window", 5, *asked) == [5, 0, 5]


# --- three janitors, by the server's clock --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watched(server: RedisServer, scene: Scene) -> AsyncIterator[Witness]:
    """What the server itself says it ran while the block did, and when."""
    witness = Witness(scene.settings().streams[0])
    async with Redis.from_url(server.url) as client, watching(client, witness):
        yield witness


def left_behind(scene: Scene, count: int) -> None:
    scene.add_tweets(count)
    scene.abandon()


async def test_three_processes_together_stay_under_the_limit_in_every_second(
    own_server: RedisServer, own_scene: Scene, mode: str
) -> None:
    limit = 60
    left_behind(own_scene, 600)
    environment = {**own_scene.environment, "SETTLE_MODE": mode, "RECOVERY_RATE_LIMIT": str(limit)}
    async with watched(own_server, own_scene) as witness:
        processes = [
            start({**environment, "MONITORING_CONSUMER_NAME": f"j{number}"}, "sweep", "--budget", "4", "--json")
            for number in range(JANITORS)
        ]
        runs = [finished(process) for process in processes]
    taken = witness.taken_up()
    assert 0 < most_in_a_second(taken) <= limit
    assert [(ran.code, ran.record["error"]) for ran in runs] == [(0, None)] * JANITORS
    assert sum(ran.record["processed"] for ran in runs) == sum(run.count for run in taken) > limit
    assert own_scene.pending() == 600 - sum(run.count for run in taken)


async def test_janitors_that_count_each_for_itself_are_caught(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same check of three janitors whose windows are their own."""
    for room in (monitor.actions.in_scripts, monitor.claims):
        monkeypatch.setattr(room, "rate_key", lambda settings: f"{rate_key(settings)}:{settings.consumer}")
    left_behind(own_scene, 600)
    settings = [
        own_scene.settings(
            SETTLE_MODE=mode, RECOVERY_RATE_LIMIT="60", SWEEP_BUDGET_SEC="1", MONITORING_CONSUMER_NAME=f"j{number}"
        )
        for number in range(JANITORS)
    ]
    async with watched(own_server, own_scene) as witness:
        await asyncio.gather(*(sweep.janitor(one).tick() for one in settings))
    assert most_in_a_second(witness.taken_up()) > 60


# --- one sweep ------------------------------------------------------------------------------------------------------------


def limited(scene: Scene, mode: str, limit: int, **changes: str) -> dict[str, str]:
    """The sweep ends before its first window does; its one full page goes to one worker, in its order."""
    return {
        "SETTLE_MODE": mode,
        "RECOVERY_RATE_LIMIT": str(limit),
        "SWEEP_BUDGET_SEC": "1.25",
        "PAGE_SIZE": "20",
        **changes,
    }


async def test_what_the_limit_leaves_is_no_error_and_the_next_sweep_goes_on_there(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    left_behind(scene, 20)
    janitor = sweep.janitor(scene.settings(**limited(scene, mode, 5)))
    (first,) = await janitor.tick()
    assert (first.processed, first.candidates, first.complete, first.error, first.rate_limited) == (
        5,
        5,
        False,
        None,
        True,
    )
    assert "not complete (RECOVERY_RATE_LIMIT)" in str(first)
    assert sorted(scene.hashes()) == sorted(f"{scene.prefix}{number}".encode() for number in range(5))
    (stream,) = janitor.settings.streams
    scene.raw.execute_command("DEL", rate_key(stream))
    await janitor.tick()
    assert len(scene.hashes()) == 10


async def test_what_waits_keeps_its_place_its_idle_time_its_owner_and_its_delivery_count(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(20)
    ids = scene.deliver()
    scene.age(ids, idle_ms=60_000, deliveries=3)
    await sweep(scene.settings(**limited(scene, mode, 5)))
    rows = scene.pending_rows()
    assert [row[0] for row in rows] == ids[5:]
    assert {(row[1], row[3]) for row in rows} == {(b"crashed", 3)}
    assert min(int(row[2]) for row in rows) >= 60_000


async def test_what_an_entry_at_fault_takes_counts_and_a_deleted_or_lost_one_is_free(
    scene: Scene, link: RedisLink, mode: str
) -> None:
    scene.add("text", "no id")
    scene.add_tweets(8)
    ids = scene.abandon()
    page = candidates(scene)
    scene.raw.execute_command("XDEL", scene.stream, ids[1], ids[3])
    scene.age([ids[2]], idle_ms=0, consumer="alive")
    settings = replace(scene.settings().streams[0], rate_limit=4)
    settle = settler(mode, link, settings)
    settle.batch_size = len(page)
    batch = await settle.settle(page)
    # 0 is at fault, 1 and 3 are gone, 2 is another's, 4 to 6 are stored; 7 and 8 wait
    assert (batch.taken, batch.deleted, batch.lost, len(batch.refused), len(batch.stored)) == (
        7,
        [ids[1], ids[3]],
        1,
        1,
        3,
    )
    assert 0 < batch.wait_s <= 1.04
    again = await settle.settle(page[7:])
    assert (again.taken, 0 < again.wait_s <= 1.04) == (0, True)


async def test_a_limit_that_does_not_bite_changes_nothing(scene: Scene, sweep: Sweeper, mode: str) -> None:
    left_behind(scene, 300)
    report = await sweep(scene.settings(SETTLE_MODE=mode, RECOVERY_RATE_LIMIT="1000000"))
    assert (report.processed, report.complete, report.rate_limited, scene.pending()) == (300, True, False, 0)


async def test_without_a_limit_there_is_no_key_and_no_script_for_it(scene: Scene, sweep: Sweeper, mode: str) -> None:
    left_behind(scene, 20)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)
    await janitor.tick()
    assert {key for key in scene.keys() if b":rate:" in key} == set()  # noqa: SIM118
    assert {command[2] for command in seen.sent("EVALSHA")} == ({1} if mode == "script" else set())
    assert bool(seen.sent("XCLAIM")) == (mode == "gather")


async def test_a_batch_cut_short_by_the_limit_does_not_make_the_next_ones_small(
    scene: Scene, link: RedisLink, mode: str
) -> None:
    left_behind(scene, 300)
    settle = settler(mode, link, replace(scene.settings().streams[0], rate_limit=100))
    before = settle.batch_size
    page = candidates(scene)
    while not (batch := await settle.settle(page[: settle.batch_size])).wait_s:
        page = page[batch.taken :]
    assert before <= settle.batch_size <= 100


# --- whose clock ----------------------------------------------------------------------------------------------------------


async def test_no_time_of_ours_is_sent_so_our_clock_does_not_matter(scene: Scene, link: RedisLink, mode: str) -> None:
    left_behind(scene, 2)
    settings = replace(scene.settings().streams[0], rate_limit=7)
    seen = Wire(link)
    page = candidates(scene)
    await settler(mode, link, settings).settle(page)
    ids = tuple(entry.entry_id for entry in page)
    head = (2, scene.stream, rate_key(settings))
    common = {"group": scene.group, "consumer": "janitor", "min_idle_ms": 10_000, "rate_limit": 7}
    claim = (*head, *claim_script().named(**common), *ids)
    run = (
        *head,
        *settle_script().named(**ScriptSettle(link, settings).arguments, min_idle_ms=10_000, joined_ids=b" ".join(ids)),
    )
    assert seen.sent("EVALSHA")[-1][2:] == (run if mode == "script" else claim)


# --- the end of waiting ---------------------------------------------------------------------------------------------------


async def test_stopping_the_sweep_ends_its_waiting(scene: Scene, sweep: Sweeper, mode: str) -> None:
    left_behind(scene, 20)
    janitor = sweep.janitor(scene.settings(**limited(scene, mode, 1, SWEEP_BUDGET_SEC="19")))
    tick = asyncio.create_task(janitor.tick())
    while not (janitor.sweeps and janitor.sweeps[0]._batches and janitor.sweeps[0]._batches.rate_limited):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    janitor.sweeps[0].stop()
    (report,) = await tick
    assert (report.complete, report.error) == (False, None)
    assert report.duration_s < 10


async def test_a_pause_ends_with_the_sweep_and_never_outlasts_it(link: RedisLink) -> None:
    stopped, short = SweepState(link, 3600.0), SweepState(link, 0.1)
    pause = asyncio.create_task(stopped.pause(3000))
    await asyncio.sleep(0)
    stopped.stop()
    await asyncio.wait_for(pause, 30)
    await asyncio.wait_for(short.pause(3000), 30)
    assert short.stops_at(b"1-0")


# --- servers and rights ---------------------------------------------------------------------------------------------------


async def test_a_server_that_forgets_its_scripts_midway_costs_nothing(scene: Scene, sweep: Sweeper, mode: str) -> None:
    left_behind(scene, 600)  # more than each of the two runs at a time settles in its 3 ms
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, RECOVERY_RATE_LIMIT="1000"))
    seen = wire(janitor)

    def flush(command: Command, reply: Reply) -> None:
        if command[0] == "EVALSHA":
            scene.raw.execute_command("SCRIPT", "FLUSH")

    scene.raw.execute_command("SCRIPT", "FLUSH")
    seen.after = flush
    (report,) = await janitor.tick()
    assert (report.processed, report.error, scene.pending()) == (600, None, 0)
    assert len([command for command in seen.sent("SCRIPT") if "open_window" in str(command[2])]) > 1


@pytest.mark.parametrize("code", ["OOM", "WRONGTYPE"])
async def test_a_charge_that_the_server_refuses_leaves_everything_as_it_was(
    own_scene: Scene, sweep: Sweeper, mode: str, code: str
) -> None:
    left_behind(own_scene, 20)
    before, entries = own_scene.pending_rows(), entries_of(own_scene)
    settings = own_scene.settings(**limited(own_scene, mode, 5))
    if code == "OOM":
        own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", "1")
    else:
        own_scene.raw.execute_command("SET", rate_key(settings.streams[0]), "no hash")
    report = await sweep(settings)
    assert report.error is not None
    assert ("out of memory" if code == "OOM" else "RECOVERY_RATE_LIMIT") in report.error
    after = own_scene.pending_rows()
    assert [row[:2] + row[3:] for row in after] == [row[:2] + row[3:] for row in before]
    assert min(int(row[2]) for row in after) >= 60_000
    assert (own_scene.hashes(), lost(own_scene, entries)) == ([], [])


async def test_the_limit_works_with_the_rights_of_its_line(
    scene: Scene, sweep: Sweeper, users: Users, mode: str
) -> None:
    left_behind(scene, 20)
    login = users.login(scene, [SETTLING[mode], acl.RATE_LIMIT])
    report = await sweep(scene.settings(**limited(scene, mode, 5, INDEX_SCHEMA="off", **login)))
    assert (report.processed, report.settle_mode, report.error) == (5, mode, None)


@pytest.mark.parametrize("right", [word for word in acl.words(acl.RATE_LIMIT) if word != "+script|load"])
async def test_without_one_of_these_rights_nothing_is_taken_up_unlimited(
    scene: Scene, sweep: Sweeper, users: Users, mode: str, right: str
) -> None:
    scene.add("id", "window")
    left_behind(scene, 19)
    settings = scene.settings(**limited(scene, mode, 5))
    # A window that holds something over: else nothing has to be deleted.
    scene.raw.execute_command("HSET", rate_key(settings.streams[0]), "1", "1")
    login = users.login(scene, [SETTLING[mode], acl.RATE_LIMIT], without=right)
    mode = "auto" if mode == "script" else mode  # falls back to gather, which must not do without the limit either
    report = await sweep(scene.settings(**limited(scene, mode, 5, INDEX_SCHEMA="off", **login)))
    assert report.error is not None
    told = right.strip("+") if right[0] == "+" else "the right to a key"
    assert told in report.error
    assert "RECOVERY_RATE_LIMIT" in report.error
    assert (report.processed, scene.pending(), scene.hashes()) == (0, 20, [])
    assert_nothing_lost(scene)


@pytest.mark.parametrize(
    ("stream", "key"),
    [
        ("tweets", "{tweets}:rate:g"),
        ("tweets:{3}", "tweets:{3}:rate:g"),
        ("{a}b{c}", "{a}b{c}:rate:g"),
        ("a{b", "{a{b}:rate:g"),
        ("a{}b", "{a{}b}:rate:g"),
    ],
)
def test_the_window_lies_in_the_streams_slot_of_a_cluster(scene: Scene, stream: str, key: str) -> None:
    assert rate_key(replace(scene.settings().streams[0], stream=stream, group="g")) == key
