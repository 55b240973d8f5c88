"""ACTION=handle in a cluster: the stream in one shard, its dead letters in another, slots that move while the code runs."""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from demo.cluster import RedisCluster
from stream_janitor import Dead, Done, Entry, Retry
from tests.conftest import Scene, new_scene
from tests.sharded import client_of
from tests.test_handle import MODULE, Bench


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    yield module
    del sys.modules[MODULE]


@pytest.fixture
async def bench(cluster: RedisCluster, module: types.ModuleType) -> AsyncIterator[Bench]:
    bench = Bench(new_scene(client_of(cluster), cluster.environment), module)
    yield bench
    await bench.close()


async def test_each_verdict_is_carried_out_across_shards(bench: Bench) -> None:
    done, dead, again = (one.decode() for one in bench.abandon(3))
    report = await bench.sweep(lambda entries: {done: Done, dead: Dead("bad"), again: Retry()}, HANDLER_BATCH="3")
    assert (report.handled, report.dead_lettered, report.retried, report.error) == (1, 1, 1, None)
    assert len(bench.scene.dead_letters()) == 1
    assert [one.decode() for one in bench.rows()] == [again]


@pytest.mark.parametrize("limit", ["0", "1000"])
async def test_many_are_handled_under_a_rate_limit_or_none(bench: Bench, limit: str) -> None:
    bench.abandon(120)
    report = await bench.sweep(lambda entries: None, HANDLER_BATCH="10", RECOVERY_RATE_LIMIT=limit)
    assert (report.handled, report.error, bench.scene.pending()) == (120, None, 0)


async def test_a_slot_that_moves_while_the_code_runs_is_followed(cluster: RedisCluster, bench: Bench) -> None:
    bench.abandon(4)
    scene: Scene = bench.scene
    owner = cluster.master_of(scene.stream)
    other = next(node for node in cluster.masters() if node is not owner)

    def handler(entries: list[Entry]) -> dict[str, object]:
        if cluster.master_of(scene.stream) is owner:
            cluster.move_slot(key_slot(scene.stream.encode()), other)
        return {one.entry_id: Done for one in entries}

    report = await bench.sweep(handler, HANDLER_BATCH="2", HANDLER_CONCURRENCY="1")
    assert (report.handled, report.error, scene.pending()) == (4, None, 0)
