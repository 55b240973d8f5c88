"""ACTION=handle: the user's code is called with what was abandoned, and what it says is done, at the cost of no other entry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.report import SweepReport
from shared.errors import SettingsError
from shared.redis_client import Command
from shared.settings import Settings
from stream_janitor import Dead, Done, Entry, Retry, Unavailable
from tests.conftest import Scene, new_scene, sum_of_outcomes, wire

MODULE = "handlers_of_test_handle"
Handler = Callable[[list[Entry]], Any]
MIN_IDLE_MS = 10_000


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    yield module
    del sys.modules[MODULE]


class Bench:
    """A scene whose entries a test's own function handles."""

    def __init__(self, scene: Scene, module: types.ModuleType) -> None:
        self.scene, self._module = scene, module
        self._janitors: list[Janitor] = []

    def settings(self, handler: Any, **changes: str) -> Settings:
        name = f"handler_{id(handler)}"
        setattr(self._module, name, handler)
        defaults = {"ACTION": "handle", "HANDLER": f"{MODULE}:{name}", "INDEX_SCHEMA": "off", "RETRY_BACKOFF": "off"}
        return self.scene.settings(**(defaults | changes))

    def janitor(self, handler: Any, **changes: str) -> Janitor:
        janitor = Janitor(self.settings(handler, **changes))
        self._janitors.append(janitor)
        return janitor

    async def sweep(self, handler: Any, **changes: str) -> SweepReport:
        return await self.tick(self.janitor(handler, **changes))

    async def tick(self, janitor: Janitor) -> SweepReport:
        (report,) = await janitor.tick()
        assert report.candidates == sum_of_outcomes(report), report
        return report

    def abandon(self, count: int = 1, **age: Any) -> list[bytes]:
        self.scene.add_tweets(count)
        ids = self.scene.deliver()
        self.scene.age(ids, **age)
        return ids

    def rows(self) -> dict[bytes, tuple[bytes, int, int]]:
        """Entry id → consumer, idle time, delivery count."""
        return {row[0]: tuple(row[1:]) for row in self.scene.pending_rows()}  # type: ignore[misc]

    def make_due(self) -> None:
        """As if the minimum idle time had passed; counts and owners stay."""
        for entry_id, (consumer, _, deliveries) in self.rows().items():
            self.scene.age([entry_id], 60_000, consumer.decode(), deliveries)

    async def close(self) -> None:
        for janitor in self._janitors:
            await janitor.close()


@pytest.fixture
async def bench(scene: Scene, module: types.ModuleType) -> AsyncIterator[Bench]:
    bench = Bench(scene, module)
    yield bench
    await bench.close()


def reasons(report: SweepReport) -> dict[str, int]:
    return {reason: named.count for reason, named in report.reasons.items()}


# --- what the handler gets and what it says -------------------------------------------------------------------------------


async def test_what_is_done_is_acknowledged_and_was_called_with_all_there_is_to_know(bench: Bench) -> None:
    entry_id = bench.scene.add(b"a", b"1", b"a", b"\xff", b"n", b"{}")
    bench.scene.deliver("crashed")
    bench.scene.age([entry_id], 60_000, "crashed", 3)
    seen: list[Entry] = []
    report = await bench.sweep(seen.extend)
    assert (report.handled, report.candidates, report.error, bench.scene.pending()) == (1, 1, None, 0)
    (one,) = seen
    assert (one.entry_id, one.stream, one.group) == (entry_id.decode(), bench.scene.stream, bench.scene.group)
    assert one.pairs == ((b"a", b"1"), (b"a", b"\xff"), (b"n", b"{}"))
    assert (one.deliveries, one.last_consumer, one.json("n")) == (4, "crashed", {})
    assert 24 * 3600 - 60 < one.age_s < 24 * 3600 + 3600


async def test_nothing_young_is_called_with(bench: Bench) -> None:
    bench.abandon(idle_ms=MIN_IDLE_MS - 5_000)
    called: list[Entry] = []
    assert (await bench.sweep(called.extend)).candidates == 0
    assert called == []


