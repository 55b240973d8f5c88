"""Entries that the stream does not have: counted as deleted only if they were seen gone and taken off in one step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis import exceptions as redis_errors

from demo.redis import RedisServer
from monitor.actions.gather import GatherSettle
from monitor.entry_reader import TOO_LARGE
from monitor.gone import CAME_AND_WENT, Gone
from monitor.outcomes import Outcome
from shared.redis_client import Command, RedisLink, ServerLink
from tests.conftest import Scene, Sweeper, Wire
from tests.test_settle import candidates


@pytest.fixture(params=["script", "claim"])
async def gone(request: pytest.FixtureRequest, scene: Scene, link: RedisLink) -> Gone:
    """Both ways to tell: by gone.lua, and where no script may run by XCLAIM, which drops what is gone."""
    gone = Gone(link, scene.settings().streams[0])
    gone._may_run = request.param == "script"
    return gone


async def test_each_entry_is_told_apart(scene: Scene, gone: Gone) -> None:
    scene.add_tweets(4)
    deleted, acknowledged, taken, there = scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, deleted, acknowledged, taken)
    scene.raw.execute_command("XACK", scene.stream, scene.group, acknowledged)
    scene.age([there], idle_ms=60_000)
    assert await gone.take_off([deleted, acknowledged, there], 10_000) == [b"gone", b"lost", b"there"]
    assert [row[0] for row in scene.pending_rows()] == [taken, there]


async def test_what_someone_else_took_is_left_to_them(scene: Scene, link: RedisLink) -> None:
    scene.add_tweets(1)
    (entry_id,) = scene.abandon(idle_ms=0)
    scene.raw.execute_command("XDEL", scene.stream, entry_id)
    assert await Gone(link, scene.settings().streams[0]).take_off([entry_id], 10_000) == [b"lost"]
    assert scene.pending() == 1


def renames(scene: Scene, seen: Wire, back_before: Sequence[str]) -> None:
    """The stream is away while XRANGE looks, and back before anything else is asked."""
    away, is_done = f"{scene.stream}:away", False

    def before(command: Command) -> None:
        nonlocal is_done
        if command[0] == "XRANGE" and not is_done:
            is_done = True
            scene.raw.execute_command("RENAME", scene.stream, away)
        elif command[0] in back_before and scene.raw.execute_command("EXISTS", away):
            scene.raw.execute_command("RENAME", away, scene.stream)

    seen.before = before


@pytest.mark.parametrize("by_script", [True, False])
async def test_a_stream_renamed_away_and_back_loses_no_entry(scene: Scene, link: RedisLink, by_script: bool) -> None:
    scene.add_tweets(20)
    ids = scene.abandon()
    gather = GatherSettle(link, scene.settings().streams[0], 4)
    gather._fetch._gone._may_run = by_script
    seen = Wire(link)
    renames(scene, seen, ["XPENDING", "EVALSHA", "XCLAIM"])
    batch = await gather.settle(candidates(scene)[:4])
    assert (batch.deleted, batch.lost) == ([], 0)
    assert [(outcome, reason) for outcome, reason, _ in batch.named] == [(Outcome.FAILED, CAME_AND_WENT)] * 4
    assert [row[0] for row in scene.pending_rows()] == ids


async def test_three_steps_acknowledge_entries_that_are_there(scene: Scene, link: RedisLink) -> None:
    """Control: what gather did, XRANGE, XPENDING and XACK one after the other."""
    scene.add_tweets(20)
    ids = scene.abandon()
    seen = Wire(link)
    renames(scene, seen, ["XPENDING"])
    found = await seen.call("XRANGE", scene.stream, ids[0], ids[-1])
    listed = await seen.call("XPENDING", scene.stream, scene.group, ids[0], ids[-1], 20)
    gone = [row[0] for row in listed if row[0] not in dict(found)]
    await seen.call("XACK", scene.stream, scene.group, *gone)
    assert (scene.pending(), scene.raw.execute_command("XLEN", scene.stream)) == (0, 20), "not caught"


async def test_without_the_right_to_run_scripts_deleted_entries_are_counted_all_the_same(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper
) -> None:
    own_scene.add_tweets(6)
    ids = own_scene.abandon()
    own_scene.raw.execute_command("XDEL", own_scene.stream, ids[1], ids[4])
    own_scene.raw.execute_command("ACL", "SETUSER", "bare", "on", "nopass", "~*", "&*", "+@all", "-evalsha", "-script")
    user = {"REDIS_USERNAME": "bare", "REDIS_PASSWORD": "any"}
    report = await sweep(own_scene.settings(SETTLE_MODE="gather", **user))
    assert (report.processed, report.deleted, report.error, own_scene.pending()) == (4, 2, None, 0)


async def test_a_lost_reply_shrinks_the_batch_to_one_entry(scene: Scene, link: ServerLink) -> None:
    """The fault of large replies: what could not come as a batch comes one by one."""
    scene.add_tweets(40)
    scene.abandon()
    gather = GatherSettle(link, scene.settings().streams[0], 4)
    seen, sizes = Wire(link), []

    def too_large(command: Command) -> None:
        if command[0] == "XRANGE":
            sizes.append(int(command[-1]))
            if int(command[-1]) > 2:
                raise redis_errors.ConnectionError("the reply was cut off")

    seen.before = too_large
    page = candidates(scene)
    while page:
        try:
            batch = await gather.settle(page[: gather.batch_size])
        except redis_errors.ConnectionError:
            continue
        page = page[batch.taken :]
    assert scene.pending() == 0
    assert sizes[:3] == [4, 1, 2]


@pytest.mark.parametrize("answers", [True, False])
async def test_an_entry_that_cannot_come_even_alone_is_named_and_a_server_that_is_away_is_not(
    scene: Scene, link: ServerLink, answers: bool
) -> None:
    scene.add_tweets(1)
    scene.abandon()
    gather = GatherSettle(link, scene.settings().streams[0], 4)
    seen = Wire(link)

    def lost(command: Command) -> None:
        if command[0] == "XRANGE" and (command[2] != "0-1" or not answers):
            raise redis_errors.ConnectionError("cut off")

    seen.before = lost
    (entry,) = candidates(scene)
    for _ in range(3):
        try:
            batch = await gather.settle([entry])
            break
        except redis_errors.ConnectionError:
            continue
    else:
        assert not answers
        return
    assert answers
    assert batch.named == [(Outcome.FAILED, TOO_LARGE, entry.entry_id)]
    assert scene.pending() == 1
