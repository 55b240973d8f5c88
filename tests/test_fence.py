"""The fence: only a claim that XPENDING still shows is renewed, given back, undone or acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
import redis

from demo.redis import RedisServer
from stream_janitor.fence import (
    MOST_ENTRIES,
    Argument,
    Change,
    Claim,
    ack_arguments,
    given_back,
    look_arguments,
    renewed,
    script_text,
    set_arguments,
    states_of,
    undone,
)
from tests.conftest import Scene, new_scene, raw_client
from tests.test_old_redis import redis_6_2, redis_7_on_path

MIN_IDLE_MS = 10_000
US = "janitor"
EXECUTABLES = {"6.2": redis_6_2, "7": redis_7_on_path, "8": lambda: None}


@pytest.fixture(scope="module", params=EXECUTABLES)
def fence_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(search=False, executable=EXECUTABLES[request.param]()) as running:
        yield running


@pytest.fixture
def client(fence_server: RedisServer) -> Iterator[redis.Redis]:
    client = raw_client(fence_server)
    yield client
    client.config_set("maxmemory", 0)
    client.flushall()
    client.close()


@pytest.fixture
def fenced(client: redis.Redis, fence_server: RedisServer) -> Scene:
    return new_scene(client, fence_server.environment)


def is_old(client: redis.Redis) -> bool:
    return dict(client.execute_command("HELLO", 3))[b"version"].startswith(b"6.")


def run(scene: Scene, arguments: Iterable[Argument], text: str | None = None) -> list[str | int]:
    return states_of(scene.raw.execute_command("EVAL", text or script_text(), 1, scene.stream, *arguments))


def put(scene: Scene, *changes: Change, text: str | None = None) -> list[str | int]:
    return run(scene, set_arguments(scene.group, US, changes), text)


def claim(scene: Scene, ids: list[bytes], consumer: str = US, min_idle_ms: int = MIN_IDLE_MS) -> list[Claim]:
    """As handle does: XCLAIM without JUSTID, which counts the attempt; only what was idle for long enough."""
    taken = scene.raw.execute_command("XCLAIM", scene.stream, scene.group, consumer, min_idle_ms, *ids)
    counts = {row[0]: row[3] for row in scene.pending_rows()}
    return [Claim(entry[0], int(counts[entry[0]])) for entry in taken if entry]


def abandoned(scene: Scene, count: int = 1) -> list[bytes]:
    scene.add_tweets(count)
    return scene.abandon()


def age(scene: Scene, held: Claim, consumer: str = US) -> None:
    """The lease has ended: nobody renewed for longer than the minimum idle time. The count stays."""
    scene.age([held.entry_id], 60_000, consumer, held.deliveries)


def row(scene: Scene, entry_id: bytes) -> tuple[str, int, int]:
    """Consumer, idle time, delivery count."""
    _, consumer, idle_ms, deliveries = scene.raw.execute_command(
        "XPENDING", scene.stream, scene.group, entry_id, entry_id, 1
    )[0]
    return consumer.decode(), idle_ms, deliveries


def test_a_renewal_resets_the_idle_time_and_nothing_else(fenced: Scene) -> None:
    (held,) = claim(fenced, abandoned(fenced))
    age(fenced, held)
    assert put(fenced, renewed(held)) == ["held"]
    consumer, idle_ms, deliveries = row(fenced, held.entry_id)
    assert (consumer, deliveries) == (US, 2)
    assert idle_ms < MIN_IDLE_MS


def test_an_entry_is_given_back_with_the_idle_time_that_makes_it_due_later(fenced: Scene) -> None:
    (held,) = claim(fenced, abandoned(fenced))
    assert put(fenced, given_back(held, 4_000)) == ["held"]
    consumer, idle_ms, deliveries = row(fenced, held.entry_id)
    assert (consumer, deliveries) == (US, 2)
    assert 4_000 <= idle_ms < MIN_IDLE_MS


def test_an_attempt_that_was_none_sets_the_delivery_count_back(fenced: Scene) -> None:
    (held,) = claim(fenced, abandoned(fenced))
    for _ in range(20):  # an outage of a sink, however long
        assert put(fenced, undone(held, MIN_IDLE_MS)) == ["held"]
        assert row(fenced, held.entry_id)[2] == 1
        (held,) = claim(fenced, [held.entry_id])
        assert held.deliveries == 2


def test_a_dead_letter_is_acknowledged_only_where_it_is_still_ours(fenced: Scene) -> None:
    held = claim(fenced, abandoned(fenced, 2))
    age(fenced, held[1])
    claim(fenced, [held[1].entry_id])  # a rival of the same name
    assert run(fenced, ack_arguments(fenced.group, US, held)) == ["acked", "lost"]
    assert [pending[0] for pending in fenced.pending_rows()] == [held[1].entry_id]


def test_each_entry_is_answered_in_its_place(fenced: Scene) -> None:
    ids = abandoned(fenced, 5)
    ours, acked, anothers, anew, gone = claim(fenced, ids)
    fenced.raw.execute_command("XACK", fenced.stream, fenced.group, acked.entry_id)
    age(fenced, anothers)
    claim(fenced, [anothers.entry_id], "other")
    age(fenced, anew)
    claim(fenced, [anew.entry_id])
    fenced.raw.execute_command("XDEL", fenced.stream, gone.entry_id)
    states = put(fenced, *map(renewed, (gone, anew, anothers, acked, ours)))
    assert states == ["deleted", "lost", "lost", "settled", "held"]


def test_a_deleted_entry_is_reported_and_can_be_acknowledged_on_every_version(fenced: Scene) -> None:
    (held,) = claim(fenced, abandoned(fenced))
    fenced.raw.execute_command("XDEL", fenced.stream, held.entry_id)
    assert put(fenced, renewed(held)) == ["deleted"]
    assert fenced.pending() == (1 if is_old(fenced.raw) else 0)
    fenced.raw.execute_command("XACK", fenced.stream, fenced.group, held.entry_id)
    assert put(fenced, renewed(held)) == ["settled"]


def test_a_consumer_learns_the_counts_of_what_it_was_just_given(fenced: Scene) -> None:
    fenced.add_tweets(2)
    first, second = fenced.deliver("worker")
    fenced.age([second], 0, "worker", 7)
    fenced.add_tweets(1)
    (anothers,) = fenced.deliver("other")
    states = run(fenced, look_arguments(fenced.group, "worker", [first, second, anothers, b"1-1"]))
    assert states == [1, 7, "lost", "settled"]


def test_a_delivery_count_beyond_what_a_script_can_tell_apart_is_never_ours(fenced: Scene) -> None:
    (entry_id,) = abandoned(fenced)
    fenced.age([entry_id], 60_000, US, 2**63 - 1)
    assert put(fenced, renewed(Claim(entry_id, 2**53 - 1))) == ["lost"]
    assert row(fenced, entry_id)[1] >= 60_000


def test_as_many_as_one_run_takes_are_renewed_in_it(fenced: Scene) -> None:
    held = claim(fenced, abandoned(fenced, MOST_ENTRIES))
    assert put(fenced, *map(renewed, held)) == ["held"] * MOST_ENTRIES


def test_a_group_that_is_gone_is_an_error_not_an_answer(fenced: Scene) -> None:
    (held,) = claim(fenced, abandoned(fenced))
    fenced.raw.execute_command("XGROUP", "DESTROY", fenced.stream, fenced.group)
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        put(fenced, renewed(held))


# --- a full server --------------------------------------------------------------------------------------------------------


def fill_up(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)


def test_a_full_server_still_renews_gives_back_and_acknowledges(fenced: Scene) -> None:
    held = claim(fenced, abandoned(fenced, 3))
    fill_up(fenced.raw)
    assert put(fenced, renewed(held[0]), given_back(held[1], 5_000), undone(held[2], 0)) == ["held"] * 3
    assert run(fenced, ack_arguments(fenced.group, US, held[:2])) == ["acked"] * 2


def test_with_a_shebang_line_a_full_server_would_end_the_lease(fenced: Scene) -> None:
    """Control: why fence.lua has none."""
    (held,) = claim(fenced, abandoned(fenced))
    fill_up(fenced.raw)
    with pytest.raises(redis.ResponseError, match="compiling" if is_old(fenced.raw) else "maxmemory"):
        put(fenced, renewed(held), text="#!lua\n" + script_text())


# --- two janitors of one name ---------------------------------------------------------------------------------------------

BY_NAME_ONLY = script_text().replace("if row[4] ~= tonumber(ARGV[at + 1]) then return 'lost' end", "")
assert script_text() != BY_NAME_ONLY


def fenced_change(scene: Scene, change: Change) -> None:
    put(scene, change)


def change_by_name_only(scene: Scene, change: Change) -> None:
    put(scene, change, text=BY_NAME_ONLY)


def bare_xclaim(scene: Scene, change: Change) -> None:
    scene.raw.execute_command(
        "XCLAIM", scene.stream, scene.group, US, 0, change.claim.entry_id,
        "IDLE", change.idle_ms, "RETRYCOUNT", change.deliveries, "JUSTID",
    )  # fmt: skip


Write = Callable[[Scene, Change], None]


def two_hold_it(scene: Scene, rival: str) -> tuple[Claim, Claim]:
    """The first janitor was held up for longer than its lease, a rival has claimed the entry since."""
    (first,) = claim(scene, abandoned(scene))
    age(scene, first)
    (second,) = claim(scene, [first.entry_id], rival)
    return first, second


def workers_at_once(scene: Scene, write: Write, rival: str) -> int:
    """How many work on one entry when its former owner gives it back while a rival works on it, and a third looks."""
    first, _ = two_hold_it(scene, rival)
    write(scene, given_back(first, MIN_IDLE_MS))
    return 1 + len(claim(scene, [first.entry_id], "third"))


def hidden_by_a_former_owner(scene: Scene, write: Write, rival: str) -> bool:
    """Whether the renewals of a former owner keep an entry out of reach whose owner has crashed."""
    first, second = two_hold_it(scene, rival)
    age(scene, second, rival)
    write(scene, renewed(first))
    return not claim(scene, [first.entry_id], "third")


@pytest.mark.parametrize("rival", [US, "other"])
def test_a_former_owner_gives_nothing_back_that_a_rival_works_on(fenced: Scene, rival: str) -> None:
    assert workers_at_once(fenced, fenced_change, rival) == 1


@pytest.mark.parametrize("rival", [US, "other"])
def test_a_former_owner_keeps_nothing_from_others(fenced: Scene, rival: str) -> None:
    assert not hidden_by_a_former_owner(fenced, fenced_change, rival)


@pytest.mark.parametrize("rival", [US, "other"])
@pytest.mark.parametrize("harm", [workers_at_once, hidden_by_a_former_owner])
def test_a_bare_xclaim_is_caught(fenced: Scene, harm: Callable[[Scene, Write, str], int], rival: str) -> None:
    """Control: XCLAIM 0 … JUSTID takes the entry from whoever has it."""
    assert int(harm(fenced, bare_xclaim, rival)) == (2 if harm is workers_at_once else 1)


@pytest.mark.parametrize("harm", [workers_at_once, hidden_by_a_former_owner])
def test_a_fence_by_name_only_is_caught_where_two_share_a_name(
    fenced: Scene, harm: Callable[[Scene, Write, str], int]
) -> None:
    """Control: it holds between janitors of different names, and replicas share one."""
    assert int(harm(fenced, change_by_name_only, US)) == (2 if harm is workers_at_once else 1)


def test_a_set_that_lowers_the_count_must_not_be_repeated(fenced: Scene) -> None:
    """Control: what fence.lua warns of. The reply was lost, a rival of our name claimed, and has our count."""
    (held,) = claim(fenced, abandoned(fenced))
    put(fenced, undone(held, MIN_IDLE_MS))
    assert claim(fenced, [held.entry_id]) == [held]
    assert put(fenced, undone(held, MIN_IDLE_MS)) == ["held"], "the rival's claim was taken for ours"
