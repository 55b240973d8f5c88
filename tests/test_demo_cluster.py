"""The cluster for machines that have none: real slots and failover, and nothing of it is left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster as ClusterClient
from redis.crc import key_slot

from demo.cluster import RedisCluster
from demo.clustered import SureCluster, client_of
from demo.redis import PortTaken, RedisServer
from tests.test_demo_redis import ROOT, is_gone, wait_until

pytestmark = pytest.mark.more


def test_a_cluster_serves_all_slots_from_three_masters_that_one_replica_each_follows(cluster: RedisCluster) -> None:
    slots = [slot for served in cluster.masters().values() for part in served for slot in part]
    assert sorted(slots) == list(range(16_384))
    assert len(cluster.masters()) == 3
    assert {cluster.replica_of(master) for master in cluster.masters()} == set(cluster.nodes) - set(cluster.masters())
    with ClusterClient(host="127.0.0.1", port=cluster.port) as client:
        for number in range(100):
            client.set(f"key{number}", number)
        assert [client.get(f"key{number}") for number in range(100)] == [b"%d" % number for number in range(100)]
    assert all(master.call("DBSIZE") > 0 and master.call("WAIT", 1, 1000) == 1 for master in cluster.masters())


def test_a_killed_master_is_replaced_by_its_replica_and_comes_back_as_one(cluster: RedisCluster) -> None:
    master = cluster.master_of("key")
    replica = cluster.replica_of(master)
    master.call("SET", "key", "value")
    assert master.call("WAIT", 1, 1000) == 1
    cluster.kill(master)
    cluster.wait_until_ok()
    assert cluster.master_of("key") is replica
    assert replica.call("GET", "key") == b"value"
    cluster.revive(master)
    cluster.wait_until_ok()
    assert cluster.replica_of(replica) is master
    assert wait_until(lambda: not [*master.server.folder.glob("*.rdb")])  # nothing is on disk
    cluster.failover(master)
    cluster.wait_until_ok()
    assert cluster.master_of("key") is master
    assert master.call("GET", "key") == b"value"


def test_a_slot_is_moved_with_its_keys_and_redirects_on_the_way(cluster: RedisCluster) -> None:
    source, slot = cluster.master_of("{moved}"), key_slot(b"moved")
    target = next(master for master in cluster.masters() if master is not source)
    for number in range(250):
        source.call("SET", f"{{moved}}{number}", number)
    cluster.begin_move(slot, target)
    assert cluster.migrate_keys(slot, 120) == 120
    assert source.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 130
    with pytest.raises(redis.exceptions.AskError):
        source.call("GET", "{moved}new")
    cluster.finish_move(slot)
    assert cluster.master_of("{moved}") is target
    assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 250
    with pytest.raises(redis.exceptions.MovedError):
        source.call("GET", "{moved}0")
    cluster.move_slot(slot, source)
    assert source.call("GET", "{moved}249") == b"249"


def test_a_tag_leads_to_the_master_it_was_asked_for(cluster: RedisCluster) -> None:
    for master in cluster.masters():
        assert cluster.master_of(f"{{{cluster.tag_on(master)}}}:anything") is master


# --- the demo's client, which a promotion costs nothing ----------------------------------------------------------


@pytest.fixture
def sure(cluster: RedisCluster) -> Iterator[SureCluster]:
    with client_of(cluster.url) as client:
        assert isinstance(client, SureCluster)
        yield client


def test_entries_whose_reply_was_lost_are_added_once(sure: SureCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    has_written, lost = sure._has_written, [True, True]

    def reply_is_lost_twice(*arguments: Any) -> bool:
        return has_written(*arguments) and not (lost and lost.pop())

    monkeypatch.setattr(sure, "_has_written", reply_is_lost_twice)
    ids = [sure.xadd_surely("stream", [{"number": str(first)}, {"number": str(first + 1)}]) for first in (0, 2)]
    assert lost == []
    assert [(entry_id, fields[b"number"]) for entry_id, fields in sure.xrange("stream")] == list(
        zip([entry_id for two in ids for entry_id in two], [b"0", b"1", b"2", b"3"], strict=True)
    )


def test_what_no_replica_has_is_not_written_for_sure(
    cluster: RedisCluster, sure: SureCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.clustered.PATIENCE_S", 0.3)
    monkeypatch.setattr("demo.clustered.WAIT_MS", 50)
    replica = cluster.replica_of(cluster.master_of("stream"))
    sure.xadd_surely("stream", [{"number": "0"}])
    os.kill(replica.server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(redis.TimeoutError, match="no replica confirmed"):
            sure.xadd_surely("stream", [{"number": "1"}])
    finally:
        os.kill(replica.server.pid, signal.SIGCONT)
    assert sure.xlen("stream") == 2  # it is there, but nobody was told so


def test_a_retry_on_a_new_connection_is_confirmed_by_a_write_of_its_own(
    cluster: RedisCluster, sure: SureCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.clustered.WAIT_MS", 50)
    replica = cluster.replica_of(cluster.master_of("stream"))
    add, own_write = ("XADD", "stream", "1-1", "number", "0"), ("SET", "{stream}:produced", "1-1")
    os.kill(replica.server.pid, signal.SIGSTOP)
    try:
        assert not sure._has_written("stream", [add])
        sure.disconnect_connection_pools()
        assert sure._has_written("stream", [add])  # the naive way: it was there, so this connection wrote nothing
        sure.disconnect_connection_pools()
        assert not sure._has_written("stream", [add, own_write])
    finally:
        os.kill(replica.server.pid, signal.SIGCONT)


def test_reads_and_writes_go_on_while_a_master_is_replaced(cluster: RedisCluster, sure: SureCluster) -> None:
    sure.xadd_surely("stream", [{"number": "0"}])
    master = cluster.master_of("stream")
    cluster.kill(master)
    assert sure.xlen("stream") == 1  # waits until the replica answers for it
    cluster.revive(master)
    sure.xadd_surely("stream", [{"number": "1"}])  # and until there is a replica again
    cluster.wait_until_ok()
    assert cluster.master_of("stream").call("XLEN", "stream") == 2


# --- how it ends ------------------------------------------------------------------------------------------------


def test_a_cluster_that_cannot_start_leaves_no_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with RedisServer(search=False) as in_the_way:
        before = set(tmp_path.iterdir())
        cluster = RedisCluster(masters=3, replicas=0, search=False, port=in_the_way.port - 2)
        with pytest.raises(PortTaken):
            cluster.start()
        assert set(tmp_path.iterdir()) == before
        assert not cluster.running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_every_node_is_gone_with_the_program_that_started_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "demo.cluster"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        host, tls, clustered = (program.stdout.readline().strip() for _ in range(3))
        assert (tls, clustered) == ("REDIS_TLS=false", "REDIS_CLUSTER=true")
        with redis.Redis(port=int(host.rpartition(":")[2])) as client:
            ports = [int(address.partition("@")[0].rpartition(":")[2]) for address in client.cluster("NODES")]
        program.send_signal(number)
    assert len(ports) == 6
    assert wait_until(lambda: all(is_gone(port) for port in ports))