async def test_each_verdict_has_its_outcome_and_costs_no_other(bench: Bench) -> None:
    ids = bench.abandon(5)
    done, again, later, dead, out = (entry_id.decode() for entry_id in ids)

    def handler(entries: list[Entry]) -> dict[str, object]:
        return {done: Done, again: Retry(reason="locked"), later: Retry(after_s=2), dead: Dead("no such customer")}

    report = await bench.sweep(handler, HANDLER_BATCH="5")
    assert (report.handled, report.retried, report.dead_lettered, report.failed, report.candidates) == (1, 2, 1, 1, 5)
    assert reasons(report) == {
        "retried: locked": 1,
        "retried: the handler asks for it": 1,
        "dead_lettered: no such customer": 1,
        "failed: left out of the handler's result": 1,
    }
    rows = bench.rows()
    assert set(rows) == {again.encode(), later.encode(), out.encode()}
    assert {deliveries for _, _, deliveries in rows.values()} == {2}
    assert rows[again.encode()][1] < 5_000
    assert MIN_IDLE_MS - 2_000 <= rows[later.encode()][1] < MIN_IDLE_MS + 5_000
    (letter,) = bench.scene.dead_letters()
    assert b"no such customer" in letter[1]  # type: ignore[operator]


async def coroutine(entries: list[Entry]) -> None: ...


SAYS_NOTHING: list[Handler] = [
    lambda entries: False,
    lambda entries: [],
    lambda entries: [Done()],
    lambda entries: {one.entry_id: coroutine for one in entries},
]


@pytest.mark.parametrize("result", SAYS_NOTHING)
async def test_what_says_nothing_acknowledges_nothing(bench: Bench, result: Handler) -> None:
    bench.abandon(2)
    report = await bench.sweep(result, HANDLER_BATCH="2")
    assert (report.handled, report.failed, bench.scene.pending()) == (0, 2, 2)


async def test_a_handler_that_raises_costs_an_attempt_and_prints_no_word_of_the_entry(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    bench.scene.add("id", "kanarie")
    bench.scene.abandon()

    def raises(entries: list[Entry]) -> None:
        raise ValueError(entries[0].text("id"))

    report = await bench.sweep(raises)
    assert reasons(report) == {"failed: handler raised ValueError": 1}
    assert [deliveries for _, _, deliveries in bench.rows().values()] == [2]
    assert "kanarie" not in caplog.text


async def test_an_async_context_manager_is_entered_once_for_many_sweeps_and_left_at_the_end(bench: Bench) -> None:
    told: list[str] = []

    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Handler]:
        told.append("entered")
        yield lambda entries: told.append("called")
        told.append("left")

    janitor = bench.janitor(managed)
    for _ in range(3):
        bench.abandon()
        assert (await bench.tick(janitor)).handled == 1
    await janitor.close()
    assert told == ["entered", "called", "called", "called", "left"]


async def test_an_entry_deleted_while_pending_is_counted_and_never_called_with(bench: Bench) -> None:
    gone, there = bench.abandon(2)
    bench.scene.raw.execute_command("XDEL", bench.scene.stream, gone)
    called: list[Entry] = []
    report = await bench.sweep(called.extend, HANDLER_BATCH="2")
    assert (report.deleted, report.handled, bench.scene.pending()) == (1, 1, 0)
    assert [one.entry_id for one in called] == [there.decode()]


async def test_an_entry_that_its_consumer_acknowledges_meanwhile_is_a_lost_race(bench: Bench) -> None:
    (entry_id,) = bench.abandon()

    def handler(entries: list[Entry]) -> None:
        bench.scene.raw.execute_command("XACK", bench.scene.stream, bench.scene.group, entry_id)

    report = await bench.sweep(handler)
    assert (report.handled, report.lost_race) == (0, 1)


# --- batches and slots ----------------------------------------------------------------------------------------------------


async def test_a_call_gets_a_whole_batch_whenever_so_many_are_there(bench: Bench) -> None:
    bench.abandon(25)
    sizes: list[int] = []
    report = await bench.sweep(lambda entries: sizes.append(len(entries)), HANDLER_BATCH="10")
    assert (report.handled, sorted(sizes)) == (25, [5, 10, 10])


