"""Retention: what every group has finished with goes; what is pending, unread or young never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.redis import RedisServer
from monitor.retained import LEFT_ALONE, MOST_COUNTED, Policy, matches_any
from monitor.retention import FIRST_LIMIT, MOST_LIMIT, Retention
from monitor.scripts import retention_script
from shared.redis_client import ServerLink
from tests.conftest import Wire, raw_client
from tests.retaining import GROUP, HOUR_MS, POLICY, Kept, link_to, retain, until
from tests.test_old_redis import EXECUTABLES


@pytest.fixture(scope="module", params=["6.2", "7", "8"])
def server_of_version(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(search=False, executable=EXECUTABLES[request.param]()) as running:
        yield running


@pytest.fixture
def client(server_of_version: RedisServer) -> Iterator[redis.Redis]:
    client = raw_client(server_of_version)
    for name, value in (("stream-node-max-entries", 100), ("stream-node-max-bytes", 4096)):  # one a command, below 7.0
        client.execute_command("CONFIG", "SET", name, value)
    yield client
    client.execute_command("FLUSHALL")
    client.close()


@pytest.fixture
def kept(client: redis.Redis) -> Kept:
    return Kept(client)


@pytest.fixture
async def link(server_of_version: RedisServer) -> AsyncIterator[ServerLink]:
    link = link_to(server_of_version)
    yield link
    await link.close()


# --- what goes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 450])
async def test_all_but_the_last_of_what_is_finished_with_goes(link: ServerLink, kept: Kept, count: int) -> None:
    kept.group()
    ids = kept.add(count)
    kept.finish()
    retained = await retain(link, kept)
    assert (retained.trimmed, retained.complete, retained.held) == (count - 1, True, None)
    assert kept.ids() == ids[-1:]
    assert retained.stream_length == 1


async def test_one_entry_an_hour_goes_by_its_own_age(link: ServerLink, kept: Kept) -> None:
    kept.group()
    ids = kept.add(10, age_ms=10 * HOUR_MS - HOUR_MS // 2, step_ms=HOUR_MS)
    kept.finish()
    retained = await retain(link, kept, replace(POLICY, retain_ms=3 * HOUR_MS))
    assert (retained.trimmed, kept.ids()) == (7, ids[7:])


async def test_what_is_younger_than_retain_sec_remains_to_the_millisecond(link: ServerLink, kept: Kept) -> None:
    kept.group()
    now_ms = kept.now_ms()
    for entry_id in (now_ms - HOUR_MS, now_ms - HOUR_MS + 100_000):
        kept.run("XADD", kept.stream, f"{entry_id}-0", "f", "v")
    kept.run("XADD", kept.stream, "*", "f", "v")
    kept.finish()
    while kept.now_ms() <= now_ms:  # the first is older than an hour by a millisecond then
        pass
    retained = await retain(link, kept)
    assert retained.trimmed == 1
    assert next(int(entry_id.split(b"-")[0]) for entry_id in kept.ids()) == now_ms - HOUR_MS + 100_000


@pytest.mark.parametrize("most", [0, 20_000])
async def test_nodes_of_any_number_of_entries_are_trimmed(link: ServerLink, kept: Kept, most: int) -> None:
    kept.run("CONFIG", "SET", "stream-node-max-entries", most)
    kept.group()
    kept.add(5_000)
    kept.finish()
    retained = await retain(link, kept)
    # Nodes hold some 270 of these: more than the first slice's LIMIT, which grows until one fits.
    assert retained.trimmed > 4_000
    assert retained.trimmed == 5_000 - kept.length()
    assert retained.complete


async def test_a_node_larger_than_a_slice_is_left_and_the_report_says_so(link: ServerLink, kept: Kept) -> None:
    kept.run("CONFIG", "SET", "stream-node-max-entries", 0)
    kept.run("CONFIG", "SET", "stream-node-max-bytes", 0)
    kept.group()
    kept.add(MOST_LIMIT + 500)
    kept.finish()
    retained = await retain(link, kept)
    assert (retained.trimmed, retained.large_node, retained.complete) == (0, True, True)
    assert "stream-node-max-entries" in str(retained)


async def test_large_entries_go_in_small_slices(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(300, size=100_000)
    kept.finish()
    assert (await retain(link, kept)).trimmed == 299


async def test_a_handful_in_the_first_node_is_not_read_if_it_is_heavy(link: ServerLink, kept: Kept) -> None:
    kept.run("CONFIG", "SET", "stream-node-max-bytes", 0)
    kept.group()
    kept.add(50, size=100_000)
    kept.finish()
    wire = Wire(link)
    retained = await retain(link, kept)
    assert (retained.trimmed, retained.large_node) == (0, True)
    assert len(wire.commands) < 12


# --- what remains ---------------------------------------------------------------------------------------------------------


async def test_what_is_pending_in_any_group_remains_and_all_behind_it(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.group("audit")
    ids = kept.add(300)
    kept.finish()
    read = kept.read("audit")
    kept.acknowledge([one for one in read if one != ids[120]], "audit")
    retained = await retain(link, kept)
    assert (retained.trimmed, kept.ids()) == (120, ids[120:])
    assert retained.held is not None
    assert (retained.held.group, retained.held.at, retained.held.pending) == ("audit", ids[120].decode(), 1)


async def test_what_a_group_has_not_read_remains(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.group("audit")
    ids = kept.add(300)
    kept.finish()
    retained = await retain(link, kept)
    assert (retained.trimmed, kept.ids()) == (0, ids)
    assert str(retained.held).startswith("held by group audit at 0-0")


async def test_the_lag_of_the_group_that_holds_is_told_where_redis_knows_it(
    link: ServerLink, kept: Kept, server_of_version: RedisServer
) -> None:
    kept.group()
    kept.add(30)
    kept.finish(count=10)
    retained = await retain(link, kept)
    version = int(kept.run("INFO", "server").split(b"redis_version:")[1].split(b".")[0])
    assert retained.held is not None
    assert retained.held.lag == (20 if version >= 7 else None)


async def test_a_group_that_was_set_back_reads_everything_again(link: ServerLink, kept: Kept) -> None:
    """A bound of "the oldest pending entry, else the last delivered" trims what is to be read again."""
    kept.group()
    ids = kept.add(300)
    kept.finish(count=299)
    kept.read()  # the last one is pending
    kept.run("XGROUP", "SETID", kept.stream, GROUP, ids[50])
    retained = await retain(link, kept)
    assert (retained.trimmed, kept.ids()) == (50, ids[50:])
    assert kept.read() == ids[51:]


async def test_an_entry_claimed_by_force_above_the_last_delivered_holds_nothing_too_much(
    link: ServerLink, kept: Kept
) -> None:
    kept.group()
    ids = kept.add(300)
    kept.finish(count=100)
    kept.run("XCLAIM", kept.stream, GROUP, "c", 0, ids[200], "FORCE", "JUSTID")
    retained = await retain(link, kept)
    assert (retained.trimmed, kept.ids()) == (99, ids[99:])


async def test_a_group_that_comes_between_two_slices_holds_what_it_is_to_read(link: ServerLink, kept: Kept) -> None:
    kept.group()
    ids = kept.add(1_000)
    kept.finish()
    wire = Wire(link)

    def before(command: object) -> None:
        if kept.length() < 1_000 and len(kept.run("XINFO", "GROUPS", kept.stream)) == 1:
            kept.group("late", ids[500].decode())

    wire.before = before
    retained = await retain(link, kept)
    assert kept.ids() == ids[500:]
    assert retained.held is not None
    assert retained.held.group == "late"


async def test_ids_are_compared_as_numbers_too_large_for_a_double(link: ServerLink, kept: Kept) -> None:
    kept.group()
    at = kept.now_ms() - 2 * HOUR_MS
    sequences = [9007199254740990 + number for number in range(6)]
    ids = [kept.run("XADD", kept.stream, f"{at}-{number}", "f", "v") for number in sequences]
    kept.read()
    kept.acknowledge([one for one in ids if one != ids[3]])
    await retain(link, kept)
    assert kept.ids() == ids[3:]


async def test_an_id_of_fewer_digits_comes_first(link: ServerLink, kept: Kept) -> None:
    kept.group()
    at = kept.now_ms() - 2 * HOUR_MS
    ids = [kept.run("XADD", kept.stream, f"{at}-{number}", "f", "v") for number in (9, 10, 100)]
    kept.read()
    kept.acknowledge(ids[:1])
    await retain(link, kept)
    assert kept.ids() == ids[1:]


# --- groups that are ignored ----------------------------------------------------------------------------------------------


async def test_ignored_groups_hold_nothing(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.group("tail-1")
    kept.add(300)
    kept.finish()
    kept.read("tail-1", 100)
    retained = await retain(link, kept, replace(POLICY, ignored=("tail-*",)))
    assert (retained.trimmed, retained.held) == (299, None)


async def test_the_janitors_own_groups_are_never_ignored(link: ServerLink, kept: Kept) -> None:
    kept.group()
    ids = kept.add(300)
    kept.read()
    retained = await retain(link, kept, replace(POLICY, ignored=("*", GROUP)))
    assert (retained.trimmed, kept.ids()) == (0, ids)
    assert retained.held is not None
    assert retained.held.group == GROUP


@pytest.fixture(scope="module")
def matching(server: RedisServer) -> Iterator[redis.Redis]:
    client = raw_client(server)
    yield client
    client.close()


GLOBS = st.text("ab*?[%-^é", max_size=6)


@given(name=st.text("ab[%-^é", max_size=8), glob=GLOBS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_and_we_match_globs_alike(matching: redis.Redis, name: str, glob: str) -> None:
    text = retention_script().text
    body = text[text.index("local function matches") : text.index("local function is_ignored")]
    matched = matching.execute_command("EVAL", body + "return matches(ARGV[1], ARGV[2]) and 1 or 0", 0, name, glob)
    assert bool(matched) == matches_any(name.encode(), [glob])


# --- streams that are left alone --------------------------------------------------------------------------------------------


async def test_a_stream_that_no_group_reads_is_left_alone(link: ServerLink, kept: Kept) -> None:
    kept.add(300)
    retained = await retain(link, kept)
    assert (retained.left_alone, kept.length()) == (LEFT_ALONE["no_group"], 300)


async def test_a_stream_whose_groups_are_all_ignored_is_left_alone(link: ServerLink, kept: Kept) -> None:
    kept.group("tail")
    kept.add(300)
    kept.finish("tail")
    retained = await retain(link, kept, replace(POLICY, ignored=("*",)))
    assert (retained.left_alone, kept.length()) == (LEFT_ALONE["all_ignored"], 300)


@pytest.mark.parametrize(("groups", "trimmed"), [(100, 299), (101, 0)])
async def test_a_stream_with_more_than_a_hundred_groups_is_left_alone(
    link: ServerLink, kept: Kept, groups: int, trimmed: int
) -> None:
    kept.add(300)
    for number in range(groups):
        kept.group(f"g{number}", "$")
    retained = await retain(link, kept)
    assert retained.trimmed == trimmed
    assert retained.left_alone == (None if trimmed else LEFT_ALONE["many_groups"])


async def test_a_stream_whose_ids_are_small_numbers_is_left_alone(link: ServerLink, kept: Kept) -> None:
    kept.group()
    for number in range(1, 50):
        kept.run("XADD", kept.stream, f"{number}-0", "f", "v")
    kept.finish()
    # Ahead of all that is there: no bound by the groups would keep it.
    kept.run("XGROUP", "SETID", kept.stream, GROUP, f"{kept.now_ms()}-0")
    retained = await retain(link, kept)
    assert (retained.left_alone, kept.length()) == (LEFT_ALONE["no_times"], 49)


async def test_a_stream_whose_ids_lie_ahead_of_the_clock_is_left_alone(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(10)
    kept.run("XADD", kept.stream, f"{kept.now_ms() + HOUR_MS}-0", "f", "v")
    kept.finish()
    retained = await retain(link, kept)
    assert (retained.left_alone, kept.length()) == (LEFT_ALONE["ahead"], 11)


async def test_a_stream_that_is_not_there_is_no_error(link: ServerLink, kept: Kept) -> None:
    assert (await retain(link, kept)).left_alone == LEFT_ALONE["no_stream"]


async def test_an_empty_stream_has_nothing_to_trim(link: ServerLink, kept: Kept) -> None:
    kept.group()
    retained = await retain(link, kept)
    assert (str(retained), retained.stream_length, retained.first_id) == ("nothing to trim", 0, None)


async def test_a_stream_without_groups_may_be_trimmed_by_age_if_it_needs_none(link: ServerLink, kept: Kept) -> None:
    """A dead-letter stream: who reads it is honoured, but nobody has to."""
    kept.add(300)
    policy = Policy(HOUR_MS, needs_group=False)
    assert (await retain(link, kept, policy)).trimmed == 300
    ids = kept.add(10, age_ms=23 * HOUR_MS)
    kept.group("redrivers")
    retained = await retain(link, kept, policy)
    assert (retained.trimmed, kept.ids()) == (0, ids)


# --- slices, the dry run and the opening ------------------------------------------------------------------------------------


async def test_the_dry_run_says_what_would_be_trimmed_and_trims_nothing(link: ServerLink, kept: Kept) -> None:
    kept.group()
    ids = kept.add(300)
    kept.finish()
    wire = Wire(link)
    retained = await retain(link, kept, dry_run=True)
    assert (retained.would_trim, retained.trimmed, retained.bound) == (299, 0, ids[-1].decode())
    assert kept.length() == 300
    assert not wire.sent("XTRIM")
    assert str(retained) == f"would trim 299 before {ids[-1].decode()}"


async def test_the_dry_run_counts_no_further_than_it_says(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(MOST_COUNTED + 500)
    kept.finish()
    retained = await retain(link, kept, dry_run=True)
    assert retained.would_trim == MOST_COUNTED
    assert "1,000 or more" in str(retained)


async def test_the_opening_does_all_where_nothing_is_pending_and_little_is_to_trim(
    link: ServerLink, kept: Kept
) -> None:
    kept.group()
    kept.add(100)
    kept.finish()
    await retention_script().load(link)
    retention = Retention(link, kept.stream, POLICY)
    retention.opened(await link.pipelined(retention.opening()))
    wire = Wire(link)
    retained = await retention.run(until(link))
    assert (retained.trimmed, retained.complete, wire.round_trips) == (99, True, 0)


async def test_the_opening_trims_nothing_while_an_own_group_has_something_pending(link: ServerLink, kept: Kept) -> None:
    kept.group()
    ids = kept.add(200)
    kept.read()
    kept.acknowledge(ids[:-1])
    await retention_script().load(link)
    retention = Retention(link, kept.stream, POLICY)
    retention.opened(await link.pipelined(retention.opening()))
    assert kept.length() == 200
    assert (await retention.run(until(link))).trimmed == 199


async def test_a_server_that_does_not_have_the_script_yet_is_given_it(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(100)
    kept.finish()
    kept.run("SCRIPT", "FLUSH")
    retention = Retention(link, kept.stream, POLICY)
    retention.opened(await link.pipelined(retention.opening()))
    assert (await retention.run(until(link))).trimmed == 99


async def test_what_the_deadline_left_goes_the_next_time(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(5_000)
    kept.finish()
    await retention_script().load(link)
    retention = Retention(link, kept.stream, POLICY)
    retention.opened(await link.pipelined(retention.opening()))
    first = await retention.run(until(link, 0))
    assert (first.trimmed, first.complete) == (FIRST_LIMIT, False)
    assert "not complete" in str(first)
    assert (await retain(link, kept)).trimmed == 5_000 - FIRST_LIMIT - 1


async def test_slices_grow_where_they_are_quick(link: ServerLink, kept: Kept) -> None:
    kept.group()
    kept.add(50_000)
    kept.finish()
    wire = Wire(link)
    await retain(link, kept)
    assert kept.length() == 1
    assert len(wire.sent("EVALSHA")) < 250  # of 100 each it would be 500


async def test_a_server_far_away_is_sent_no_smaller_slices(link: ServerLink, kept: Kept) -> None:
    """Where scripts see no clock the reply's time tells, less what the way there takes."""
    kept.group()
    kept.add(20_000)
    kept.finish()
    await retention_script().load(link)
    wire = Wire(link)
    wire.before = lambda command: asyncio.sleep(0.02)
    await retain(link, kept)
    assert kept.length() == 1
    assert len(wire.sent("EVALSHA")) < 100  # of 100 each it would be 200


async def test_a_key_of_another_type_is_refused(link: ServerLink, kept: Kept) -> None:
    kept.run("SET", kept.stream, "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await retain(link, kept)
