"""ON_CONFLICT: what becomes of an entry whose hash is there already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import redis

from demo.redis import RedisServer
from monitor.outcomes import FAULTS_EXPLAINED
from monitor.scripts import store_script
from tests import naive
from tests.checks import is_old_value_back
from tests.conftest import Scene, Sweeper, raw_client

HELD = "stream_entry_id"


def consumer_stores(client: redis.Redis, scene: Scene, rule: str, entry_id: bytes, *fields: str) -> bytes:
    """What a live consumer does that shares the janitor's rule: store.lua instead of HSET."""
    key = scene.prefix + dict(zip(fields[::2], fields[1::2], strict=True))["id"]
    reply: bytes = client.execute_command("EVAL", store_script().text, 1, key, rule, entry_id, *fields)
    return reply


@pytest.mark.parametrize(
    ("rule", "outcome", "text"),
    [("overwrite", "processed", b"old"), ("newer", "superseded", b"new"), ("keep", "kept", b"new")],
)
async def test_an_old_entry_meets_what_a_newer_one_stored(
    scene: Scene, sweep: Sweeper, mode: str, rule: str, outcome: str, text: bytes
) -> None:
    scene.add("id", "1", "text", "old")
    newer = scene.add("id", "1", "text", "new")
    ids = scene.deliver()
    consumer_stores(scene.raw, scene, rule, newer, "id", "1", "text", "new")
    scene.raw.execute_command("XACK", scene.stream, scene.group, newer)
    scene.age(ids[:1])
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule))
    assert (getattr(report, outcome), report.candidates, scene.pending()) == (1, 1, 0)
    assert scene.hash("1")[b"text"] == text


@pytest.mark.parametrize(
    ("rule", "outcome"), [("overwrite", "processed"), ("newer", "processed"), ("keep", "processed")]
)
async def test_without_a_hash_every_rule_stores(
    scene: Scene, sweep: Sweeper, mode: str, rule: str, outcome: str
) -> None:
    entry_id = scene.add("id", "1", "text", "x")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule))
    assert getattr(report, outcome) == 1
    assert scene.hash("1") == {
        b"id": b"1",
        b"text": b"x",
        **({HELD.encode(): entry_id} if rule == "newer" else {}),
    }


async def test_under_newer_the_newest_of_several_pending_entries_of_one_id_stays(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    for number in range(50):
        scene.add("id", number % 5, "text", f"version {number}")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert report.processed + report.superseded == 50
    for tweet_id in range(5):
        assert scene.hash(tweet_id)[b"text"] == b"version %d" % (45 + tweet_id)


async def test_under_newer_fields_of_the_old_version_do_not_linger(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.raw.execute_command("HSET", scene.prefix + "1", "id", "1", "text", "old", "location", "India", HELD, "5-5")
    entry_id = scene.add("id", "1", "text", "new")
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert scene.hash("1") == {b"id": b"1", b"text": b"new", HELD.encode(): entry_id}


async def test_under_newer_thousands_of_old_fields_do_not_linger(scene: Scene, sweep: Sweeper, mode: str) -> None:
    old = [part for number in range(9000) for part in (f"f{number}", "v")]
    scene.raw.execute_command("HSET", scene.prefix + "1", *old)
    scene.add("id", "1")
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert set(scene.hash("1")) == {b"id", HELD.encode()}


async def test_under_newer_the_same_entry_again_changes_nothing(scene: Scene, sweep: Sweeper, mode: str) -> None:
    """A sweep that was cut off between the hash and the acknowledgement is repeated."""
    entry_id = scene.add("id", "1", "text", "x")
    scene.abandon()
    consumer_stores(scene.raw, scene, "newer", entry_id, "id", "1", "text", "x")
    before = scene.hash("1")
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert (report.processed, scene.hash("1")) == (1, before)


async def test_under_newer_an_entry_that_brings_the_guards_own_field_cannot_fool_it(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """Stored with the guard's own value its field would be lost; so it is at fault, and the hash stays as it was."""
    newer = scene.add("id", "1", "text", "mine")
    consumer_stores(scene.raw, scene, "newer", newer, "id", "1", "text", "mine")
    scene.add("id", "1", HELD, "99999999999999-0")
    scene.add("id", "2", HELD, "1-0", HELD, "2-0")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert (report.processed, report.dead_lettered, scene.pending()) == (1, 2, 0)
    assert list(report.reasons) == [f"dead_lettered: {FAULTS_EXPLAINED['reserved_field']}"]
    assert scene.hash("1") == {b"id": b"1", b"text": b"mine", HELD.encode(): newer}
    assert scene.hash("2") == {}


@pytest.mark.parametrize("rule", ["overwrite", "keep"])
async def test_under_the_other_rules_that_field_is_a_field_like_any_other(
    scene: Scene, sweep: Sweeper, mode: str, rule: str
) -> None:
    scene.add("id", "1", HELD, "mine")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule))
    assert (report.processed, scene.hash("1")) == (1, {b"id": b"1", HELD.encode(): b"mine"})


def test_without_the_check_the_entrys_own_field_would_be_lost(scene: Scene) -> None:
    """Control: store.lua as it was."""
    script = store_script().text
    unguarded = script.replace("if fields[i] == ENTRY_ID_FIELD then", "if false then")
    assert unguarded != script
    fields = ("id", "1", HELD, "mine")
    assert scene.raw.execute_command("EVAL", unguarded, 1, scene.prefix + "1", "newer", "5-1", *fields) == b"stored"
    assert b"mine" not in scene.hash("1").values()


def test_a_consumer_that_stores_such_an_entry_under_newer_is_told_so_and_nothing_is_written(scene: Scene) -> None:
    with pytest.raises(redis.ResponseError, match="FAULT reserved_field"):
        consumer_stores(scene.raw, scene, "newer", b"5-1", "id", "1", HELD, "9-9")
    assert scene.hash("1") == {}


async def test_under_keep_an_existing_hash_is_left_exactly_as_it_is(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.raw.execute_command("HSET", scene.prefix + "1", "mine", "x")
    scene.add("id", "1", "text", "y")
    scene.add("id", "2", "text", "y")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="keep"))
    assert (report.kept, report.processed, scene.pending()) == (1, 1, 0)
    assert scene.hash("1") == {b"mine": b"x"}