async def test_two_entries_come_as_one_call(bench: Bench) -> None:
    bench.abandon(2)
    sizes: list[int] = []
    await bench.sweep(lambda entries: sizes.append(len(entries)), HANDLER_BATCH="100")
    assert sizes == [2]


async def test_entries_come_in_the_order_of_their_ids(bench: Bench) -> None:
    ids = bench.abandon(30)
    calls: list[list[str]] = []
    await bench.sweep(lambda entries: calls.append([one.entry_id for one in entries]), HANDLER_BATCH="10")
    assert all(call == sorted(call) for call in calls)
    assert sorted(one for call in calls for one in call) == sorted(one.decode() for one in ids)


async def test_a_call_gets_no_more_than_two_megabytes_or_one_entry(bench: Bench) -> None:
    for size in (900_000, 900_000, 900_000, 2_500_000, 10):
        bench.scene.add("id", "x" * size)
    bench.scene.abandon()
    sizes: list[list[int]] = []
    report = await bench.sweep(
        lambda entries: sizes.append([len(one.text("id")) for one in entries]),
        HANDLER_BATCH="100",
        HANDLER_CONCURRENCY="1",
    )
    assert report.handled == 5
    assert all(sum(call) < 2_100_000 or len(call) == 1 for call in sizes)
    assert len(sizes) < 5


async def test_no_more_calls_are_under_way_than_slots_and_entries_are_claimed_only_for_a_free_one(bench: Bench) -> None:
    bench.abandon(20)
    go_on, lock, under_way, claimed = threading.Event(), threading.Lock(), [0], list[int]()

    def handler(entries: list[Entry]) -> None:
        with lock:
            under_way[0] += 1
            if under_way[0] == 3:
                go_on.set()
        go_on.wait(60)
        with lock:
            rows = bench.scene.raw.execute_command(
                "XPENDING", bench.scene.stream, bench.scene.group, "-", "+", 100, "janitor"
            )
            claimed.append(len(rows))
            under_way[0] -= 1

    report = await bench.sweep(handler, HANDLER_CONCURRENCY="3")
    assert report.handled == 20
    assert max(claimed) <= 3


async def test_more_than_a_page_is_handled(bench: Bench) -> None:
    bench.abandon(250)
    report = await bench.sweep(lambda entries: None, HANDLER_BATCH="30", PAGE_SIZE="100")
    assert (report.handled, report.complete, bench.scene.pending()) == (250, True, 0)


# --- attempts -------------------------------------------------------------------------------------------------------------


async def test_the_attempt_is_counted_before_the_code_runs(bench: Bench) -> None:
    bench.abandon()
    counted: list[int] = []

    def handler(entries: list[Entry]) -> None:
        counted.extend(int(row[3]) for row in bench.scene.pending_rows())

    await bench.sweep(handler)
    assert counted == [2]


async def test_an_outage_of_a_sink_dead_letters_nothing_however_long(bench: Bench) -> None:
    bench.abandon(3)
    is_away, calls = True, 0

    async def handler(entries: list[Entry]) -> None:
        nonlocal calls
        calls += 1
        if is_away:
            raise Unavailable("the database is down")

    janitor = bench.janitor(handler)
    for number in range(20):
        bench.make_due()
        report = await bench.tick(janitor)
        assert report.error == "the handler is unavailable: the database is down"
        assert (report.handled, report.dead_lettered) == (0, 0)
        assert {deliveries for _, _, deliveries in bench.rows().values()} == {1}
        if number:
            assert report.failed == 1, "one call was tried before any other"
    assert calls <= 3 + 19
    is_away = False
    bench.make_due()
    report = await bench.tick(janitor)
    assert (report.handled, report.error, bench.scene.pending()) == (3, None, 0)


