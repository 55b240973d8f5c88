"""The actions in a Redis Cluster: stream and target in one slot, or in shards of their own."""

from __future__ import annotations

import pytest

from demo.cluster import RedisCluster
from shared.cluster import ClusterLink
from tests.conftest import Scene, Sweeper
from tests.test_cluster import Sends, shards, stopped

__all__ = ["shards"]


@pytest.fixture
def elsewhere(cluster: RedisCluster, shards: Scene) -> str:
    """A stream on another master."""
    own = cluster.master_of(shards.stream)
    names = (f"{shards.stream}:again:{number}" for number in range(100))
    name = next(name for name in names if cluster.master_of(name) is not own)
    shards.raw.execute_command("XGROUP", "CREATE", name, "workers", "0", "MKSTREAM")
    return name


def originals(scene: Scene, stream: str) -> list[bytes]:
    found = []
    for _, fields in scene.raw.execute_command("XRANGE", stream, "-", "+"):
        if b"original_entry_id" in fields:
            found.append(fields[fields.index(b"original_entry_id") + 1])
    return sorted(found)


async def test_into_the_same_stream_a_script_requeues(shards: Scene, sweep: Sweeper) -> None:
    shards.add_tweets(60)
    ids = shards.abandon()
    report = await sweep(shards.settings(ACTION="requeue"))
    assert (report.requeued, report.settle_mode, report.error, shards.pending()) == (60, "script", None, 0)
    assert originals(shards, shards.stream) == sorted(ids)


async def test_into_another_shard_nothing_is_acknowledged_before_its_replica_has_it(
    shards: Scene, elsewhere: str, sweep: Sweeper
) -> None:
    shards.add_tweets(60)
    ids = shards.abandon()
    janitor = sweep.janitor(shards.settings(ACTION="requeue", REQUEUE_TO=elsewhere))
    link = janitor._link
    assert isinstance(link, ClusterLink)
    sends = Sends(link)
    (report,) = await janitor.tick()
    assert (report.requeued, report.settle_mode, report.error, shards.pending()) == (60, "gather", None, 0)
    assert originals(shards, elsewhere) == sorted(ids)
    adding = [commands for _, commands in sends.groups if any(command[0] == "XADD" for command in commands)]
    assert adding
    assert all({str(command[0]) for command in commands} == {"XADD"} for commands in adding)


@pytest.mark.parametrize(("replicas", "acknowledged"), [("auto", 0), ("0", 5)], ids=["as it is", "control: no WAIT"])
async def test_while_the_targets_replica_is_away_nothing_is_acknowledged(
    cluster: RedisCluster, shards: Scene, elsewhere: str, sweep: Sweeper, replicas: str, acknowledged: int
) -> None:
    shards.add_tweets(5)
    shards.abandon()
    with stopped(cluster.replica_of(cluster.master_of(elsewhere))):
        report = await sweep(shards.settings(ACTION="requeue", REQUEUE_TO=elsewhere, ACK_REPLICAS=replicas))
    assert (report.requeued, 5 - shards.pending()) == (acknowledged, acknowledged)
    assert (report.error is None) == (replicas == "0")


async def test_a_rate_limit_holds_by_a_script_too(shards: Scene, sweep: Sweeper) -> None:
    shards.add_tweets(60)
    shards.abandon()
    settings = shards.settings(ACTION="requeue", RECOVERY_RATE_LIMIT="20", SWEEP_BUDGET_SEC="1")
    report = await sweep(settings)
    assert (report.rate_limited, report.settle_mode) == (True, "script")
    assert 20 <= report.requeued <= 40


async def test_dead_letters_and_looks_work_there(shards: Scene, sweep: Sweeper) -> None:
    shards.add_tweets(60)
    shards.abandon()
    looked = await sweep(shards.settings(ACTION="observe"))
    assert looked.observed is not None
    assert (looked.error, looked.observed.abandoned, looked.observed.sample) == (None, 60, 60)
    report = await sweep(shards.settings(ACTION="dead_letter"))
    assert (report.dead_lettered, report.error, shards.pending()) == (60, None, 0)
    assert len(shards.dead_letters()) == 60
