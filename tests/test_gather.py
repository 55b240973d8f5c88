"""What only gather can get wrong: several commands, with a gap between each two of them."""

from __future__ import annotations

import pytest

from monitor.actions.gather import GatherSettle
from monitor.outcomes import Outcome
from shared.redis_client import Command, RedisLink, Reply
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, Wire, wire
from tests.test_settle import candidates, settle_all


@pytest.fixture
def gather(scene: Scene, link: RedisLink) -> GatherSettle:
    return GatherSettle(link, scene.settings().streams[0], 4)


async def test_no_hash_and_its_acknowledgement_travel_together(scene: Scene, sweep: Sweeper) -> None:
    """HSET and XACK in one pipeline acknowledge what could not be stored (see test_settle's controls)."""
    scene.add_tweets(40)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE="gather"))
    seen = wire(janitor)
    together: list[set[object]] = []
    pipelined = janitor._link.pipelined

    async def look(commands: list[Command]) -> list[Reply]:
        together.append({command[0] for command in commands})
        return await pipelined(commands)

    janitor._link.pipelined = look  # type: ignore[assignment, method-assign]
    await janitor.tick()
    assert any("HSET" in names for names in together)
    assert not any({"HSET", "XACK"} <= names for names in together)
    assert len(seen.sent("HSET")) == 40


async def test_only_what_was_stored_is_acknowledged(scene: Scene, link: RedisLink, gather: GatherSettle) -> None:
    scene.add_tweets(10)
    scene.raw.execute_command("SET", scene.prefix + "4", "x")
    ids = scene.abandon()
    seen = Wire(link)
    await settle_all(gather, candidates(scene))
    acknowledged = {entry_id for command in seen.sent("XACK") for entry_id in command[3:]}
    assert acknowledged == set(ids) - {ids[4]}


async def test_an_entry_deleted_between_reading_and_claiming_is_not_stored_as_if_it_were_there(
    scene: Scene, link: RedisLink, gather: GatherSettle
) -> None:
    """From 7.0 on XCLAIM drops it from the list; it looks like a lost race, and the hash is not written."""
    scene.add_tweets(3)
    ids = scene.abandon()
    seen = Wire(link)

    def delete(command: Command) -> None:
        if command[0] == "XCLAIM":
            scene.raw.execute_command("XDEL", scene.stream, ids[1])

    seen.before = delete
    batch = await settle_all(gather, candidates(scene))
    assert (batch.counts[Outcome.PROCESSED], batch.lost, scene.hash("1")) == (2, 1, {})


async def test_an_entry_taken_between_the_page_and_the_claim_is_left_to_its_new_owner(
    scene: Scene, link: RedisLink, gather: GatherSettle
) -> None:
    scene.add_tweets(3)
    ids = scene.abandon()
    seen = Wire(link)

    def take(command: Command) -> None:
        if command[0] == "XCLAIM":
            scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "alive", 0, ids[1])

    seen.before = take
    batch = await settle_all(gather, candidates(scene))
    assert (batch.counts[Outcome.PROCESSED], batch.lost, scene.hash("1")) == (2, 1, {})
    assert scene.pending_rows()[0][:2] == [ids[1], b"alive"]


async def test_a_deleted_entry_is_seen_gone_and_acknowledged_in_one_step_and_never_claimed(
    scene: Scene, link: RedisLink, gather: GatherSettle
) -> None:
    """XCLAIM takes a deleted entry off the list; asked afterwards, it would look acknowledged."""
    scene.add_tweets(4)
    ids = scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, ids[0])
    seen = Wire(link)
    batch = await settle_all(gather, candidates(scene))
    assert batch.deleted == [ids[0]]
    assert [ids[0] in command for command in seen.sent("XCLAIM")] == [False]
    assert [ids[0] in command for command in seen.sent("XACK")] == [False]
    assert seen.sent("EVALSHA")[-1][-1] == ids[0]


async def test_the_hash_of_a_whole_batch_is_written_before_any_of_it_is_acknowledged(
    scene: Scene, link: RedisLink, gather: GatherSettle
) -> None:
    """A replica holds a prefix of its primary's writes: the hash is in it whenever the acknowledgement is."""
    scene.add_tweets(4)
    scene.abandon()
    seen = Wire(link)
    await settle_all(gather, candidates(scene))
    names = [str(command[0]) for command in seen.commands]
    assert max(at for at, name in enumerate(names) if name == "HSET") < names.index("XACK")


async def test_a_connection_lost_after_the_claim_leaves_the_entries_pending(
    scene: Scene, link: RedisLink, gather: GatherSettle
) -> None:
    scene.add_tweets(4)
    scene.abandon()
    entries = entries_of(scene)
    seen = Wire(link)

    class Cut(Exception):
        pass

    def cut(command: Command) -> None:
        if command[0] == "HSET":
            raise Cut

    seen.before = cut
    with pytest.raises(Cut):
        await gather.settle(candidates(scene)[:4])
    assert (scene.pending(), lost(scene, entries)) == (4, [])


async def test_batches_overlap_but_never_more_than_concurrency(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(2000)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE="gather", CONCURRENCY="3", INDEX_SCHEMA="off"))
    under_way, most = 0, 0
    call = janitor._link.call

    async def count(*command: object) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await call(*command)  # type: ignore[arg-type]
        finally:
            under_way -= 1

    janitor._link.call = count  # type: ignore[assignment, method-assign]
    (report,) = await janitor.tick()
    assert report.processed == 2000
    assert 1 < most <= 3 + 1, "the batches, and the page that is read ahead"