async def test_unavailable_starts_no_further_call_in_this_sweep(bench: Bench) -> None:
    bench.abandon(50)
    calls = 0

    def handler(entries: list[Entry]) -> Unavailable:
        nonlocal calls
        calls += 1
        return Unavailable("down")

    report = await bench.sweep(handler, HANDLER_CONCURRENCY="2")
    assert calls <= 2
    assert report.failed == calls
    assert report.candidates == report.failed + report.retried <= 2
    assert not report.complete
    assert reasons(report)["failed: handler unavailable: down"] == calls
    assert {deliveries for _, _, deliveries in bench.rows().values()} == {1}


async def test_unavailable_for_a_while_is_due_after_it(bench: Bench) -> None:
    (entry_id,) = bench.abandon()
    await bench.sweep(lambda entries: Unavailable("down", after_s=4))
    assert MIN_IDLE_MS - 4_000 <= bench.rows()[entry_id][1] < MIN_IDLE_MS
    assert bench.rows()[entry_id][2] == 1


async def test_a_handler_that_cannot_be_opened_claims_nothing(bench: Bench) -> None:
    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Handler]:
        raise Unavailable("no route to the database")
        yield lambda entries: None

    bench.abandon(2)
    report = await bench.sweep(managed)
    assert (report.error, report.candidates) == ("the handler is unavailable: no route to the database", 0)
    assert {consumer for consumer, _, _ in bench.rows().values()} == {b"crashed"}


async def test_a_handler_that_is_not_there_is_said_by_its_setting(bench: Bench) -> None:
    bench.abandon()
    report = await bench.sweep(lambda entries: None)
    assert report.handled == 1
    bench.abandon()
    janitor = Janitor(bench.scene.settings(ACTION="handle", HANDLER="no_such_module_here:handle", INDEX_SCHEMA="off"))
    (report,) = await janitor.tick()
    await janitor.close()
    assert "HANDLER: there is no module 'no_such_module_here'" in str(report.error)
    assert report.candidates == 0


# --- time -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    go_on = threading.Event()
    yield go_on
    go_on.set()


async def test_a_call_past_its_timeout_is_an_attempt_and_this_process_leaves_its_entry_alone(
    bench: Bench, go_on: threading.Event
) -> None:
    (entry_id,) = bench.abandon()
    calls: list[int] = []

    def hangs(entries: list[Entry]) -> None:
        calls.append(1)
        go_on.wait(60)

    janitor = bench.janitor(hangs, HANDLER_TIMEOUT_SEC="0.2", SWEEP_BUDGET_SEC="3")
    report = await bench.tick(janitor)
    assert reasons(report) == {"failed: handler timed out after 0.2 s": 1}
    assert bench.rows()[entry_id][2] == 2
    bench.make_due()
    report = await bench.tick(janitor)
    assert reasons(report) == {"failed: a handler call of this process hangs with it": 1}
    assert (len(calls), bench.rows()[entry_id][2]) == (1, 2)
    assert bench.rows()[entry_id][1] >= 60_000, "its lease has ended: another process may have it"
    go_on.set()
    while janitor.runner is not None and janitor.runner.hung:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert bench.scene.pending() == 1, "its late result is dropped"


async def test_when_every_call_hangs_the_sweep_fails_and_says_so(bench: Bench, go_on: threading.Event) -> None:
    bench.abandon(6)

    def hangs(entries: list[Entry]) -> None:
        go_on.wait(60)

    janitor = bench.janitor(hangs, HANDLER_TIMEOUT_SEC="0.2", SWEEP_BUDGET_SEC="5", HANDLER_CONCURRENCY="2")
    report = await bench.tick(janitor)
    assert "every handler call hangs past HANDLER_TIMEOUT_SEC (HANDLER_CONCURRENCY=2)" in str(report.error)
    assert report.failed == 2
    assert {deliveries for _, _, deliveries in bench.rows().values()} == {1, 2}


async def test_no_call_starts_that_could_not_end_within_the_sweep(bench: Bench) -> None:
    bench.abandon(3)
    called: list[Entry] = []

    def slow(entries: list[Entry]) -> None:
        called.extend(entries)
        threading.Event().wait(0.6)

    report = await bench.sweep(slow, HANDLER_TIMEOUT_SEC="2", SWEEP_BUDGET_SEC="4", HANDLER_CONCURRENCY="1")
    assert (report.handled, report.complete, report.error) == (len(called), False, None)
    assert 1 <= len(called) <= 2
    assert sorted(deliveries for _, _, deliveries in bench.rows().values()) == [1] * (3 - len(called))