@pytest.mark.parametrize("rule", ["overwrite", "newer", "keep"])
async def test_every_rule_dead_letters_an_entry_whose_key_holds_another_type(
    scene: Scene, sweep: Sweeper, mode: str, rule: str
) -> None:
    scene.raw.execute_command("SET", scene.prefix + "1", "a string")
    scene.add("id", "1")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule))
    assert report.dead_lettered == 1
    assert scene.raw.execute_command("GET", scene.prefix + "1") == b"a string"


async def test_under_newer_a_refused_write_leaves_the_old_version_whole(
    own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    old = {b"id": b"1", b"text": b"old", b"location": b"India"}
    own_scene.raw.execute_command("HSET", own_scene.prefix + "1", *[part for pair in old.items() for part in pair])
    own_scene.add("id", "1", "text", "new")
    own_scene.abandon()
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)
    await sweep(own_scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer"))
    assert (own_scene.hash("1"), own_scene.pending()) == (old, 1)


@pytest.mark.parametrize("rule", ["overwrite", "newer", "keep"])
def test_a_consumer_gets_the_outcome_in_one_word(scene: Scene, rule: str) -> None:
    second = {"overwrite": b"stored", "newer": b"superseded", "keep": b"kept"}[rule]
    assert consumer_stores(scene.raw, scene, rule, b"5-2", "id", "1", "text", "a") == b"stored"
    assert consumer_stores(scene.raw, scene, rule, b"5-1", "id", "1", "text", "b") == second


# --- stale against newer --------------------------------------------------------------------------------------------------

RACES = 300


def _stage_races(scene: Scene) -> tuple[list[bytes], dict[str, bytes]]:
    """A stale entry of each id is pending; a newer one is about to be stored by a live consumer."""
    for number in range(RACES):
        scene.add("id", number, "text", "old", "location", "lingers")
    stale = scene.abandon()
    for number in range(RACES):
        scene.add("id", number, "text", "new")
    newest = dict(zip(map(str, range(RACES)), scene.deliver("alive"), strict=True))
    return stale, newest


def _race(server: RedisServer, scene: Scene, rule: str, newest: dict[str, bytes], start: threading.Event) -> None:
    """The live consumer, on a connection and in a thread of its own."""
    client = raw_client(server)
    start.wait(10)
    for tweet_id, entry_id in newest.items():
        consumer_stores(client, scene, rule, entry_id, "id", tweet_id, "text", "new")
        client.execute_command("XACK", scene.stream, scene.group, entry_id)
    client.close()


async def _old_values_back(
    server: RedisServer, scene: Scene, rule: str, settle_stale: Callable[[list[bytes], threading.Event], object]
) -> int:
    stale, newest = _stage_races(scene)
    start = threading.Event()
    consumer = threading.Thread(target=_race, args=(server, scene, rule, newest, start))
    consumer.start()
    await asyncio.to_thread(settle_stale, stale, start)
    await asyncio.to_thread(consumer.join)
    assert scene.pending() == 0
    back = is_old_value_back(scene, dict.fromkeys(newest, b"new"))
    lingering = [tweet_id for tweet_id in newest if b"location" in scene.hash(tweet_id)]
    return len(set(back) | set(lingering))


@pytest.mark.parametrize("janitors", [1, 3])
async def test_a_stale_entry_never_wins_a_race_against_a_newer_one(
    server: RedisServer, scene: Scene, sweep: Sweeper, mode: str, janitors: int
) -> None:
    settings = scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer", PAGE_SIZE="50")

    def settle_stale(stale: list[bytes], start: threading.Event) -> None:
        start.set()

        async def tick() -> None:
            own = Sweeper()
            await asyncio.gather(*(own.janitor(settings).tick() for _ in range(janitors)))
            await own.close()

        asyncio.run(tick())

    assert await _old_values_back(server, scene, "newer", settle_stale) == 0


async def test_without_a_guard_stale_entries_win_races(server: RedisServer, scene: Scene) -> None:
    """Control: the same check."""

    def settle_stale(stale: list[bytes], start: threading.Event) -> None:
        start.set()
        for entry_id in stale:
            naive.store_without_guard(scene, entry_id)

    assert await _old_values_back(server, scene, "overwrite", settle_stale) > 0
