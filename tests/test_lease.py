"""The consumer's lease: slow work keeps its entries, and learns which of them it has lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from demo.redis import RedisServer
from stream_janitor import keep
from tests.conftest import Scene, Sweeper

SOON_S = 0.01
NEVER_S = 3600.0


@pytest.fixture(params=[False, True], ids=["bytes", "decoded"])
async def client(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(port=server.port, decode_responses=request.param)
    yield client
    await client.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async def look() -> None:
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(SOON_S)

    await asyncio.wait_for(look(), 60)


def idle_ms(scene: Scene, entry_id: bytes) -> int:
    return next(int(row[2]) for row in scene.pending_rows() if row[0] == entry_id)


async def test_the_janitor_leaves_alone_what_a_slow_consumer_keeps(
    client: redis.asyncio.Redis, scene: Scene, sweep: Sweeper
) -> None:
    scene.add_tweets(3)
    kept, *abandoned = scene.deliver("slow")
    scene.age([kept, *abandoned], 60_000, "slow")
    async with keep(client, scene.stream, scene.group, "slow", [kept], NEVER_S):
        report = await sweep(scene.settings())
    assert (report.processed, [row[0] for row in scene.pending_rows()]) == (2, [kept])


async def test_without_a_lease_the_janitor_takes_a_slow_consumer_for_dead(scene: Scene, sweep: Sweeper) -> None:
    """Control."""
    scene.add_tweets(1)
    scene.age(scene.deliver("slow"), 60_000, "slow")
    assert (await sweep(scene.settings())).processed == 1


async def test_a_lease_is_renewed_for_as_long_as_the_block_lasts_and_not_longer(
    client: redis.asyncio.Redis, scene: Scene
) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.deliver("slow")
    async with keep(client, scene.stream, scene.group, "slow", [entry_id], SOON_S) as lease:
        for _ in range(3):
            scene.age([entry_id], 60_000, "slow")
            await until(lambda: idle_ms(scene, entry_id) < 60_000)
        assert lease.is_mine(entry_id)
        assert lease.is_mine(entry_id.decode())
        assert lease.since_renewal_s < 60
    scene.age([entry_id], 60_000, "slow")
    await asyncio.sleep(5 * SOON_S)
    assert idle_ms(scene, entry_id) >= 60_000
    assert scene.pending_rows()[0][3] == 1, "a renewal is no delivery"


async def test_an_entry_that_another_claimed_is_reported_and_never_taken_back(
    client: redis.asyncio.Redis, scene: Scene
) -> None:
    scene.add_tweets(2)
    mine, taken = scene.deliver("slow")
    async with keep(client, scene.stream, scene.group, "slow", [mine, taken], SOON_S) as lease:
        scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "slow", 0, taken)  # a replica of the same name
        await until(lambda: not lease.is_mine(taken))
        assert lease.lost == {taken: "lost"}
        assert lease.is_mine(mine)
        scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "rival", 0, taken, "IDLE", 60_000, "JUSTID")
        await asyncio.sleep(5 * SOON_S)
        assert idle_ms(scene, taken) >= 60_000


async def test_what_was_acknowledged_or_deleted_meanwhile_is_told_apart(
    client: redis.asyncio.Redis, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.add_tweets(2)
    acked, deleted = scene.deliver("slow")
    async with keep(client, scene.stream, scene.group, "slow", [acked, deleted], SOON_S) as lease:
        scene.raw.execute_command("XACK", scene.stream, scene.group, acked)
        scene.raw.execute_command("XDEL", scene.stream, deleted)
        await until(lambda: len(lease.lost) == 2)
    assert lease.lost == {acked: "settled", deleted: "deleted"}
    assert deleted.decode() in caplog.text


async def test_what_is_not_ours_at_the_start_is_reported_at_once(client: redis.asyncio.Redis, scene: Scene) -> None:
    scene.add_tweets(1)
    (anothers,) = scene.deliver("other")
    async with keep(client, scene.stream, scene.group, "slow", [anothers, "1-1"], NEVER_S) as lease:
        assert lease.lost == {anothers: "lost", b"1-1": "settled"}


async def test_known_counts_keep_a_claim_of_the_same_name_from_being_adopted(
    client: redis.asyncio.Redis, scene: Scene
) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.deliver("slow")
    scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "slow", 0, entry_id)
    async with keep(client, scene.stream, scene.group, "slow", {entry_id: 1}, NEVER_S) as lease:
        assert lease.lost == {entry_id: "lost"}
    async with keep(client, scene.stream, scene.group, "slow", [entry_id], NEVER_S) as adopted:
        assert adopted.is_mine(entry_id), "control: by the name alone it is taken for ours"


class Cut:
    """A client whose connection fails for as long as a test says."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.is_cut, self.refused = False, 0
        self._client = client

    def execute_command(self, *command: Any) -> Awaitable[Any]:
        if self.is_cut:
            self.refused += 1
            raise RedisConnectionError("cut")
        return self._client.execute_command(*command)


async def test_two_lost_renewals_do_no_harm(
    client: redis.asyncio.Redis, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.deliver("slow")
    cut = Cut(client)
    async with keep(cut, scene.stream, scene.group, "slow", [entry_id], SOON_S) as lease:
        cut.is_cut = True
        await until(lambda: cut.refused >= 2)
        scene.age([entry_id], 60_000, "slow")
        cut.is_cut = False
        await until(lambda: idle_ms(scene, entry_id) < 60_000)
        assert lease.is_mine(entry_id)
    assert "not renewed (ConnectionError)" in caplog.text


async def test_a_server_that_forgot_the_script_is_given_it_again(client: redis.asyncio.Redis, scene: Scene) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.deliver("slow")
    async with keep(client, scene.stream, scene.group, "slow", [entry_id], NEVER_S) as lease:
        scene.raw.execute_command("SCRIPT", "FLUSH")
        scene.age([entry_id], 60_000, "slow")
        await lease.renew()
        assert idle_ms(scene, entry_id) < 60_000


async def test_the_block_s_own_error_comes_out_and_the_renewals_end(client: redis.asyncio.Redis, scene: Scene) -> None:
    scene.add_tweets(1)
    ids = scene.deliver("slow")
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="mine"):
        async with keep(client, scene.stream, scene.group, "slow", ids, SOON_S):
            raise ValueError("mine")
    assert asyncio.all_tasks() == before


def test_the_public_package_imports_neither_the_janitor_nor_its_settings() -> None:
    look = "import sys, stream_janitor; print(sorted({name.partition('.')[0] for name in sys.modules} & {'monitor', 'shared'}))"
    told = subprocess.run(
        [sys.executable, "-c", look], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