async def test_a_sweep_that_is_cancelled_while_it_waits_for_a_slot_loses_none(bench: Bench) -> None:
    bench.abandon(4)
    go_on = threading.Event()
    janitor = bench.janitor(lambda entries: go_on.wait(60) and None, HANDLER_CONCURRENCY="2")
    assert janitor.runner is not None
    taken = [await janitor.runner.take_slot(60) for _ in range(2)]
    tick = asyncio.create_task(janitor.tick())
    while len(janitor.runner._waiting) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for slot in taken:
        assert slot is not None
        slot.give_back()
    tick.cancel()  # in the same turn of the loop in which the slots are granted
    await asyncio.gather(tick, return_exceptions=True)
    go_on.set()
    again = [await janitor.runner.take_slot(60) for _ in range(2)]
    assert None not in again


async def test_what_is_in_hand_is_renewed_while_the_code_runs(bench: Bench, go_on: threading.Event) -> None:
    ids = bench.abandon(3)

    def slow(entries: list[Entry]) -> None:
        go_on.wait(60)

    janitor = bench.janitor(slow, MIN_IDLE_TIME_SEC="1", HANDLER_BATCH="3", SWEEP_BUDGET_SEC="15")
    tick = asyncio.create_task(bench.tick(janitor))
    while {row[2] for row in bench.rows().values()} != {2}:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    seen = wire(janitor)
    for _ in range(3):
        bench.scene.raw.execute_command(
            "XCLAIM",
            bench.scene.stream,
            bench.scene.group,
            "janitor",
            0,
            *ids,
            "IDLE",
            999_000,
            "RETRYCOUNT",
            2,
            "JUSTID",
        )
        while max(idle_ms for _, idle_ms, _ in bench.rows().values()) >= 999_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(seen.commands) >= 3
    assert len(seen.commands) == seen.round_trips, "all that is in hand in one round trip"
    go_on.set()
    assert (await tick).handled == 3


async def test_two_renewals_without_an_answer_do_no_harm(bench: Bench, go_on: threading.Event) -> None:
    """Each is given up when the next is due, long before the link's own timeout."""
    (entry_id,) = bench.abandon()
    janitor = bench.janitor(lambda entries: go_on.wait(60) and None, MIN_IDLE_TIME_SEC="4")
    tick = asyncio.create_task(bench.tick(janitor))
    while bench.rows()[entry_id][2] != 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    seen, silent, began_s = wire(janitor), 0, time.monotonic()

    async def silence(command: Command) -> None:
        nonlocal silent
        if "set" in command and silent < 2:
            silent += 1
            await asyncio.sleep(60)

    seen.before = silence
    while not seen.commands:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert silent == 2
    assert time.monotonic() - began_s < 12, "the third comes after 3 s; behind two timeouts of the link, after 13"
    go_on.set()
    assert (await tick).handled == 1


async def test_other_streams_go_on_while_a_handler_works(bench: Bench, raw: redis.Redis, server: RedisServer) -> None:
    """The first stream's handler waits for the second stream's: a turn at the server held by the first would never end."""
    other = new_scene(raw, server.environment)
    second_is_done = threading.Event()
    outcomes: list[bool] = []

    def first(entries: list[Entry]) -> None:
        outcomes.append(second_is_done.wait(60))

    def second(entries: list[Entry]) -> None:
        second_is_done.set()

    bench.abandon()
    other.add_tweets(1)
    other.abandon()
    for name, handler in (("first", first), ("second", second)):
        setattr(sys.modules[MODULE], name, handler)
    streams = [
        {"name": scene.stream, "group": scene.group, "handler": f"{MODULE}:{name}"}
        for scene, name in ((bench.scene, "first"), (other, "second"))
    ]
    environment = {**bench.scene.environment, "STREAM_NAME": "", "STREAMS": json.dumps(streams), "ACTION": "handle"}
    janitor = Janitor(
        Settings.from_env(environment | {"HANDLER_CONCURRENCY": "2", "CONCURRENCY": "1", "INDEX_SCHEMA": "off"})
    )
    reports = await janitor.tick()
    await janitor.close()
    for key in sorted(other.keys()):
        raw.execute_command("DEL", key)
    assert ([report.handled for report in reports], outcomes) == ([1, 1], [True])


