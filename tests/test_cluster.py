"""A Redis Cluster of three masters with a replica each: slots, redirects, WAIT on each shard, resharding, failover."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.auth.token import SimpleToken, TokenInterface
from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError

from demo.cluster import ClusterNode, RedisCluster
from demo.redis import RedisServer
from monitor.hashes import Store
from monitor.index import index_names
from monitor.janitor import Janitor
from monitor.rate import rate_key
from monitor.scripts import store_script
from monitor.shard_indexes import shard_indexes
from shared.cluster import Address, ClusterLink, Topology, _topology_of, key_of
from shared.redis_client import WAIT_AGAIN_MS, WAIT_TIMEOUT_MS, Argument, Command, Reply, TooFewReplicas
from tests import acl
from tests.checks import entries_of, lost
from tests.cli import eventually, inside, piped
from tests.conftest import Scene, Sweeper, new_scene, raw_client
from tests.fronts import Passage
from tests.sharded import client_of
from tests.test_acl import Users
from tests.test_recovered_channel import CHANNEL, Listener, keys_in
from tests.test_tls import server_side

NUMERIC = "id TEXT user TEXT price NUMERIC"


@pytest.fixture
def shards(cluster: RedisCluster) -> Scene:
    """A stream in one shard, its hashes in all of them."""
    return new_scene(client_of(cluster), cluster.environment)


@pytest.fixture
def tagged(cluster: RedisCluster) -> Scene:
    """A stream, its hashes and its index in one slot."""
    scene = new_scene(client_of(cluster), cluster.environment)
    tagged = f"{{{scene.stream}}}"
    scene.environment.update(
        STREAM_NAME=f"{tagged}:stream", HASH_PREFIX=f"{tagged}:tweet:", INDEX_NAME=f"{tagged}:index"
    )
    scene.stream = f"{tagged}:stream"
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, scene.group, "0", "MKSTREAM")
    return scene


@pytest.fixture(params=["gather", "script"])
def sixty(request: pytest.FixtureRequest) -> tuple[Scene, str]:
    """Sixty abandoned entries where they are settled in one way or the other, and the way."""
    scene: Scene = request.getfixturevalue("shards" if request.param == "gather" else "tagged")
    scene.add_tweets(60)
    scene.abandon()
    return scene, request.param


def link_of(janitor: Janitor) -> ClusterLink:
    assert isinstance(janitor._link, ClusterLink)
    return janitor._link


@contextmanager
def stopped(*nodes: ClusterNode) -> Iterator[None]:
    """Nodes that are there and do nothing."""
    for node in nodes:
        os.kill(node.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            os.kill(node.server.pid, signal.SIGCONT)


class Sends:
    """Sees what a link sends to which server, and does something ahead of it where a test wants to."""

    def __init__(
        self, link: ClusterLink, ahead: Callable[[Any, list[Command]], Any] = lambda route, commands: None
    ) -> None:
        self.groups: list[tuple[Any, list[Command]]] = []
        self._send, self._ahead = link._sent_to, ahead
        link._sent_to = self._see  # type: ignore[method-assign,assignment]

    async def _see(self, route: Any, commands: list[Command], replicas: int) -> list[Reply]:
        self.groups.append((route, list(commands)))
        waiting = self._ahead(route, list(commands))
        if waiting is not None:
            await waiting
        return await self._send(route, commands, replicas)


# --- routing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XPENDING", "s", "g"), b"s"),
        (("HSET", b"\xff", "f", "v"), b"\xff"),
        (("XINFO", "GROUPS", "s"), b"s"),
        (("XGROUP", "DELCONSUMER", "s", "g", "c"), b"s"),
        (("EVALSHA", "0" * 40, 2, "s", "t", "a"), b"s"),
        (("EVALSHA", "0" * 40, 0, "a"), None),
        (("FT.INFO", "index"), b"index"),
        (("SPUBLISH", "channel", "m"), b"channel"),
        (("TIME",), None),
        (("CLUSTER", "SLOTS"), None),
        (("ACL", "WHOAMI"), None),
    ],
)
def test_the_key_that_says_where_a_command_goes(command: Command, key: bytes | None) -> None:
    assert key_of(command) == key


async def test_what_this_program_sends_goes_where_the_server_itself_sees_its_key(cluster: RedisCluster) -> None:
    """COMMAND GETKEYS of the real server, for a command of each kind."""
    node = cluster.nodes[0]
    for command in (
        ("XPENDING", "s", "g"), ("XRANGE", "s", "-", "+"), ("XCLAIM", "s", "g", "c", 0, "1-1"), ("XACK", "s", "g", "1-1"),
        ("XADD", "s", "*", "f", "v"), ("XDEL", "s", "1-1"), ("XLEN", "s"), ("XINFO", "CONSUMERS", "s", "g"),
        ("XGROUP", "DELCONSUMER", "s", "g", "c"), ("HSET", "h", "f", "v"), ("HDEL", "h", "f"), ("HINCRBY", "h", "f", 1),
        ("EXPIRE", "h", 1), ("HGET", "h", "f"), ("HLEN", "h"), ("HKEYS", "h"), ("EXISTS", "h"), ("TYPE", "h"),
        ("EVALSHA", "0" * 40, 1, "s", "a"), ("FT.INFO", "i"), ("FT.CREATE", "i", "SCHEMA"), ("FT.SEARCH", "i", "*"),
        ("JSON.SET", "d", "$", "{}"), ("PERSIST", "h"), ("PTTL", "h"),
    ):  # fmt: skip
        assert node.call("COMMAND", "GETKEYS", *command)[0] == key_of(command), command


def test_a_server_whose_endpoint_is_unknown_has_the_address_that_was_asked() -> None:
    rows = [
        [0, 4095, [None, 7000, b"id1", {}], [b"10.0.0.9", 7003, b"id4", {}]],
        [4096, 8191, [b"?", 7009, b"id5", {b"ip": b"10.0.0.5"}]],
        [8192, 12000, [b"", 7001, b"id2", {}]],
        [12001, 16383, [b"redis-3.example", 7002, b"id3", {}]],
    ]
    topology = _topology_of(rows, ("first.example", 7000))
    assert topology.primaries == (
        ("first.example", 7000), ("10.0.0.5", 7009), ("first.example", 7001), ("redis-3.example", 7002),
    )  # fmt: skip
    assert list(topology.replicas.values()) == [1, 0, 0, 0]
    assert topology.owner(12000) == ("first.example", 7001)
    assert topology.unserved == 0


def test_slots_that_nobody_serves_are_counted() -> None:
    topology = Topology([(0, 99, ("a", 1)), (200, 16383, ("b", 1))], {("a", 1): 1, ("b", 1): 1})
    assert topology.unserved == 100
    assert topology.owner(100) is None


def test_each_shard_has_a_tag_of_its_own() -> None:
    primaries = [("a", 1), ("b", 1), ("c", 1)]
    ranges = zip((0, 1, 8001), (0, 8000, 16383), primaries, strict=True)
    topology = Topology(ranges, dict.fromkeys(primaries, 1))
    for primary in primaries:
        assert topology.owner(key_slot(topology.tag_in(primary).encode())) == primary


# --- a sweep ----------------------------------------------------------------------------------------------------------------


async def test_hashes_in_all_shards_are_settled_by_gather(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    shards.add_tweets(200)
    bad = shards.add("user", "nobody")
    entries = entries_of(shards)
    shards.abandon()
    report = await sweep(shards.settings())
    assert (report.settle_mode, report.processed, report.dead_lettered, report.pending) == ("gather", 200, 1, 201)
    assert report.complete
    assert shards.pending() == 0
    assert lost(shards, entries) == []
    assert [letter[1][5] for letter in shards.dead_letters()] == [bad]  # type: ignore[index]
    assert all(
        any(key.startswith(shards.prefix.encode()) for key in node.call("KEYS", "*")) for node in cluster.masters()
    )


async def test_a_common_hash_tag_is_settled_by_script(tagged: Scene, sweep: Sweeper) -> None:
    tagged.add_tweets(200)
    tagged.add("user", "nobody")
    entries = entries_of(tagged)
    tagged.abandon()
    report = await sweep(tagged.settings())
    assert (report.settle_mode, report.processed, report.dead_lettered) == ("script", 200, 1)
    assert tagged.pending() == 0
    assert lost(tagged, entries) == []


@pytest.mark.parametrize("rule", ["newer", "keep"])
async def test_conflicts_are_judged_on_each_shard_and_counted_once(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, rule: str
) -> None:
    """One shard has lost the script: only what went there is run again, or kept would count what was just stored."""
    shards.add_tweets(60)
    shards.abandon()
    for master in cluster.masters():
        master.call("SCRIPT", "LOAD", store_script().text)
    cluster.master_of(shards.prefix + "0").call("SCRIPT", "FLUSH", "SYNC")
    report = await sweep(shards.settings(ON_CONFLICT=rule))
    assert (report.processed, report.kept, report.superseded) == (60, 0, 0)
    shards.add_tweets(60)
    shards.abandon()
    report = await sweep(shards.settings(ON_CONFLICT=rule))
    assert (report.processed, report.kept) == ((60, 0) if rule == "newer" else (0, 60))


async def test_an_idle_tick_is_one_round_trip(shards: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off"))
    await janitor.tick()
    sends = Sends(link_of(janitor))
    await janitor.tick()
    assert len(sends.groups) == 1


# --- the index --------------------------------------------------------------------------------------------------------------


async def test_each_shard_has_an_index_and_a_search_asks_each(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    shards.add_tweets(90)
    shards.abandon()
    janitor = sweep.janitor(shards.settings())
    (report,) = await janitor.tick()
    assert report.index == "ok"
    names = await index_names(link_of(janitor), shards.index)
    assert sorted(name.decode() for node in cluster.masters() for name in node.call("FT._LIST")) == sorted(names)
    found = [cluster.master_of(name).call("FT.SEARCH", name, "@location:India", "LIMIT", 0, 0) for name in names]
    totals = [reply[b"total_results"] for reply in found]
    assert sum(totals) == 90
    assert all(totals)


async def test_an_index_that_is_missing_on_one_shard_is_created_there(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    janitor = sweep.janitor(shards.settings())
    await janitor.tick()
    name = (await index_names(link_of(janitor), shards.index))[1]
    cluster.master_of(name).call("FT.DROPINDEX", name)
    (report,) = await janitor.tick()
    assert report.index == "ok"
    assert name.encode() in cluster.master_of(name).call("FT._LIST")


async def test_documents_that_the_indexes_refuse_are_named_whichever_shard_they_lie_in(
    shards: Scene, sweep: Sweeper
) -> None:
    for number in range(60):
        shards.add("id", number, "user", "u", "price", "cheap" if number % 10 == 0 else number)
    ids = shards.abandon()
    report = await sweep(shards.settings(INDEX_SCHEMA=NUMERIC))
    assert (report.processed, report.unsearchable) == (60, 6)
    named = {
        entry_id for words, those in report.reasons.items() if "unsearchable" in words for entry_id in those.entry_ids
    }
    assert named == {ids[number].decode() for number in range(0, 60, 10)}


async def test_an_index_name_with_a_hash_tag_is_taken_as_it_is(
    cluster: RedisCluster, tagged: Scene, sweep: Sweeper
) -> None:
    await sweep(tagged.settings())
    assert [name.decode() for node in cluster.masters() for name in node.call("FT._LIST")] == [tagged.index]


async def test_an_index_whose_slot_moved_is_replaced_and_one_that_can_be_used_is(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    shards.add_tweets(90)
    shards.abandon()
    janitor = sweep.janitor(shards.settings())
    await janitor.tick()
    before = (await shard_indexes(link_of(janitor), shards.index)).names
    slot = key_slot(before[0].encode())
    home, target = (cluster.master_of(name) for name in before[:2])
    cluster.move_slot(slot, target)
    shards.add_tweets(90)
    shards.abandon()
    try:
        fresh = sweep.janitor(shards.settings())
        (report,) = await fresh.tick()
        indexes = await shard_indexes(link_of(fresh), shards.index)
        assert report.index == "ok"
        assert indexes.left_behind == (before[0],)
        assert set(indexes.names) > set(before[1:])
        assert len(indexes.names) == 3
        assert sum(cluster.master_of(n).call("FT.INFO", n)[b"num_docs"] for n in indexes.names) == 90
        ran = await asyncio.to_thread(piped, shards.environment, "doctor")
        assert f"{before[0]} is out of reach since its slot moved" in ran.out
    finally:
        cluster.move_slot(slot, home)


async def test_where_one_name_spans_the_shards_there_is_one(
    shards: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 8's own distribution and Redis Enterprise cannot run here: what they answer comes from the module's source."""
    link = link_of(sweep.janitor(shards.settings()))

    async def unknown(*command: object) -> Reply:
        raise ResponseError("Unknown index name")

    monkeypatch.setattr(link, "ask", unknown)
    assert await index_names(link, shards.index) == (shards.index,)


