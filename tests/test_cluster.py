"""A Redis Cluster of three masters with a replica each: slots, redirects, WAIT on each shard, resharding, failover."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.crc import key_slot

from demo.cluster import ClusterNode, RedisCluster
from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.scripts import store_script
from shared.cluster import ClusterLink, Topology, _topology_of, key_of
from shared.redis_client import Command, Reply, TooFewReplicas
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, new_scene
from tests.sharded import client_of

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
    ):  # fmt: skip
        assert node.call("COMMAND", "GETKEYS", *command)[0] == key_of(command), command


def test_a_server_whose_endpoint_is_unknown_has_the_address_that_was_asked() -> None:
    rows = [
        [0, 8191, [None, 7000, b"id1", {}], [b"10.0.0.9", 7003, b"id4", {}]],
        [8192, 12000, [b"", 7001, b"id2", {}]],
        [12001, 16383, [b"redis-3.example", 7002, b"id3", {}]],
    ]
    topology = _topology_of(rows, ("first.example", 7000))
    assert topology.primaries == (("first.example", 7000), ("first.example", 7001), ("redis-3.example", 7002))
    assert list(topology.replicas.values()) == [1, 0, 0]
    assert topology.owner(12000) == ("first.example", 7001)
    assert topology.unserved == 0


def test_slots_that_nobody_serves_are_counted() -> None:
    topology = Topology([(0, 99, ("a", 1)), (200, 16383, ("b", 1))], {("a", 1): 1, ("b", 1): 1})
    assert topology.unserved == 100
    assert topology.owner(100) is None


def test_each_shard_has_a_tag_of_its_own() -> None:
    topology = Topology([(0, 0, ("a", 1)), (1, 8000, ("b", 1)), (8001, 16383, ("c", 1))], dict.fromkeys("abc", 0))  # type: ignore[arg-type]
    assert len(set(topology.tags)) == 3
    assert sorted(str(topology.owner(key_slot(tag.encode()))) for tag in topology.tags) == sorted(
        str((name, 1)) for name in "abc"
    )


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
    names = [f"{shards.index}{{{tag}}}" for tag in await link_of(janitor).shard_tags()]
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
    name = f"{shards.index}{{{(await link_of(janitor).shard_tags())[1]}}}"
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


async def test_what_wait_confirmed_is_told_for_each_shard(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    link = link_of(sweep.janitor(shards.settings()))
    masters = list(cluster.masters())
    keys = [f"k{{{cluster.tag_on(master)}}}" for master in masters]
    await link.topology()
    with stopped(cluster.replica_of(masters[1])):
        replies = await link.written([("HSET", key, "f", "v") for key in keys], None)
    assert [type(reply) for reply in replies] == [int, TooFewReplicas, int]
    assert await link.written([("HSET", keys[1], "f", "w")], 0) == [0]


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


# --- set-ups that are wrong -------------------------------------------------------------------------------------------------


async def test_a_server_that_is_no_cluster_is_named(server: RedisServer, scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(REDIS_CLUSTER="true"))
    assert report.error == "REDIS_CLUSTER is true, but this Redis is no cluster: set it to false"


async def test_a_cluster_that_was_not_announced_is_named(cluster: RedisCluster, shards: Scene, sweep: Sweeper) -> None:
    home = cluster.master_of(shards.stream)
    apart = next(node for node in cluster.masters() if node is not home)
    report = await sweep(shards.settings(REDIS_CLUSTER="false", REDIS_HOST=apart.address))
    assert "set REDIS_CLUSTER=true" in str(report.error)