async def test_a_rival_of_the_same_name_keeps_what_it_took(bench: Bench, go_on: threading.Event) -> None:
    """Our lease ended while we were held up; the rival's claim shows another delivery count."""
    (entry_id,) = bench.abandon()
    entered = threading.Event()

    def held_up(entries: list[Entry]) -> dict[str, object]:
        entered.set()
        go_on.wait(60)
        return {entries[0].entry_id: Dead("we would move it away from under the rival")}

    tick = asyncio.create_task(bench.sweep(held_up))
    while not entered.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    bench.scene.raw.execute_command(
        "XCLAIM", bench.scene.stream, bench.scene.group, "janitor", 0, entry_id, "IDLE", 5_000
    )
    go_on.set()
    report = await tick
    assert (report.lost_race, report.dead_lettered, bench.scene.dead_letters()) == (1, 0, [])
    assert bench.rows()[entry_id][1] >= 5_000


# --- rights and settings --------------------------------------------------------------------------------------------------


async def test_without_evalsha_it_is_refused_by_name(bench: Bench, raw: redis.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "no_scripts", "on", ">pw", "~*", "&*", "+@all", "-evalsha")
    try:
        bench.abandon()
        report = await bench.sweep(lambda entries: None, REDIS_USERNAME="no_scripts", REDIS_PASSWORD="pw")
    finally:
        raw.execute_command("ACL", "DELUSER", "no_scripts")
    assert "ACTION=handle needs scripts" in str(report.error)
    assert report.candidates == 0
    assert {consumer for consumer, _, _ in bench.rows().values()} == {b"crashed"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"HANDLER": ""}, "HANDLER is missing: ACTION=handle calls it"),
        ({"HANDLER": "billing"}, "HANDLER: expected module:name"),
        ({"HANDLER": "webhook"}, "HANDLER_URL is missing: HANDLER=webhook needs it; HANDLER_SECRET is missing"),
        ({"HANDLER": "sql"}, "SQL_TABLE is missing: HANDLER=sql needs it; SQL_COLUMNS is missing"),
        ({"HANDLER_PATH": "/no/such/folder"}, "HANDLER_PATH: there is no such folder"),
        ({"HANDLER_TIMEOUT_SEC": "13.5"}, "HANDLER_TIMEOUT_SEC: must be at most SWEEP_BUDGET_SEC - 2, which is 13 s"),
        ({"HANDLER_BATCH": "501"}, "HANDLER_BATCH: expected a whole number from 1 to 500"),
        ({"HANDLER_CONCURRENCY": "0"}, "HANDLER_CONCURRENCY: expected a whole number from 1 to 64"),
        ({"MIN_IDLE_TIME_SEC": "0"}, "MIN_IDLE_TIME_SEC: must be above 0 for ACTION=handle"),
    ],
)
def test_what_cannot_be_is_refused_by_its_setting(scene: Scene, changes: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        scene.settings(**{"ACTION": "handle", "HANDLER": "billing:handle", **changes})
    assert words in str(refused.value)


def test_the_timeout_is_half_of_the_budget_unless_it_is_set(scene: Scene) -> None:
    def timeout_s(**changes: str) -> float:
        return scene.settings(ACTION="handle", HANDLER="a:b", **changes).streams[0].handler_timeout_ms / 1000

    assert (timeout_s(), timeout_s(SWEEP_BUDGET_SEC="10"), timeout_s(HANDLER_TIMEOUT_SEC="13")) == (7.5, 5.0, 13.0)


def test_secrets_are_in_no_repr(scene: Scene) -> None:
    settings = scene.settings(
        ACTION="handle", HANDLER="webhook", HANDLER_URL="https://kanarie/", HANDLER_SECRET="kanarie"
    )
    assert "kanarie" not in repr(settings)