# --- redirects --------------------------------------------------------------------------------------------------------------


async def test_a_slot_that_was_moved_is_followed(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off"))
    await janitor.tick()
    shards.add_tweets(50)
    entries = entries_of(shards)
    shards.abandon()
    slot = key_slot(shards.stream.encode())
    home = cluster.master_of(shards.stream)
    cluster.move_slot(slot, next(node for node in cluster.masters() if node is not home))
    (report,) = await janitor.tick()
    assert (report.processed, report.complete) == (50, True)
    assert lost(shards, entries) == []


@pytest.mark.parametrize("moved", ["a hash", "the stream"])
async def test_a_slot_that_is_being_moved_is_asked_for_and_its_writes_are_confirmed(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, moved: str
) -> None:
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off"))
    await janitor.tick()
    shards.add_tweets(20)
    entries = entries_of(shards)
    shards.abandon()
    key = shards.prefix + "7" if moved == "a hash" else shards.stream
    home = cluster.master_of(key)
    cluster.begin_move(key_slot(key.encode()), next(node for node in cluster.masters() if node is not home))
    cluster.migrate_keys(key_slot(key.encode()))
    sends = Sends(link_of(janitor))
    try:
        (report,) = await janitor.tick()
    finally:
        cluster.finish_move(key_slot(key.encode()))
    assert (report.processed, report.failed, report.unknown) == (20, 0, 0)
    assert any(route.is_asking for route, _ in sends.groups)
    assert lost(shards, entries) == []


async def test_while_the_slot_of_a_common_hash_tag_is_moved_a_sweep_gathers_and_the_next_one_has_the_script_again(
    cluster: RedisCluster, tagged: Scene, sweep: Sweeper
) -> None:
    janitor = sweep.janitor(tagged.settings(INDEX_SCHEMA="off"))
    tagged.add_tweets(10)
    tagged.abandon()
    (report,) = await janitor.tick()
    assert (report.settle_mode, report.processed) == ("script", 10)
    tagged.add_tweets(40, 100)
    entries = entries_of(tagged)
    tagged.abandon()
    slot = key_slot(tagged.stream.encode())
    home = cluster.master_of(tagged.stream)
    cluster.begin_move(slot, next(node for node in cluster.masters() if node is not home))
    cluster.migrate_keys(slot, 3)
    try:
        (report,) = await janitor.tick()
    finally:
        cluster.migrate_keys(slot)
        cluster.finish_move(slot)
    assert (report.processed + report.failed, report.dead_lettered) == (40, 0)
    assert lost(tagged, entries) == []
    tagged.add_tweets(10, 200)
    tagged.abandon()
    (report,) = await janitor.tick()
    assert report.settle_mode == "script"
    assert tagged.pending() == 0


# --- WAIT -------------------------------------------------------------------------------------------------------------------


def _on(cluster: RedisCluster, master: ClusterNode, scene: Scene, count: int) -> list[int]:
    return [number for number in range(count) if cluster.master_of(f"{scene.prefix}{number}") is master]


@pytest.mark.parametrize(("replicas", "acknowledges"), [("auto", False), ("1", False), ("0", True)])
async def test_nothing_is_acknowledged_before_a_replica_of_its_shard_confirmed(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, replicas: str, acknowledges: bool
) -> None:
    """``0`` is the control: the same entries are acknowledged there, though no replica has them."""
    shards.add_tweets(60)
    shards.abandon()
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    on_apart = _on(cluster, apart, shards, 60)
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off", ACK_REPLICAS=replicas))
    link = link_of(janitor)
    await link.topology()
    with stopped(cluster.replica_of(apart)):
        (report,) = await janitor.tick()
    assert report.processed == (60 if acknowledges else 60 - len(on_apart))
    assert shards.pending() == (0 if acknowledges else len(on_apart))
    if not acknowledges:
        (named,) = [those for words, those in report.reasons.items() if "too few replicas confirmed" in words]
        assert named.count == len(on_apart)


async def test_no_dead_letter_is_trusted_before_a_replica_of_its_shard_confirmed(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    dead = f"dead{{{cluster.tag_on(apart)}}}"
    shards.add("user", "nobody")
    shards.abandon()
    settings = shards.settings(INDEX_SCHEMA="off", DEAD_LETTER_STREAM=dead)
    janitor = sweep.janitor(settings)
    await link_of(janitor).topology()
    with stopped(cluster.replica_of(apart)):
        (report,) = await janitor.tick()
    assert (report.failed, report.dead_lettered, shards.pending()) == (1, 0, 1)
    assert "too few replicas confirmed the dead letter" in str(report)
    shards.age([row[0] for row in shards.pending_rows()])  # type: ignore[misc]
    (report,) = await janitor.tick()
    assert (report.dead_lettered, shards.pending()) == (1, 0)


@pytest.mark.parametrize("has_touch", [True, False])
async def test_a_hash_that_was_kept_is_not_trusted_before_a_replica_has_it(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch, has_touch: bool
) -> None:
    """WAIT is about writes, and keeping writes nothing; without the touch (the control) it is acknowledged all the same."""
    if not has_touch:
        monkeypatch.setattr(Store, "_confirm_what_was_there", lambda *_: asyncio.sleep(0))
    # On another shard than the stream, or the claim on the same connection is what WAIT waits for.
    apart = next(node for node in cluster.masters() if node is not cluster.master_of(shards.stream))
    shards.add("id", _on(cluster, apart, shards, 60)[0])
    ids = shards.abandon()
    shards.environment["REDIS_HOST"] = apart.address  # the first node may be the one that is stopped
    settings = shards.settings(INDEX_SCHEMA="off", ON_CONFLICT="keep", SETTLE_MODE="gather")
    janitor = sweep.janitor(settings)
    await link_of(janitor).topology()
    with stopped(cluster.replica_of(apart)):
        (report,) = await janitor.tick()
        assert (report.failed, shards.pending()) == (1, 1)
        shards.age(ids)
        (report,) = await sweep.janitor(settings).tick()
    assert report.failed == has_touch
    assert report.kept == (not has_touch)
    assert shards.pending() == has_touch


async def test_what_wait_confirmed_is_told_for_each_shard(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    link = link_of(sweep.janitor(shards.settings()))
    masters = list(cluster.masters())
    keys = [f"k{{{cluster.tag_on(master)}}}" for master in masters]
    await link.topology()
    with stopped(cluster.replica_of(masters[1])):
        replies = await link.write_and_wait([("HSET", key, "f", "v") for key in keys], None)
    assert [type(reply) for reply in replies] == [int, TooFewReplicas, int]
    assert await link.write_and_wait([("HSET", keys[1], "f", "w")], 0) == [0]


# --- failover ---------------------------------------------------------------------------------------------------------------


async def test_a_shard_that_is_down_keeps_its_entries_and_the_others_are_recovered(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    shards.add_tweets(60)
    entries = entries_of(shards)
    shards.abandon()
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    on_apart = _on(cluster, apart, shards, 60)
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off"))
    await janitor._link.call("XLEN", shards.stream)
    cluster.kill(apart)
    (report,) = await janitor.tick()
    assert report.processed == 60 - len(on_apart)
    assert report.error is not None
    assert report.candidates == 60
    cluster.revive(apart)
    cluster.wait_until_ok()
    shards.age([row[0] for row in shards.pending_rows()])  # type: ignore[misc]
    (report,) = await janitor.tick()
    assert (report.processed, report.error) == (len(on_apart), None)
    assert lost(shards, entries) == []


async def test_a_shard_that_is_gone_for_good_does_not_stop_the_others_indexed_or_not(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    for node in cluster.nodes:
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    shards.add_tweets(60)
    shards.abandon()
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    on_apart = _on(cluster, apart, shards, 60)
    shards.environment["REDIS_HOST"] = home.address
    cluster.kill(cluster.replica_of(apart))
    cluster.kill(apart)
    for count in (60, 0):  # by janitors that have never seen the shard well; the second finds all claimed lately
        report = await sweep(shards.settings())
        assert "cannot be looked at (CONNECTION)" in report.index
        assert (report.candidates, report.error is not None) == (count, count > 0)
    assert shards.pending() == len(on_apart)
    ran = await asyncio.to_thread(piped, shards.environment, "status")
    assert f"{len(on_apart)}" in ran.out
    ran = await asyncio.to_thread(piped, shards.environment, "doctor")
    assert f"the primary {apart.address}: no connection" in ran.out
    assert f"{shards.stream} / {shards.group}: {len(on_apart)} pending" in ran.out
    for node in cluster.nodes:
        if not node.running:
            cluster.revive(node)
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")


async def test_a_replica_that_is_gone_costs_a_second_once_and_fails_the_tick(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off", PAGE_SIZE="20", CONCURRENCY="1"))
    link = link_of(janitor)
    await link.topology()
    key = f"k{{{cluster.tag_on(apart)}}}"
    with stopped(cluster.replica_of(apart)):
        sends: list[Command] = []
        server = link._server(("127.0.0.1", apart.port))
        pipelined = server.pipelined

        async def see(commands: Iterable[Command]) -> list[Reply]:
            sends.extend(commands := list(commands))
            return await pipelined(commands)

        server.pipelined = see  # type: ignore[method-assign]
        for number in range(3):
            assert isinstance((await link.write_and_wait([("HSET", key, "f", number)], None))[0], TooFewReplicas)
        shards.add("id", _on(cluster, apart, shards, 60)[0])
        shards.abandon()
        (report,) = await janitor.tick()
    assert (report.failed, report.complete) == (1, False)
    assert "too few replicas confirmed" in str(report.error)
    eventually(lambda: cluster.master_of(key).call("WAIT", 1, 100) == 1)
    assert await link.write_and_wait([("HSET", key, "f", "last")], None) == [0]
    waits = [command[2] for command in sends if command[0] == "WAIT"]
    assert waits[0] == WAIT_TIMEOUT_MS
    assert set(waits[1:]) == {WAIT_AGAIN_MS}


async def test_a_sweep_goes_on_through_the_failover_of_the_streams_master(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    shards.add_tweets(400)
    entries = entries_of(shards)
    shards.abandon()
    janitor = sweep.janitor(shards.settings(INDEX_SCHEMA="off", PAGE_SIZE="50"))
    acknowledged = 0

    def kill_in_the_midst(route: Any, commands: list[Command]) -> None:
        nonlocal acknowledged
        acknowledged += commands[0][0] == "XACK"
        if acknowledged == 3 and cluster.master_of(shards.stream).running:
            acknowledged += 1
            cluster.kill(cluster.master_of(shards.stream))

    Sends(link_of(janitor), kill_in_the_midst)
    (report,) = await janitor.tick()
    assert acknowledged > 3
    assert report.processed > 200, "it waited for the new master and went on"
    for node in cluster.nodes:
        if not node.running:
            cluster.revive(node)
    cluster.wait_until_ok()
    assert lost(shards, entries) == []
    shards.age([row[0] for row in shards.pending_rows()])  # type: ignore[misc]
    (report,) = await janitor.tick()
    assert report.error is None
    assert shards.pending() == 0
    assert lost(shards, entries) == []


# --- without REDIS_CLUSTER --------------------------------------------------------------------------------------------------


def on_one_node(cluster: RedisCluster, shards: Scene, stream: str) -> dict[str, str]:
    node = cluster.master_of(stream)
    return {"REDIS_CLUSTER": "false", "REDIS_HOST": f"127.0.0.1:{node.port}", "INDEX_SCHEMA": "off"}


@pytest.mark.parametrize("mode", ["script", "gather", "auto"])
async def test_a_clusters_node_is_refused_before_anything_is_settled(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, mode: str
) -> None:
    shards.add_tweets(60)
    shards.abandon()
    report = await sweep(shards.settings(SETTLE_MODE=mode, **on_one_node(cluster, shards, shards.stream)))
    assert (report.candidates, report.processed, shards.pending()) == (0, 0, 60)
    assert "set REDIS_CLUSTER=true" in str(report.error)
    assert {row[1] for row in shards.pending_rows()} == {b"crashed"}, "nothing was claimed"


async def test_one_hash_tag_on_its_node_goes_on_working(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    tagged = new_scene(shards.raw, shards.environment, HASH_PREFIX=f"{{{shards.stream}}}x:")
    tagged.add_tweets(5)
    tagged.abandon()
    node = on_one_node(cluster, tagged, tagged.stream)
    prefix = f"{{{tagged.stream}}}t:"
    report = await sweep(tagged.settings(HASH_PREFIX=prefix, DEAD_LETTER_STREAM="off", **node))
    assert (report.processed, report.error) == (5, None)


# --- telling others ---------------------------------------------------------------------------------------------------------


async def test_the_channels_shard_is_told_wherever_the_entries_lie(
    cluster: RedisCluster, sixty: tuple[Scene, str], sweep: Sweeper
) -> None:
    scene, settled_by = sixty
    listener = Listener(cluster.master_of(CHANNEL).port, sharded=True)
    report = await sweep(scene.settings(INDEX_SCHEMA="off", RECOVERED_CHANNEL=CHANNEL))
    told = [key for _, text in listener.heard() for key in keys_in(text)]
    listener.close()
    assert (report.settle_mode, report.processed) == (settled_by, 60)
    assert sorted(told) == sorted(scene.hashes())


# --- documents ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"STORE_TTL_SEC": "500", "ID_FIELDS": "@entry"}], ids=str)
async def test_documents_of_all_shards_are_stored_confirmed_and_kept(
    sixty: tuple[Scene, str], sweep: Sweeper, changes: dict[str, str]
) -> None:
    scene, settled_by = sixty
    ids = [row[0] for row in scene.pending_rows()]
    settings = scene.settings(STORE_AS="json", ON_CONFLICT="keep", **changes)
    report = await sweep(settings)
    assert (report.settle_mode, report.processed, report.unsearchable, report.error) == (settled_by, 60, 0, None)
    suffixes = ids if changes else [b"%d" % number for number in range(60)]
    for number, suffix in enumerate(suffixes):
        key = scene.prefix.encode() + suffix  # type: ignore[operator]
        assert json.loads(scene.raw.execute_command("JSON.GET", key))["user"] == f"user{number}"
        assert (scene.raw.execute_command("TTL", key) > 0) == bool(changes)
    if not changes:
        scene.add_tweets(60)
        scene.abandon()
        again = await sweep(settings)
        assert (again.kept, again.error, scene.pending()) == (60, None, 0)


# --- the rate limit -----------------------------------------------------------------------------------------------------------


async def test_the_windows_key_lies_in_the_streams_slot_and_holds(
    cluster: RedisCluster, sixty: tuple[Scene, str], sweep: Sweeper
) -> None:
    """The sweep ends before its first window does."""
    scene, settled_by = sixty
    settings = scene.settings(INDEX_SCHEMA="off", RECOVERY_RATE_LIMIT="20", SWEEP_BUDGET_SEC="1.25")
    report = await sweep(settings)
    assert (report.settle_mode, report.processed, report.complete, report.error) == (settled_by, 20, False, None)
    key = rate_key(settings.streams[0])
    assert key_slot(key.encode()) == key_slot(scene.stream.encode())
    assert scene.raw.execute_command("EXISTS", key) == 1


# --- rights -----------------------------------------------------------------------------------------------------------------

EVERY = (acl.GATHER, acl.DEAD_LETTERS, acl.INDEX, acl.NEWER, acl.CONFIRMED, acl.CLUSTER, acl.CLUSTER_INDEX)


@pytest.mark.parametrize("right", ["", "+cluster|slots", "+wait", "+hscan", "~tweets-index{*}", "+asking", "+ft._list"])
async def test_a_right_that_is_missing_is_named_and_nothing_is_lost(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, right: str
) -> None:
    shards.add_tweets(20)
    shards.add("user", "nobody")
    entries = entries_of(shards)
    shards.abandon()
    for number in range(20):
        shards.raw.execute_command(
            "HSET", f"{shards.prefix}{number}", "stream_entry_id", "9999999999999-0", "id", number
        )
    users = Users(shards.raw)
    login = users.login(shards, EVERY, without=right)
    janitor = sweep.janitor(shards.settings(ON_CONFLICT="newer", SWEEP_BUDGET_SEC="3", **login))
    slot = key_slot(shards.stream.encode())
    home = cluster.master_of(shards.stream)
    if right == "+asking":
        cluster.begin_move(slot, next(node for node in cluster.masters() if node is not home))
        cluster.migrate_keys(slot)
    (report,) = await janitor.tick()
    if right == "+asking":
        cluster.finish_move(slot)
    users.delete()
    told = f"{report.error} {report.index} {report}"
    if right in ("", "+ft._list"):
        assert (report.error, report.index, report.superseded, report.dead_lettered) == (None, "ok", 20, 1)
    else:
        assert right.strip("+~{*}").replace("tweets-index", "no right to look at") in told.lower()
    if right == "~tweets-index{*}":
        assert shards.pending() == 0
    assert {row[0] for row in shards.pending_rows()} | {letter[1][5] for letter in shards.dead_letters()} >= {  # type: ignore[index]
        entry_id for entry_id, fields in entries.items() if b"id" not in fields
    }


async def test_doctor_finds_a_cluster_well_and_names_what_each_shards_index_is_called(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    await sweep(shards.settings())
    ran = await asyncio.to_thread(piped, shards.environment, "doctor", "--json")
    assert ran.code == 0, ran.out
    told = {record["check"]: record["detail"] for record in ran.records}
    assert told["cluster"] == "3 primaries, 3 replicas"
    indexes = [record for record in ran.records if record["check"] == "index"]
    assert "one for each shard" in indexes[0]["detail"]
    assert all(name.startswith(f"{shards.index}{{") for name in indexes[0]["names"])
    assert len(indexes[0]["names"]) == 3


def test_doctor_says_what_an_index_covers_where_one_is_enough(
    tagged: Scene, shards: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = inside(tagged.environment, "doctor")
    assert f"{tagged.index} lies in the shard of its hash tag" in ran.out

    async def unknown(self: ClusterLink, address: Address, *command: Argument) -> Reply:
        """The servers of a module that spans the shards, which cannot run here: none of them redirects."""
        if command[0] == "FT.INFO":
            raise ResponseError("Unknown index name")
        return await ask(self, address, *command)

    ask = ClusterLink.ask
    monkeypatch.setattr(ClusterLink, "ask", unknown)
    assert f"{shards.index} spans all shards" in inside(shards.environment, "doctor").out


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["pending"],
        ["sweep", "--dry-run"],
        ["consumers", "ls"],
        ["check", "--max-pending", "100"],
        ["dead-letters", "ls"],
        ["sweep"],
    ],
)
async def test_the_command_line_works_on_a_cluster(shards: Scene, sweep: Sweeper, command: list[str]) -> None:
    shards.add("user", "nobody")
    shards.abandon()
    await sweep(shards.settings())
    shards.add_tweets(30)
    shards.abandon()
    ran = await asyncio.to_thread(piped, shards.environment, *command)
    assert (ran.code, ran.err) == (0, ""), ran
    if command == ["status"]:
        assert ran.out.count(f"{shards.index}{{") == 3


@pytest.mark.parametrize("rule", ["overwrite", "newer", "keep"])
async def test_dead_letters_are_redriven_into_every_shard(shards: Scene, sweep: Sweeper, rule: str) -> None:
    for number in range(12):
        shards.add("id", f"bad{number}", "user", "u")
        shards.raw.execute_command("SET", f"{shards.prefix}bad{number}", "x")
    shards.abandon()
    assert (await sweep(shards.settings())).dead_lettered == 12
    for number in range(12):
        shards.raw.execute_command("DEL", f"{shards.prefix}bad{number}")
    environment = {**shards.environment, "ON_CONFLICT": rule}
    ran = await asyncio.to_thread(piped, environment, "dead-letters", "redrive")
    assert ran.code == 0, ran
    assert shards.dead_letters() == []
    assert len(shards.hashes()) == 12


# --- TLS --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "lets_in"), [("localhost", True), ("127.0.0.1", False)])
async def test_a_server_named_by_address_is_verified_by_the_name_that_was_given(
    tmp_path: Path, sweep: Sweeper, host: str, lets_in: bool
) -> None:
    """The certificate has the name alone; 127.0.0.1, which is in none, is refused: nothing is trusted for its address."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    arguments = ("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1")
    with RedisServer(search=False, arguments=arguments) as server:
        raw = raw_client(server)
        raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: b"cluster_state:ok" in raw.execute_command("CLUSTER", "INFO"))
        scene = new_scene(raw, server.environment, INDEX_SCHEMA="off", SWEEP_BUDGET_SEC="2")
        scene.add_tweets(3)
        scene.abandon()
        async with Passage(server.port, server_side(authority, "localhost")) as front:
            raw.execute_command("CONFIG", "SET", "cluster-announce-port", front.port)
            tls = {"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": str(tmp_path / "ca.pem"), "REDIS_CLUSTER": "true"}
            report = await sweep(scene.settings(REDIS_HOST=f"{host}:{front.port}", **tls))
        raw.close()
    assert (report.processed, report.error is None) == ((3, True) if lets_in else (0, False))
    assert lets_in or "certificate was refused" in str(report.error)


# --- logins -----------------------------------------------------------------------------------------------------------------


class Issuer:
    """Tokens that are passwords of an ACL user at every server."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self.requests = 0

    def request_token(self, force_refresh: bool = False) -> TokenInterface:
        self.requests += 1
        for node in self._cluster.nodes:
            node.call("ACL", "SETUSER", "identity", "on", f">token-{self.requests}", "~*", "&*", "+@all", "-auth")
        now_ms = time.time() * 1000
        return SimpleToken(f"token-{self.requests}", now_ms + 3_600_000, now_ms, {"oid": "identity"})


async def test_one_token_logs_in_at_every_server(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis_entraid")
    issuer = Issuer(cluster)
    monkeypatch.setattr("shared.entra.identity_provider", lambda settings: issuer)
    shards.add_tweets(60)
    shards.abandon()
    janitor = sweep.janitor(shards.settings(REDIS_AUTH="entra"))
    (report,) = await janitor.tick()
    assert (report.processed, report.error, issuer.requests) == (60, None, 1)
    assert all(b"user=identity" in master.call("CLIENT", "LIST") for master in cluster.masters())
    await janitor.close()
    for node in cluster.nodes:
        node.call("ACL", "DELUSER", "identity")


# --- what a link remembers ----------------------------------------------------------------------------------------------------


async def test_servers_that_are_gone_are_forgotten_and_a_server_that_knows_nobody_is_not_believed(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    with RedisServer(search=False, arguments=("--cluster-enabled", "yes")) as alone:
        link = link_of(sweep.janitor(shards.settings()))
        nowhere = ("127.0.0.1", 1)
        await link.ask(("127.0.0.1", alone.port), "PING")
        for _ in range(20):  # in an order of their own each time
            link._is_stale = True
            assert len((await link.topology()).primaries) == 3
    with pytest.raises(ConnectionError):
        await link.ask(nowhere, "PING")
    link._note(nowhere, ConnectionError())
    await link.topology()
    assert nowhere not in link._servers


async def test_any_of_the_servers_that_are_named_may_be_down(
    cluster: RedisCluster, shards: Scene, sweep: Sweeper
) -> None:
    shards.add_tweets(5)
    shards.abandon()
    report = await sweep(shards.settings(REDIS_HOST=f"127.0.0.1:1,{cluster.nodes[0].address},127.0.0.1:2"))
    assert (report.processed, report.error) == (5, None)
    report = await sweep(shards.settings(REDIS_HOST="127.0.0.1:1", SWEEP_BUDGET_SEC="1"))
    assert "no connection to Redis" in str(report.error)


# --- set-ups that are wrong -------------------------------------------------------------------------------------------------


async def test_a_server_that_is_no_cluster_is_named(server: RedisServer, scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(REDIS_CLUSTER="true"))
    assert report.error == "REDIS_CLUSTER is true, but this Redis is no cluster: set it to false"


async def test_a_cluster_that_was_not_announced_is_named(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    report = await sweep(shards.settings(REDIS_CLUSTER="false", REDIS_HOST=apart.address))
    assert "set REDIS_CLUSTER=true" in str(report.error)
